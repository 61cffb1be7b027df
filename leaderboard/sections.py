"""One section of the index: everything that the page says about one task and detector, as plain values for the template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xaibench.benchmark.suite import SUITES
from xaibench.leaderboard import notes
from xaibench.leaderboard.album import Card
from xaibench.leaderboard.areas import area_plots
from xaibench.leaderboard.curves import Plot, plots
from xaibench.leaderboard.facets import Facets, facets
from xaibench.leaderboard.rows import Board, Row, Run, Score, number
from xaibench.leaderboard.tradeoff import Tradeoff, tradeoffs
from xaibench.leaderboard.truths import causal_matrix, causal_quality, sanity_matrix
from xaibench.leaderboard.views import Leaderboard, Matrix, by_occluder, by_vocoder, headline, leaderboard


@dataclass(frozen=True)
class Figure:
    """One of the large numbers above a table."""

    kind: str
    title: str
    value: str
    text: str


@dataclass(frozen=True)
class Section:
    """Everything that the page says about one task and detector."""

    number: int
    board: Board
    recipe: str
    headline: str
    n_explainers: int
    n_clips: int
    clusters: str
    gate: str
    few: str
    few_curves: str
    figures: tuple[Figure, ...]
    views: tuple[Leaderboard, ...]
    facets: tuple[Facets, ...]
    """One for each view."""
    vocoders: Matrix | None
    plots: tuple[Plot, ...]
    areas: tuple[Plot, ...]
    tradeoffs: tuple[Tradeoff, ...]
    colours: tuple[tuple[Row, str], ...]
    occluders: Matrix | None
    causal: Matrix | None
    sanity: Matrix | None
    causal_quality: tuple[str, ...]
    leader: str
    samples: tuple[Card, ...]
    why_no_samples: str


def section(run: Run, board: Board, at: int, curves: Sequence[Mapping[str, Any]], cards: tuple[Card, ...], why: str) -> Section:
    """Lay out a board.

    Args:
        run: The run.
        board: The board.
        at: Its number on the page.
        curves: Records of ``read_curves``.
        cards: Sample pages of the board.
        why: Why there are none, where there are none.
    """
    recipe = board.recipes[0] if board.recipes else ""
    detector = _detector_record(run, board)
    scores = [s for row in board.rows if (s := board.main(row, recipe))]
    most = max(scores, key=lambda s: s.n_total, default=Score())
    drawn = tuple(plots(curves, board, recipe))
    css = {curve.row.explainer: curve.css for plot in drawn for curve in plot.curves}
    leader = board.leader(recipe) or board.floor(recipe)
    views = tuple(leaderboard(board, r) for r in board.recipes or ("",))
    return Section(
        number=at,
        board=board,
        recipe=recipe,
        headline=headline(board, recipe),
        n_explainers=len(board.ranked("explainer", recipe)),
        n_clips=most.n_total,
        clusters=notes.clusters(most),
        gate=" ".join(filter(None, (notes.gate(detector), notes.resolution(board, recipe)))),
        few=notes.few(most.n_total, detector),
        few_curves=notes.few_curves(detector, str(run.summary.get("tier", ""))),
        figures=_figures(board, recipe),
        views=views,
        facets=tuple(facets(run, board, view) for view in views),
        vocoders=by_vocoder(board, recipe),
        plots=drawn,
        areas=tuple(area_plots(board, recipe, _first_area(run))),
        tradeoffs=tuple(tradeoffs(board, recipe)),
        colours=tuple((row, css[row.explainer]) for row in board.ranked("explainer", recipe) if row.explainer in css),
        occluders=by_occluder(board, recipe),
        causal=causal_matrix(board),
        sanity=sanity_matrix(board),
        causal_quality=tuple(causal_quality(board)),
        leader=leader[0].title if leader else "",
        samples=cards,
        why_no_samples=why,
    )


def _first_area(run: Run) -> float | None:
    """Return the area budget of the columns without a suffix, which a suite of the user's own does not tell."""
    suite = SUITES.get(str(run.summary.get("suite", "")))
    return suite.area_budgets[0] if suite else None


def _detector_record(run: Run, board: Board) -> Mapping[str, Any]:
    for record in run.summary.get("detectors", []):
        if (
            isinstance(record, dict)
            and record.get("detector", record.get("name")) == board.detector
            and record.get("task", board.task) == board.task
        ):
            return record
    return {}


def _figures(board: Board, recipe: str) -> tuple[Figure, ...]:
    found, known, short = [], board.primary, board.unit
    for kind, title, best in (
        ("lead", "Best explainer", board.leader(recipe)),
        ("floor", "Floor: best control", board.floor(recipe)),
        ("ceiling", "Ceiling: best oracle", board.ceiling(recipe)),
    ):
        if best:
            found.append(Figure(kind, f"{title}, {short}", number(best[1].mean, known.name), best[0].title))
    found.append(Figure("chance", f"Chance, {short}", number(known.chance, known.name), known.chance_text))
    return tuple(found)
