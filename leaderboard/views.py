"""What the templates draw: tables, forest plots and curves as plain values and coordinates, so that templates hold no arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xaibench.leaderboard.rows import Board, Group, Row, Score, interval, number, verdict
from xaibench.leaderboard.words import CORRECTED, metric

MAIN = (
    CORRECTED,
    "|map|",
    "time_average_precision",
    "average_precision",
    "auroc",
    "stratified_auc",
    "pointing_game",
    "relevance_mass",
    "iou",
)
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
    short: str
    """Of the primary score."""
    title: str
    n_columns: int = field(default=0)
    limit: float = 1.0
    """Where the axis of the intervals ends."""

    @property
    def greyed(self) -> bool:
        """Whether a score is greyed because its occluder leaves what the detector knows."""
        return any("out" in cell.css.split() for _, _, lines in self.groups for line in lines for cell in line.cells)


def leaderboard(board: Board, recipe: str) -> Leaderboard:
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
    words = metric(board.primary.name)
    axis, heads = _axis(board, recipe, limit), (words.short, words.title)
    return Leaderboard(recipe, columns, tuple(spans.items()), axis, tuple(groups), *heads, len(columns) + 5, limit)


def _columns(board: Board, recipe: str, occluder: str) -> tuple[Column, ...]:
    found: list[Column] = []
    main = MAIN if metric(board.primary.name).group == "localization" else ()
    curves = tuple(name for name in CURVES if name != board.primary.name)
    families = (("Localisation", main), ("Faithfulness, " + occluder.replace("_", " "), curves), ("Cost", COST))
    for group, names in families:
        first = True
        for name in names:
            if name == "|map|":
                measured = any(board.main(row, recipe, polarity="magnitude") for row in board.rows)
                title = f"{board.unit} of the heatmap without its sign"
                column = Column(name, "|map|", title, group, first, better="high")
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
    score, name = board.main(row, recipe) or Score(), board.primary.name
    return Line(
        row=row,
        tier=score.tier,
        bracket=_bracket(row, rows, board, recipe),
        main=Cell(number(score.mean, name), _sort(score.mean), metric(name).short, interval(score, name)),
        forest=forest(score, limit),
        cells=tuple(_cell(row, column, board, recipe, occluder) for column in columns),
        n=Cell(f"{score.n}/{score.n_total}", str(score.n), "clips"),
        verdict=verdict(row, board, recipe),
        good=score.beats_best_control,
        failures=_failures(score) if row.group == "explainer" else "",
    )


def _bracket(row: Row, rows: Sequence[Row], board: Board, recipe: str) -> str:
    """Name the part of the tier bracket that this row draws: opens, closes, both or nothing."""
    tiers = [(board.main(r, recipe) or Score()).tier for r in rows]
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


def _cell(row: Row, column: Column, board: Board, recipe: str, occluder: str) -> Cell:
    unsigned = column.key == "|map|"
    name = board.primary.name if unsigned else column.key
    where = {"recipe": recipe, "occluder": occluder if name in CURVES else ""}
    score = board.main(row, recipe, polarity="magnitude") if unsigned else row.score(name, **where)
    mean = score.mean if score else None
    out = mean is not None and name in CURVES and row.leaves_range(occluder)
    css = " ".join(word for word, on in (("first", column.first), ("void", mean is None), ("out", out)) if on)
    return Cell(number(mean, name), _sort(mean), column.short, css=css)


def _sort(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _limit(board: Board, recipe: str) -> float:
    """End of the axis, which begins at 0: all but the oracles fit. Shares go in steps of .1 and at least to .3, others to a 1, 2 or 5."""
    tops = [s.high or s.mean or 0.0 for row in board.rows if row.group != "oracle" and (s := board.main(row, recipe))]
    top = max(tops, default=0.0)
    if metric(board.primary.name).scale == 100:
        return min(1.0, max(0.3, math.ceil(top * 10.5) / 10))
    power = 10.0 ** math.floor(math.log10(max(top, 0.01)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= top)


def forest(score: Score, limit: float) -> Forest | None:
    """Place a mean and its interval on an axis that ends at ``limit``; ``None`` where there is no mean."""
    if score.mean is None:
        return None

    def at(value: float) -> float:
        return round(2 + 96 * min(max(value / limit, 0.0), 1.0), 2)

    low = score.low if score.low is not None else score.mean
    high = score.high if score.high is not None else score.mean
    return Forest(at(score.mean), at(low), at(high), score.mean > limit)


def _axis(board: Board, recipe: str, limit: float) -> Axis:
    def at(value: float | None) -> float | None:
        return None if value is None or value > limit + 1e-9 else round(2 + 96 * value / limit, 2)

    known, scale = board.primary, metric(board.primary.name).scale
    step = limit / 5 if scale != 100 else 0.1 if limit <= 0.6 else 0.2
    ticks = tuple((at(step * i) or 0.0, f"{scale * step * i:.3g}") for i in range(int(limit / step + 1e-6) + 1))
    floor, ceiling = board.floor(recipe), board.ceiling(recipe)
    chance = at(known.chance) if known.chance else None
    return Axis(ticks, chance, at(floor[1].mean) if floor else None, at(ceiling[1].mean) if ceiling else None, at(known.dead))


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


def by_vocoder(board: Board, recipe: str, name: str = "") -> Matrix | None:
    """Lay out a metric, by default the primary one, by vocoder, tinted by size; ``None`` where there is only a mean."""
    occluder, name = "" if name else board.place, name or board.primary.name
    where = {"recipe": recipe, "occluder": occluder}
    parts = [part for part in board.slices if part == "all" or any(row.score(name, part=part, **where) for row in board.rows)]
    if len(parts) < 2:
        return None
    competing = [row for row in board.rows if row.group != "oracle"]
    means = [s.mean for row in competing for part in parts if (s := row.score(name, part=part, **where)) and s.mean is not None]
    low, high = min(means, default=0.0), max(means, default=1.0)

    def cell(row: Row, part: str) -> Cell:
        score = row.score(name, part=part, **where) or Score()
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
    rows = [(row, board.main(row, recipe)) for row in board.ranked("explainer", recipe)]
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
