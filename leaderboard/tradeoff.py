"""Two scores against each other: localisation against faithfulness, and quality against cost, each with its Pareto front.

The front holds the explainers that no other explainer beats in both directions. Controls and oracles are drawn and never on it: what knows
nothing, or is handed the twin, is no choice that anyone has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xaibench.leaderboard.rows import Board, Row, number
from xaibench.leaderboard.words import metric

WIDTH, HEIGHT = 460.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 14.0, 44.0
ROOM = 13.0
"""Least distance of two labels, in drawing units."""


@dataclass(frozen=True)
class Mark:
    """One row as drawn."""

    row: Row
    x: float
    y: float
    css: str
    label_x: float
    label_y: float
    anchor: str
    labelled: bool
    text: str
    """Both values in words."""


@dataclass(frozen=True)
class Tradeoff:
    """One scatter plot."""

    key: str
    title: str
    text: str
    x_title: str
    y_title: str
    marks: tuple[Mark, ...]
    front: str
    """``points`` of the front's line."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def tradeoffs(board: Board, recipe: str) -> list[Tradeoff]:
    """Draw what the board measured: faithfulness where curves were, seconds and forward passes where costs were."""
    occluder = board.occluders[0] if board.occluders else ""
    wanted = (
        (
            "faithfulness",
            "srg",
            "Localisation against faithfulness",
            "Right about the artifact, or right about the detector? The two are different questions; only the upper right answers both.",
        ),
        ("seconds", "seconds", "Quality against time", "What a score costs on this machine; up and to the left is better."),
        ("forwards", "forwards", "Quality against detector calls", "The same cost on every machine: how often the detector was asked."),
    )
    found = []
    for key, name, title, text in wanted:
        where = occluder if metric(name).group == "faithfulness" else ""
        plot = _plot(board, recipe, (key, name, title, text), where)
        if plot is not None:
            found.append(plot)
    return found


def _plot(board: Board, recipe: str, words: tuple[str, str, str, str], occluder: str) -> Tradeoff | None:
    key, name, title, text = words
    words_of = metric(board.primary.name)
    scale = words_of.scale
    if name == words_of.name:
        return None
    cost = not metric(name).higher_is_better
    points = []
    for row in board.rows:
        quality, other = board.main(row, recipe), row.score(name, recipe=recipe, occluder=occluder)
        if quality and other and quality.mean is not None and other.mean is not None and row.group != "oracle":
            points.append((row, other.mean, quality.mean))
    if sum(row.group == "explainer" for row, _, _ in points) < 1 or len(points) < 3:
        return None
    xs, ys = [x for _, x, _ in points], [scale * y for _, _, y in points]
    across = _Log(xs) if cost else _Linear(xs, LEFT, WIDTH - RIGHT)
    up = _Linear([*ys, 0.0], HEIGHT - BOTTOM, TOP)
    front = pareto([(row.explainer, -x if cost else x, y) for row, x, y in points if row.group == "explainer" and row.competes])
    placed = [(row, across.at(x), up.at(scale * y), _words(row, (name, x), (words_of.name, y))) for row, x, y in points]
    marks = _labels(placed, front)
    line = " ".join(f"{m.x:.1f},{m.y:.1f}" for m in sorted(marks, key=lambda m: (m.x, -m.y)) if m.row.explainer in front)
    unit = metric(name).title + (f", cells replaced by {occluder.replace('_', ' ')}" if occluder else "")
    return Tradeoff(key, title, text, unit, words_of.title, tuple(marks), line, across.ticks(), up.ticks())


def pareto(points: Sequence[tuple[str, float, float]]) -> set[str]:
    """Return the names of the points that no other point matches in both values and beats in one; points are (name, value, value).

    >>> sorted(pareto([("a", 1, 3), ("b", 2, 2), ("c", 1, 2), ("d", 3, 1)]))
    ['a', 'b', 'd']
    """
    return {
        name
        for name, x, y in points
        if not any(other_x >= x and other_y >= y and (other_x > x or other_y > y) for _, other_x, other_y in points)
    }


def _words(row: Row, across: tuple[str, float], up: tuple[str, float]) -> str:
    return f"{row.title}: {metric(up[0]).short} {number(up[1], up[0])}, {metric(across[0]).title} {number(across[1], across[0])}"


def _labels(placed: Sequence[tuple[Row, float, float, str]], front: set[str]) -> list[Mark]:
    """Label explainers first, then controls, and leave a label away where it would cover another."""
    taken: list[tuple[float, float, float]] = []
    marks = []
    for row, x, y, text in sorted(placed, key=lambda p: (p[0].group != "explainer", p[0].explainer not in front, p[2])):
        right = x < WIDTH - 130
        label_x, wide = (x + 8 if right else x - 8), 6.2 * min(len(row.title), 26)
        start = label_x if right else label_x - wide
        free = next((dy for dy in (0.0, -ROOM, ROOM) if not _covers(taken, start, y + dy, wide)), None)
        if free is not None:
            taken.append((start, y + free, wide))
        css = "front" if row.explainer in front else row.group
        marks.append(Mark(row, x, y, css, label_x, y + (free or 0.0) + 3.6, "start" if right else "end", free is not None, text))
    return marks


def _covers(taken: Sequence[tuple[float, float, float]], x: float, y: float, wide: float) -> bool:
    return any(abs(y - other_y) < ROOM - 1 and x < other_x + other and other_x < x + wide for other_x, other_y, other in taken)


class _Linear:
    """A linear axis with round ticks around its values."""

    def __init__(self, values: Sequence[float], first: float, last: float):
        from xaibench.leaderboard.curves import round_step

        low, high = min(values), max(values)
        self.step = round_step(high - low if high > low else max(abs(high), 1.0))
        self.low, self.high = math.floor(low / self.step) * self.step, math.ceil(high / self.step) * self.step
        self.high = self.high if self.high > self.low else self.low + self.step
        self.first, self.last = first, last

    def at(self, value: float) -> float:
        return round(self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first), 1)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        count = round((self.high - self.low) / self.step)
        values = [self.low + i * self.step for i in range(count + 1)]
        return tuple((self.at(v), f"{round(v, 10):g}".replace("-", "−")) for v in values)


class _Log:
    """A logarithmic axis in decades; what costs nothing stands on its left edge."""

    def __init__(self, values: Sequence[float]):
        positive = [v for v in values if v > 0] or [1.0]
        self.low, self.high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
        self.high = max(self.high, self.low + 1)
        self.zero = any(v <= 0 for v in values)
        self.left = LEFT + (26.0 if self.zero else 0.0)

    def at(self, value: float) -> float:
        if value <= 0:
            return LEFT + 6.0
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.left + share * (WIDTH - RIGHT - self.left), 1)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        decades = tuple((self.at(10.0**d), f"{10.0**d:g}") for d in range(self.low, self.high + 1))
        return ((LEFT + 6.0, "0"), *decades) if self.zero else decades
