"""What a reader can narrow a board down by: clips (all, seen, unseen, one vocoder), what an explainer needs, and what it costs.

The table itself is written for all clips; the other slices travel beside it as data, from which the script fills the main column again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xaibench.leaderboard.pages import short
from xaibench.leaderboard.rows import Board, Row, Run, Score, interval, number
from xaibench.leaderboard.views import Leaderboard, forest, option, part_title

ACCESS = (
    ("", "any access"),
    ("gradients", "no gradients needed"),
    ("logits", "detector never asked"),
)
"""Choices of access: the value names the need that a row must not have; who needs gradients asks the detector, too."""
COSTS = (("", "any cost"), ("0.1", "under 0.1 s a clip"), ("1", "under 1 s a clip"), ("10", "under 10 s a clip"))


@dataclass(frozen=True)
class Facets:
    """Choices of one table, and the data behind them."""

    parts: tuple[tuple[str, str], ...]
    """Slices with a score, as (name, title), ``all`` first."""
    access: tuple[tuple[str, str], ...]
    costs: tuple[tuple[str, str], ...]
    rows: Mapping[str, Any]
    """By explainer: needs, seconds, forwards, and by slice what its main cell shows."""


def facets(run: Run, board: Board, view: Leaderboard) -> Facets:
    """Collect the choices of a table."""
    parts = [part for part in board.slices if any(board.main(row, view.recipe, part=part) for row in board.rows)]
    rows = {short(row.explainer, 600): _row(run, board, row, view, parts) for row in board.rows}
    timed = any(row["seconds"] is not None for row in rows.values())
    return Facets(tuple((part, "all clips" if part == "all" else part_title(part)) for part in parts), ACCESS, COSTS if timed else (), rows)


def _row(run: Run, board: Board, row: Row, view: Leaderboard, parts: list[str]) -> dict[str, Any]:
    needs = option(run.manifest, "explainers", row.explainer, "needs")
    seconds, forwards = row.score("seconds"), row.score("forwards")
    return {
        "needs": [str(n) for n in needs] if isinstance(needs, list) else [],
        "seconds": seconds.mean if seconds else None,
        "forwards": forwards.mean if forwards else None,
        "parts": {part: _cell(board.main(row, view.recipe, part=part), view.limit, board.primary.name) for part in parts},
    }


def _cell(score: Score | None, limit: float, name: str) -> dict[str, Any] | None:
    if score is None or score.mean is None:
        return None
    drawn = forest(score, limit)
    return {
        "text": number(score.mean, name),
        "under": interval(score, name),
        "sort": f"{score.mean:.6g}",
        "n": f"{score.n}/{score.n_total}",
        "tier": score.tier,
        "x": [drawn.low, drawn.x, drawn.high] if drawn and not drawn.beyond else None,
    }
