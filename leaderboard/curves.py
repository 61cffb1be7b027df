"""Faithfulness curves as coordinates: the detector's log-odds against the share of cells that were taken away or put back."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xaibench.leaderboard.rows import Board, Group, Row

WIDTH, HEIGHT = 460.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 8.0, 10.0, 30.0
ORDERS = {
    "most_first_deletion": "Deletion: strongest cells taken away first",
    "most_first_insertion": "Insertion: strongest cells put back first",
}
COLOURS = 8


@dataclass(frozen=True)
class Curve:
    """One explainer's mean curve as the ``points`` of an SVG polyline."""

    row: Row
    css: str
    points: str
    greyed: bool
    """Whether the occluder leaves what the detector knows in this row."""


@dataclass(frozen=True)
class Plot:
    """All curves of one occluder and order."""

    occluder: str
    title: str
    clips: int
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]

    @property
    def n_greyed(self) -> int:
        """Curves that are drawn grey."""
        return sum(curve.greyed for curve in self.curves)


Lines = dict[str, tuple[list[float], list[float]]]


def read_curves(run_dir: Path) -> list[dict[str, Any]]:
    """Read ``curves.parquet``; an empty list where the run measured none."""
    path = run_dir / "curves.parquet"
    if not path.is_file():
        return []
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(path).read()
    records: list[dict[str, Any]] = table.to_pylist()
    return records


def plots(records: Iterable[Mapping[str, Any]], board: Board, recipe: str) -> list[Plot]:
    """Average the curves of a board over its clips, one plot for each occluder and order."""
    mine = [
        r for r in records if r["task"] == board.task and r["detector"] == board.detector and r.get("polarity", "declared") == "declared"
    ]
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in mine:
        if record["order"] in ORDERS:
            found.setdefault((record["occluder"], record["order"]), []).append(record)
    places = {o: i for i, o in enumerate(board.occluders)}
    order = sorted(found, key=lambda key: (places.get(key[0], 99), key[0], list(ORDERS).index(key[1])))
    return [_plot(key, found[key], board, recipe) for key in order]


def _plot(key: tuple[str, str], records: list[Mapping[str, Any]], board: Board, recipe: str) -> Plot:
    clips = len({r["pair"] for r in records})
    return draw(_means(records), board, recipe, occluder=key[0], title=ORDERS[key[1]], clips=clips)


def draw(means: Lines, board: Board, recipe: str, *, occluder: str, title: str, clips: int, upto: float = 1.0) -> Plot:
    """Lay out one line for each row of a board.

    Args:
        means: Abscissas, shares of the cells, and ordinates by explainer.
        board: The board.
        recipe: Whose ranking gives the colours.
        occluder: What replaced the cells.
        title: Of the plot.
        clips: How many were averaged.
        upto: Share of the cells at the right edge.
    """
    values = [y for _, ys in means.values() for y in ys]
    low, high = min(values, default=0.0), max(values, default=1.0)
    step = round_step(high - low)
    low, high = math.floor(low / step) * step, max(math.ceil(high / step) * step, math.floor(low / step) * step + step)

    def place(x: float, y: float) -> str:
        return f"{LEFT + x / upto * (WIDTH - LEFT - RIGHT):.1f},{TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    floor = board.floor(recipe)
    order: tuple[Group, ...] = ("control", "oracle", "explainer")
    ranked = [row for group in order for row in board.ranked(group, recipe)]
    colours = {row.explainer: i % COLOURS for i, row in enumerate(board.ranked("explainer", recipe))}
    curves = []
    for row in ranked:
        if row.explainer in means:
            css = f"c{colours[row.explainer]}" if row.explainer in colours else row.group
            css = "floorline" if floor and row.explainer == floor[0].explainer else css
            points = " ".join(place(x, y) for x, y in zip(*means[row.explainer], strict=True))
            curves.append(Curve(row, css, points, row.leaves_range(occluder)))
    n_ticks = round((high - low) / step)
    y_ticks = tuple((float(place(0, low + i * step).split(",")[1]), f"{low + i * step:g}".replace("-", "−")) for i in range(n_ticks + 1))
    x_ticks = tuple((LEFT + x * (WIDTH - LEFT - RIGHT), f"{100 * upto * x:g} %") for x in (0, 0.25, 0.5, 0.75, 1))
    return Plot(occluder, title, clips, tuple(curves), x_ticks, y_ticks)


def _means(records: list[Mapping[str, Any]]) -> Lines:
    """Average log-odds at each fraction over clips; curves of another length than the first are left to their own explainer's mean."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["explainer"], []).append(record)
    means = {}
    for name, group in groups.items():
        fractions = [float(x) for x in group[0]["fractions"]]
        same = [r["log_odds"] for r in group if len(r["log_odds"]) == len(fractions)]
        columns = [[float(y) for y in column if y is not None and math.isfinite(y)] for column in zip(*same, strict=True)]
        kept = [(x, sum(column) / len(column)) for x, column in zip(fractions, columns, strict=True) if column]
        if kept:
            means[name] = ([x for x, _ in kept], [y for _, y in kept])
    return means


def round_step(span: float) -> float:
    """Choose a round tick distance that gives three to six ticks."""
    raw = max(span, 1e-6) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    return float(next(power * m for m in (1, 2, 5, 10) if power * m >= raw))
