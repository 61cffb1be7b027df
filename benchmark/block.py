"""The values of one task and detector as arrays: clips by columns, made of long rows that pass by once."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xaibench.benchmark.units import FAILED

Place = tuple[str, str, str, str]
"""Recipe, polarity, occluder, metric: rows compete within one."""
Column = tuple[str, str, str, str, str]
"""Explainer and place."""
Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


class ClipName(NamedTuple):
    """A clip as it stands in the tables; a tenth of the size of a ``ClipRef``."""

    task: str
    split: str
    pair: str
    utterance: str
    speaker: str
    vocoder: str
    family: str
    seen_vocoder: bool


@dataclass
class Block:
    """The values of one task and detector: clips by columns, a column being an explainer at a place."""

    task: str
    detector: str
    clips: list[ClipName]
    columns: list[Column]
    values: Values
    """(clips, columns), NaN where undefined, failed or not measured."""
    asked: Mask
    """Whether the protocol asked for the value."""
    failed: Mask
    excused: Mask
    """Whether the explainer does not apply to the detector."""
    reasons: list[str]
    """Why, by column."""

    def clusters(self, by: str) -> list[str]:
        """Return the cluster of each clip: its utterance or its speaker."""
        return [getattr(clip, by) for clip in self.clips]

    def take(self, clips: Mask, columns: Sequence[int]) -> "Block":
        """Return some clips and columns."""
        cells = np.ix_(np.flatnonzero(clips), np.asarray(columns, np.intp))
        return Block(
            self.task,
            self.detector,
            [clip for clip, inside in zip(self.clips, clips, strict=True) if inside],
            [self.columns[i] for i in columns],
            self.values[cells],
            self.asked[cells],
            self.failed[cells],
            self.excused[cells],
            [self.reasons[i] for i in columns],
        )


def make_block(task: str, detector: str, units: Iterable[Mapping[str, Any]]) -> Block:
    """Spread the long rows of one task and detector into clips by columns; a row is looked at once and need not stay."""
    clips: dict[str, ClipName] = {}
    columns: dict[Column, int] = {}
    where, value, status, reasons = (array("q"), array("q")), array("d"), bytearray(), dict[int, str]()
    lines: dict[str, int] = {}
    for u in units:
        line = lines.setdefault(u["pair"], len(lines))
        if line == len(clips):
            clips[u["pair"]] = ClipName._make(intern(v) if isinstance(v := u[name], str) else v for name in ClipName._fields)
        column = columns.setdefault((u["explainer"], u["recipe"], u["polarity"], u["occluder"], u["metric"]), len(columns))
        where[0].append(line)
        where[1].append(column)
        value.append(np.nan if u["value"] is None else u["value"])
        status.append(1 * (u["status"] in FAILED) + 2 * (u["status"] == "not_applicable"))
        if status[-1] == 2:
            reasons[column] = u["why"]
    pairs, names = sorted(clips), sorted(columns)
    rows, places = _order([lines[pair] for pair in pairs]), _order([columns[name] for name in names])
    cells = rows[np.frombuffer(where[0], np.int64)], places[np.frombuffer(where[1], np.int64)]
    ended, shape = np.frombuffer(status, np.uint8), (len(pairs), len(names))
    values = np.full(shape, np.nan)
    asked, failed, excused = (np.zeros(shape, bool) for _ in range(3))
    values[cells] = np.frombuffer(value)
    asked[cells] = True
    failed[cells] = ended == 1
    excused[cells] = ended == 2
    told = [reasons.get(columns[name], "") for name in names]
    return Block(task, detector, [clips[pair] for pair in pairs], names, values, asked, failed, excused, told)


def _order(places: Sequence[int]) -> NDArray[np.intp]:
    """Return where each first place went."""
    found = np.empty(len(places), np.intp)
    found[list(places)] = np.arange(len(places))
    return found


def by_place(columns: Sequence[Column]) -> dict[Place, list[int]]:
    """Group columns by what they compete in."""
    groups: dict[Place, list[int]] = {}
    for i, (_, *place) in enumerate(columns):
        groups.setdefault(tuple(place), []).append(i)  # type: ignore[arg-type]
    return groups
