"""What the templates draw: tables, forest plots and curves as plain values and coordinates, so that templates hold no arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xaibench.leaderboard.rows import Board, Group, Row, Score, interval, number, verdict
from xaibench.leaderboard.words import CORRECTED, MEANINGLESS_ABOVE, PRIMARY, metric

MAIN = (CORRECTED, "|map|", "average_precision", "auroc", "stratified_auc", "pointing_game", "relevance_mass", "iou")
CURVES = ("deletion", "insertion", "srg")
COST = ("seconds", "forwards", "backwards", "peak_rss_mb")
OPTIONAL = {"relevance_mass", "iou", "backwards", "peak_rss_mb"}
"""Columns that the script folds away at first; without it they are shown."""
GROUPS: tuple[tuple[Group, str], ...] = (
    ("oracle", "Ceiling: oracles see the real twin and compete with nobody"),
    ("explainer", "Explainers"),
    ("control", "Floor: controls know nothing of the detector"),
)


@dataclass(frozen=True)
class Column:
    """One column of numbers."""

    key: str
    short: str
    title: str
    group: str
    first: bool = False
    optional: bool = False
    better: str = ""
    """``high`` or ``low``."""


@dataclass(frozen=True)
class Cell:
    """One number; ``sort`` is empty where there is none."""

    text: str
    sort: str
    label: str
    under: str = ""
    css: str = ""


@dataclass(frozen=True)
class Forest:
    """A mean and its interval on the common axis, 0..100 from left to right; ``beyond`` where the axis ends before it."""

    x: float
    low: float
    high: float
    beyond: bool


@dataclass(frozen=True)
class Line:
    """One row of the leaderboard as drawn."""

    row: Row
    tier: int | None
    bracket: str
    main: Cell
    forest: Forest | None
    cells: tuple[Cell, ...]
    n: Cell
    verdict: str
    good: bool | None
    failures: str


@dataclass(frozen=True)
class Axis:
    """Axis of the forest plot in percent of its width."""

    ticks: tuple[tuple[float, str], ...]
    chance: float | None
    floor: float | None
    ceiling: float | None
    dead: float | None


@dataclass(frozen=True)
class Leaderboard:
    """The table of one board and recipe."""

    recipe: str
    columns: tuple[Column, ...]
    spans: tuple[tuple[str, int], ...]
    axis: Axis
    groups: tuple[tuple[Group, str, tuple[Line, ...]], ...]
    n_columns: int = field(default=0)
    limit: float = 1.0
    """Where the axis of the intervals ends."""

    @property
    def greyed(self) -> bool:
        """Whether a score is greyed because its occluder leaves what the detector knows."""
        return any("out" in cell.css.split() for _, _, lines in self.groups for line in lines for cell in line.cells)


def leaderboard(board: Board, recipe: str, chance: float | None) -> Leaderboard:
    """Lay out the main table of a recipe."""
    occluder = board.occluders[0] if board.occluders else ""
    columns = _columns(board, recipe, occluder)
    limit = _limit(board, recipe)
    groups = []
    for group, heading in GROUPS:
        rows = board.ranked(group, recipe)
        if rows:
            groups.append((group, heading, tuple(_line(row, rows, board, recipe, columns, occluder, limit) for row in rows)))
    spans: dict[str, int] = {}
    for column in columns:
        spans[column.group] = spans.get(column.group, 0) + 1
    return Leaderboard(recipe, columns, tuple(spans.items()), _axis(board, recipe, limit, chance), tuple(groups), len(columns) + 5, limit)


def _columns(board: Board, recipe: str, occluder: str) -> tuple[Column, ...]:
    found: list[Column] = []
    families = (("Localisation", MAIN), ("Faithfulness, " + occluder.replace("_", " "), CURVES), ("Cost", COST))
    for group, names in families:
        first = True
        for name in names:
            if name == "|map|":
                measured = any(row.score(PRIMARY, recipe=recipe, polarity="magnitude") for row in board.rows)
                column = Column(name, "|map|", "GDice of the heatmap without its sign", group, first, better="high")
            else:
                where = {"recipe": recipe, "occluder": occluder if name in CURVES else ""}
                measured = any((s := row.score(name, **where)) and s.mean is not None for row in board.rows)
                words = metric(name)
                better = "high" if words.higher_is_better else "low"
                column = Column(name, words.short, words.title, group, first, name in OPTIONAL, better)
            if measured:
                found.append(column)
                first = False
    return tuple(found)


def _line(row: Row, rows: Sequence[Row], board: Board, recipe: str, columns: Sequence[Column], occluder: str, limit: float) -> Line:
    score = row.score(PRIMARY, recipe=recipe) or Score()
    return Line(
        row=row,
        tier=score.tier,
        bracket=_bracket(row, rows, recipe),
        main=Cell(number(score.mean), _sort(score.mean), "GDice", interval(score)),
        forest=forest(score, limit),
        cells=tuple(_cell(row, column, recipe, occluder) for column in columns),
        n=Cell(f"{score.n}/{score.n_total}", str(score.n), "clips"),
        verdict=verdict(row, board, recipe),
        good=score.beats_best_control,
        failures=_failures(score) if row.group == "explainer" else "",
    )


def _bracket(row: Row, rows: Sequence[Row], recipe: str) -> str:
    """Name the part of the tier bracket that this row draws: opens, closes, both or nothing."""
    tiers = [(r.score(PRIMARY, recipe=recipe) or Score()).tier for r in rows]
    at = rows.index(row)
    if tiers[at] is None:
        return "none"
    opens = at == 0 or tiers[at - 1] != tiers[at]
    closes = at == len(rows) - 1 or tiers[at + 1] != tiers[at]
    return " ".join(part for part, on in (("opens", opens), ("closes", closes)) if on) or "goes-on"


def _failures(score: Score) -> str:
    parts = []
    if score.n_failed:
        parts.append(f"{score.n_failed} failed, counted as the lowest control")
    if score.n_undefined:
        parts.append(f"{score.n_undefined} undefined")
    if score.note:
        parts.append(score.note)
    return "; ".join(parts)


def _cell(row: Row, column: Column, recipe: str, occluder: str) -> Cell:
    name = PRIMARY if column.key == "|map|" else column.key
    polarity = "magnitude" if column.key == "|map|" else "declared"
    score = row.score(name, recipe=recipe, polarity=polarity, occluder=occluder if name in CURVES else "")
    mean = score.mean if score else None
    out = mean is not None and name in CURVES and row.leaves_range(occluder)
    css = " ".join(word for word, on in (("first", column.first), ("void", mean is None), ("out", out)) if on)
    return Cell(number(mean, name), _sort(mean), column.short, css=css)


def _sort(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _limit(board: Board, recipe: str) -> float:
    """End of the axis: all but the oracles fit, in steps of .1, at least to .3."""
    tops = [s.high or s.mean or 0.0 for row in board.rows if row.group != "oracle" and (s := row.score(PRIMARY, recipe=recipe))]
    return min(1.0, max(0.3, math.ceil(max(tops, default=0.0) * 10.5) / 10))


def forest(score: Score, limit: float) -> Forest | None:
    """Place a mean and its interval on an axis that ends at ``limit``; ``None`` where there is no mean."""
    if score.mean is None:
        return None

    def at(value: float) -> float:
        return round(2 + 96 * min(max(value / limit, 0.0), 1.0), 2)

    low = score.low if score.low is not None else score.mean
    high = score.high if score.high is not None else score.mean
    return Forest(at(score.mean), at(low), at(high), score.mean > limit)


def _axis(board: Board, recipe: str, limit: float, chance: float | None) -> Axis:
    def at(value: float | None) -> float | None:
        return None if value is None or value > limit + 1e-9 else round(2 + 96 * value / limit, 2)

    step = 0.1 if limit <= 0.6 else 0.2
    ticks = tuple((at(step * i) or 0.0, f"{100 * step * i:.0f}") for i in range(int(limit / step + 1e-6) + 1))
    floor, ceiling = board.floor(recipe), board.ceiling(recipe)
    return Axis(ticks, at(chance), at(floor[1].mean) if floor else None, at(ceiling[1].mean) if ceiling else None, at(MEANINGLESS_ABOVE))


@dataclass(frozen=True)
class Matrix:
    """A table of one metric: rows explainers, columns slices or occluders."""

    title: str
    name: str
    headings: tuple[tuple[str, str], ...]
    groups: tuple[tuple[Group, tuple[tuple[Row, tuple[Cell, ...]], ...]], ...]

    @property
    def greyed(self) -> bool:
        """Whether a score is greyed because its occluder leaves what the detector knows."""
        return any("out" in cell.css.split() for _, rows in self.groups for _, cells in rows for cell in cells)


def by_vocoder(board: Board, recipe: str, name: str = PRIMARY) -> Matrix | None:
    """Lay out a metric by vocoder, tinted between its least and largest value; ``None`` where only the mean was measured."""
    parts = [part for part in board.slices if part == "all" or any(row.score(name, recipe=recipe, part=part) for row in board.rows)]
    if len(parts) < 2:
        return None
    competing = [row for row in board.rows if row.group != "oracle"]
    means = [s.mean for row in competing for part in parts if (s := row.score(name, recipe=recipe, part=part)) and s.mean is not None]
    low, high = min(means, default=0.0), max(means, default=1.0)

    def cell(row: Row, part: str) -> Cell:
        score = row.score(name, recipe=recipe, part=part) or Score()
        if score.mean is None:
            return Cell("–", "", part, css="void")
        level = 1 + min(7, int(8 * (score.mean - low) / max(high - low, 1e-9)))
        css = f"tint-{level}" if row.group != "oracle" else ""
        over = row.group == "explainer" and score.beats_best_control is True
        return Cell(number(score.mean, name), _sort(score.mean), part, f"n {score.n}", f"{css} over" if over else css)

    groups = tuple((g, tuple((row, tuple(cell(row, part) for part in parts)) for row in board.ranked(g, recipe))) for g, _ in GROUPS[1:])
    return Matrix(metric(name).title, name, tuple((part, part_title(part)) for part in parts), groups)


def part_title(part: str) -> str:
    """Put a slice into words."""
    return {"all": "all", "seen": "seen in training", "unseen": "never seen"}.get(part, part.removeprefix("vocoder:"))


def by_occluder(board: Board, recipe: str) -> Matrix | None:
    """Lay out deletion, insertion and SRG for every occluder; ``None`` where no curve was measured."""
    names = [(o, m) for o in board.occluders for m in CURVES if any(r.score(m, recipe=recipe, occluder=o) for r in board.rows)]
    if not names:
        return None

    def cell(row: Row, occluder: str, name: str) -> Cell:
        score = row.score(name, recipe=recipe, occluder=occluder) or Score()
        css = "out" if score.mean is not None and row.leaves_range(occluder) else ""
        return Cell(number(score.mean, name), _sort(score.mean), f"{metric(name).short}, {occluder}", interval(score, name), css)

    groups = tuple((g, tuple((row, tuple(cell(row, *n) for n in names)) for row in board.ranked(g, recipe))) for g, _ in GROUPS)
    return Matrix("Faithfulness", "", tuple((f"{o}/{m}", f"{metric(m).short}, {o.replace('_', ' ')}") for o, m in names), groups)


def headline(board: Board, recipe: str) -> str:
    """Say in one sentence what the board found."""
    rows = [(row, row.score(PRIMARY, recipe=recipe)) for row in board.ranked("explainer", recipe)]
    judged = [(row, s) for row, s in rows if s is not None and s.beats_best_control is not None]
    winners = [row.title for row, s in judged if s.beats_best_control]
    if not rows:
        return "Only controls were measured."
    if not judged:
        return "Too little was measured to compare an explainer with the controls."
    if not winners:
        return (
            "The explainer does not beat the best control."
            if len(judged) == 1
            else f"None of {len(judged)} explainers beats the best control."
        )
    if len(judged) == 1:
        return f"{winners[0]} beats every control."
    if len(winners) == 1:
        return f"One of {len(judged)} explainers beats every control: {winners[0]}."
    return f"{len(winners)} of {len(judged)} explainers beat every control, {winners[0]} foremost."


def option(manifest: Any, *path: str) -> Any:
    """Look up a nested value of outside JSON, ``None`` where any step is missing."""
    for key in path:
        manifest = manifest.get(key) if isinstance(manifest, dict) else None
    return manifest
