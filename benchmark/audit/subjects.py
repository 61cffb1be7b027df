"""The metrics under audit, each as a function of a map and a problem."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaibench.benchmark.audit.problem import Floats, Problem
from xaibench.benchmark.metrics.info import MetricInfo
from xaibench.registry import METRICS

Function = Callable[[Any, Problem], Any]


@dataclass(frozen=True)
class Subject:
    """One metric, and what a perfect map is for it."""

    info: MetricInfo
    function: Function
    oracle: Callable[[Problem], Floats]

    @property
    def name(self) -> str:
        """Name of the column."""
        return self.info.name

    def __call__(self, heatmap: Any, problem: Problem) -> Floats:
        """Score maps, (B,) float64."""
        return np.asarray(self.function(heatmap, problem), np.float64)


def _grid(name: str) -> Function:
    metric = METRICS.load(name)
    if name == "stratified_auc":
        return lambda heatmap, problem: metric(heatmap, problem.mask, problem.magnitude)
    if name == "spearman":
        return lambda heatmap, problem: metric(heatmap, problem.difference)
    return lambda heatmap, problem: metric(heatmap, problem.mask)


def _tiles(name: str) -> Function:
    metric = METRICS.load(name)
    return lambda tiles, problem: metric(tiles, problem.values)


def _difference(problem: Problem) -> Floats:
    return problem.difference


def _peaks(problem: Problem) -> Floats:
    """Keep the strongest tenth alone: where values count and not their order, a perfect map is zero elsewhere."""
    lowest = np.quantile(problem.difference, 0.9, axis=(1, 2), keepdims=True)
    return np.maximum(problem.difference - lowest, 0.0)


def _values(problem: Problem) -> Floats:
    return problem.values


GRID = (
    *("generalized_dice", "generalized_dice_corrected", "dice", "iou", "average_precision", "auroc", "stratified_auc"),
    *("relevance_mass", "relevance_rank", "pointing_game", "spearman"),
    *(MARGINAL := ("time_auroc", "time_average_precision", "frequency_auroc", "frequency_average_precision")),
)
TILED = ("causal_spearman", "causal_average_precision")


def subjects() -> list[Subject]:
    """Return the metrics that compare a map with a truth, as registered now."""
    found = [Subject(METRICS.get(name).info, _grid(name), _peaks if name == "relevance_mass" else _difference) for name in GRID]
    found += [Subject(METRICS.get(name).info, _tiles(name), _values) for name in TILED]
    return found
