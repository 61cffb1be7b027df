"""How concentrated is a heatmap? Neither score says whether it is right: a single random cell is as concentrated as can be.

Both look at ``|heatmap|`` over the valid cells of one clip, never at other clips or at a maximum over the data set. A map of zeros says
nothing and counts as evenly spread; NaN only where no cell is valid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xaibench.benchmark.metrics.info import Metric, MetricInfo
from xaibench.benchmark.metrics.inputs import Floats, Maps, check_heatmap, check_mask, like
from xaibench.registry import METRICS


def gini(heatmap: Maps, valid: Maps | None = None) -> Maps:
    """Gini index of ``|heatmap|``, (B,): 0 evenly spread, towards 1 where one cell holds all (Chalasani et al. 2020, arXiv:1810.06583).

    ``1 - 2 sum_k (a_k / sum a) (n - k + 1/2) / n`` over the n cells in rising order, k from 1 (Hurley and Rickard 2009).
    """
    return _each(_gini, heatmap, valid)


def entropy(heatmap: Maps, valid: Maps | None = None) -> Maps:
    """Shannon entropy of ``|heatmap| / sum |heatmap|`` in nats, (B,): 0 one cell, log n even (Bhatt et al. 2020, arXiv:2005.00631)."""
    return _each(_entropy, heatmap, valid)


def _each(metric: Callable[[Floats], float], heatmap: Maps, valid: Maps | None) -> Maps:
    maps = check_heatmap(heatmap)
    cells = np.ones(maps.shape, np.bool_) if valid is None else check_mask(valid, maps.shape, "valid")
    return like(np.array([metric(one[c]) if c.any() else np.nan for one, c in zip(maps, cells, strict=True)], np.float64), heatmap)


def _shares(values: Floats) -> Floats:
    """Return non-negative float64 values scaled to a largest of 1; all ones for a map of zeros."""
    sizes = np.abs(values.astype(np.float64))
    largest = sizes.max()
    return sizes / largest if largest > 0 else np.ones_like(sizes)


def _gini(values: Floats) -> float:
    ordered = np.sort(_shares(values))
    cells = len(ordered)
    weights = (cells - np.arange(cells) - 0.5) / cells
    return float(1 - 2 * (ordered @ weights) / ordered.sum())


def _entropy(values: Floats) -> float:
    sizes = _shares(values)
    total = sizes.sum()
    present = sizes[sizes > 0]
    return float(np.log(total) - (present @ np.log(present)) / total)


@METRICS.register("gini")
@dataclass(frozen=True)
class Gini(Metric):
    """Concentration of the map: 0 even, 1 one cell. Sharp is not right, so it is shown and never ranked alone."""

    info = MetricInfo(
        "gini", "Gini index", True, 0, 1, "0 even, .5 exponential noise", "Chalasani et al. 2020, arXiv:1810.06583", "complexity"
    )
    function = staticmethod(gini)


@METRICS.register("entropy")
@dataclass(frozen=True)
class Entropy(Metric):
    """Spread of the map in nats: the logarithm of how many equal cells would be as spread out."""

    info = MetricInfo(
        "entropy", "Entropy", False, 0, float("inf"), "log n even", "Bhatt et al. 2020, arXiv:2005.00631", "complexity", "nats"
    )
    function = staticmethod(entropy)
