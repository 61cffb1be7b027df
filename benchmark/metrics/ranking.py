"""One sort of a clip's cells, from which all rank metrics follow.

Cells are ordered from most to least relevant. Equal values keep a fixed, seeded, shuffled order wherever a metric must cut between them,
and count as half a win wherever a metric compares pairs; no metric depends on where in memory the tied cells lie.
"""

from dataclasses import dataclass
from functools import lru_cache

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

    def tied_at(self, count: int) -> int:
        """Count the equal cells between which a cut after ``count`` cells falls; 0 where the cut is clean."""
        if not 0 < count < len(self.order):
            return 0
        after = int(np.searchsorted(self.starts, count, side="left"))
        if after < len(self.starts) and self.starts[after] == count:
            return 0
        end = self.starts[after] if after < len(self.starts) else len(self.order)
        return int(end - self.starts[after - 1])

    def average_ranks(self) -> NDArray[np.float64]:
        """Return each cell's rank from the least relevant (1) to the most (n), ties averaged, (n,)."""
        sizes = self.group_sizes()
        middle = len(self.order) - self.starts - (sizes - 1) / 2
        ranks = np.empty(len(self.order))
        ranks[self.order] = middle if self.is_strict else np.repeat(middle, sizes.astype(np.int64))
        return ranks


def rank(values: Floats) -> Ranking:
    """Sort the cells of one clip, (n,) finite float32 or float64, larger first."""
    cells = len(values)
    if values.dtype == np.float64:
        order = np.lexsort((_tie_rank(cells), -values)).astype(np.int64)
        ordered = values[order]
        return Ranking(order, _starts(ordered[1:] != ordered[:-1]))
    bits = (values + np.float32(0.0)).view(np.uint32)  # adding zero turns -0.0 into 0.0
    descending = np.where(bits >= SIGN, bits, ~(bits | SIGN))
    # 64-bit keys (value, tie rank) sort four times faster than a stable argsort, and hold the order in their lower half
    keys = np.sort((descending.astype(np.uint64) << np.uint64(32)) | _tie_rank(cells))
    order = tie_order(cells)[(keys & np.uint64(0xFFFFFFFF)).astype(np.int64)]
    upper = (keys >> np.uint64(32)).astype(np.uint32)
    return Ranking(order, _starts(upper[1:] != upper[:-1]))


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


def stratified_auroc(ranking: Ranking, ordered_hits: NDArray[np.float64], strata: NDArray[np.uint16]) -> float:
    """AUROC inside strata, weighted by positives times negatives; strata without both classes have no weight, NaN if none has both.

    Args:
        ranking: Order of the cells.
        ordered_hits: 1 for masked and 0 for other cells, in ranked order, (n,).
        strata: Stratum of each cell, (n,).
    """
    ordered = strata[ranking.order]
    by_stratum = np.argsort(ordered, kind="stable")  # radix sort: linear in the number of cells
    stratum, hits = ordered[by_stratum], ordered_hits[by_stratum]
    new_stratum = stratum[1:] != stratum[:-1]
    if ranking.is_strict:
        positives, negatives, group_stratum = hits, 1 - hits, stratum
    else:
        group = np.zeros(len(ranking.order), np.int64)
        group[ranking.starts[1:]] = 1
        tied = np.cumsum(group)[by_stratum]
        starts = _starts(new_stratum | (tied[1:] != tied[:-1]))
        positives = np.add.reduceat(hits, starts)
        negatives = np.diff(starts, append=len(hits)) - positives
        group_stratum = stratum[starts]
    all_positives = np.bincount(stratum, weights=hits)
    all_negatives = np.bincount(stratum) - all_positives
    pairs = float((all_positives * all_negatives).sum())
    if not pairs:
        return float("nan")
    offset = (np.cumsum(all_positives) - all_positives)[group_stratum]
    above = np.cumsum(positives) - offset - positives / 2
    return float((negatives * above).sum() / pairs)
