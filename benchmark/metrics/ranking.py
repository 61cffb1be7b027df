"""One sort of a clip's cells, from which all rank metrics follow.

Cells are ordered from most to least relevant. Equal values keep a fixed, seeded, shuffled order wherever a metric must cut between them,
and count as half a win wherever a metric compares pairs; no metric depends on where in memory the tied cells lie.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaibench.benchmark.metrics.inputs import Bools, Floats

TIE_SEED = 0
SIGN = np.uint32(0x80000000)
Ints = NDArray[np.int64]


@lru_cache(maxsize=8)
def tie_order(cells: int) -> Ints:
    """Return the fixed shuffled order of this many cells in which ties are broken, (cells,)."""
    order = np.random.default_rng(TIE_SEED).permutation(cells)
    order.flags.writeable = False
    return order


@lru_cache(maxsize=8)
def _tie_rank(cells: int) -> NDArray[np.uint64]:
    rank = np.empty(cells, np.uint64)
    rank[tie_order(cells)] = np.arange(cells, dtype=np.uint64)
    return rank


@dataclass(frozen=True)
class Ranking:
    """A clip's cells from most to least relevant."""

    order: Ints
    """(n,) cell numbers, ties in the fixed shuffled order."""
    starts: Ints
    """(G,) first position of each group of equal values."""

    @property
    def is_strict(self) -> bool:
        """Whether no two cells are equal."""
        return len(self.starts) == len(self.order)

    def group_sums(self, ordered: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum values that lie in ranked order over groups of ties, (G,)."""
        return ordered if self.is_strict else np.add.reduceat(ordered, self.starts)

    def group_sizes(self) -> NDArray[np.float64]:
        """Count the cells of each group of ties, (G,)."""
        return np.diff(self.starts, append=len(self.order)).astype(np.float64)

    def bounds(self, places: Ints) -> tuple[Ints, Ints]:
        """Return the first place of the ties at each place, and the place after their last."""
        if self.is_strict:
            return places, places + 1
        group = np.searchsorted(self.starts, places, side="right")
        return self.starts[group - 1], np.append(self.starts, len(self.order))[group]

    def group_of_place(self) -> NDArray[np.int32]:
        """Number the groups of ties in ranked order, (n,)."""
        step = np.zeros(len(self.order), np.int32)
        step[self.starts[1:]] = 1
        return np.cumsum(step, dtype=np.int32)

    def tied_at(self, count: int) -> int:
        """Count the equal cells between which a cut after ``count`` cells falls; 0 where the cut is clean."""
        if not 0 < count < len(self.order):
            return 0
        after = int(np.searchsorted(self.starts, count, side="left"))
        if after < len(self.starts) and self.starts[after] == count:
            return 0
        end = self.starts[after] if after < len(self.starts) else len(self.order)
        return int(end - self.starts[after - 1])

    def average_places(self) -> NDArray[np.float64]:
        """Return the place (0 for the most relevant) of each cell in ranked order, ties averaged, (n,)."""
        if self.is_strict:
            return np.arange(len(self.order), dtype=np.float64)
        sizes = np.diff(self.starts, append=len(self.order))
        return np.repeat(self.starts + (sizes - 1) / 2, sizes)


def rank(values: Floats) -> Ranking:
    """Sort the cells of one clip, (n,) finite float32 or float64, larger first."""
    cells = len(values)
    if values.dtype == np.float64:
        order = np.lexsort((_tie_rank(cells), -values)).astype(np.int64)
        ordered = values[order]
        return Ranking(order, _starts(_changes(ordered)))
    bits = (values + np.float32(0.0)).view(np.uint32)  # adding zero turns -0.0 into 0.0
    # 64-bit keys (value, tie rank) sort four times faster than a stable argsort, and hold the order in their lower half; one array serves
    # all steps, for fresh memory costs more than the steps do
    keys = np.where(bits >= SIGN, bits, ~(bits | SIGN)).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= _tie_rank(cells)
    keys.sort()
    changes = _changes((keys >> np.uint64(32)).astype(np.uint32))
    keys &= np.uint64(0xFFFFFFFF)
    return Ranking(tie_order(cells)[keys.view(np.int64)], _all_places(cells) if changes.all() else _starts(changes))


@lru_cache(maxsize=8)
def _all_places(cells: int) -> Ints:
    places = np.arange(cells, dtype=np.int64)
    places.flags.writeable = False
    return places


def _changes(values: NDArray[Any]) -> Bools:
    changes: Bools = values[1:] != values[:-1]
    return changes


def _starts(changes: Bools) -> Ints:
    return np.concatenate(([0], np.flatnonzero(changes) + 1)).astype(np.int64)


def auroc(positives: Floats, negatives: Floats) -> float:
    """Probability that a positive outranks a negative, ties half, from counts per group, most relevant first; NaN without both classes."""
    total = float(positives.sum()) * float(negatives.sum())
    if not total:
        return float("nan")
    above = np.cumsum(positives) - positives / 2
    return float((negatives * above).sum() / total)


def average_precision(positives: Floats, negatives: Floats) -> float:
    """Sum over thresholds of recall gained times precision, ties in one step; NaN without positives."""
    total = float(positives.sum())
    if not total:
        return float("nan")
    hits = np.cumsum(positives)
    found = hits + np.cumsum(negatives)
    precision = np.divide(hits, found, out=np.zeros(len(hits)), where=found > 0)
    return float((positives * precision).sum() / total)


def places_of(ranking: Ranking, hits: Bools) -> Ints:
    """Return the places (0 for the most relevant) of the masked cells in ranked order, (k,)."""
    return np.flatnonzero(hits[ranking.order])


def auroc_at(ranking: Ranking, places: Ints) -> float:
    """AUROC from the places of the masked cells: what ``auroc`` computes, in the time of the masked cells alone."""
    area, cells = len(places), len(ranking.order)
    if not area or area == cells:
        return float("nan")
    starts, ends = ranking.bounds(places)
    masked_before, masked_until = np.searchsorted(places, starts), np.searchsorted(places, ends)
    above = starts - masked_before
    tied = (ends - starts) - (masked_until - masked_before)
    return 1.0 - float((above + tied / 2).sum()) / (area * (cells - area))


def average_precision_at(ranking: Ranking, places: Ints) -> float:
    """Average precision from the places of the masked cells: the mean, over them, of the precision once their ties are in."""
    if not len(places):
        return float("nan")
    _, ends = ranking.bounds(places)
    return float((np.searchsorted(places, ends) / ends).mean())


def stratified_auroc(ranking: Ranking, hits: Bools, strata: NDArray[np.uint16]) -> float:
    """AUROC inside strata, weighted by positives times negatives; strata without both classes have no weight, NaN if none has both.

    Args:
        ranking: Order of the cells.
        hits: Mask, (n,) by cell.
        strata: Stratum of each cell, (n,).
    """
    ordered = strata[ranking.order]
    by_stratum = np.argsort(ordered, kind="stable")  # radix sort: linear in the number of cells
    places = np.flatnonzero(hits[ranking.order[by_stratum]])
    own = ordered[by_stratum[places]]
    sizes = np.bincount(ordered)
    first = np.cumsum(sizes) - sizes
    positives = np.bincount(own, minlength=len(sizes))
    pairs = float((positives * (sizes - positives)).sum())
    if not pairs:
        return float("nan")
    starts, ends = places, places + 1
    if not ranking.is_strict:
        groups = _starts(_changes(ordered[by_stratum]) | _changes(ranking.group_of_place()[by_stratum]))
        starts, ends = Ranking(by_stratum, groups).bounds(places)
    masked_before = np.searchsorted(places, starts)
    above = (starts - first[own]) - (masked_before - np.searchsorted(places, first)[own])
    tied = (ends - starts) - (np.searchsorted(places, ends) - masked_before)
    return 1.0 - float((above + tied / 2).sum()) / pairs
