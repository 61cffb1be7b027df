"""The truth of one clip, prepared once, against which any number of heatmaps are scored with one sort each."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from xaibench.benchmark.metrics.inputs import Bools, Floats, check_field, check_heatmap, check_mask, check_shape
from xaibench.benchmark.metrics.ranking import (
    Ints,
    Ranking,
    auroc,
    auroc_at,
    average_precision,
    average_precision_at,
    places_of,
    rank,
    stratified_auroc,
)
from xaibench.tasks.masks import top_cells

BANDS = 16
LEVEL_DB = 9.0
LOWEST_DB = 160.0
"""Cells further below the clip's maximum share the lowest level."""

Axis = Literal["time", "frequency"]
NEEDS_BOTH_CLASSES = frozenset(
    ("generalized_dice", "generalized_dice_corrected", "auroc", "stratified_auc", "time_auroc", "frequency_auroc")
)


@dataclass(frozen=True)
class Target:
    """Mask, valid cells, strata and continuous difference of one clip, ``(F, N)`` each."""

    mask: Bools
    valid: Bools
    magnitude: Floats | None = None
    """Linear magnitude of the vocoded clip, for ``stratified_auc``."""
    difference: Floats | None = None
    """Continuous difference between the twins, for ``spearman``."""

    @classmethod
    def of(cls, mask: Any, *, valid: Any = None, magnitude: Any = None, difference: Any = None) -> "Target":
        """Check and prepare a clip's truth.

        Raises:
            TypeError: If mask or valid is not boolean.
            ValueError: If shapes differ, a value is not finite, or a magnitude is negative.
        """
        shape = np.shape(mask)
        if len(shape) != 2:
            raise ValueError(f"mask must have the axes (F, N), got shape {shape}; pass one clip at a time")
        checked = check_mask(mask, shape)
        cells = np.ones(shape, np.bool_) if valid is None else check_mask(valid, shape, "valid")
        level = None if magnitude is None else check_field(magnitude, shape, "magnitude")
        if level is not None and (level < 0).any():
            raise ValueError(f"magnitude must be linear and not negative, got {level.min()}; pass the STFT's absolute value")
        field = None if difference is None else check_field(difference, shape, "difference")
        return cls(checked, cells, level, field)

    def take(self, array: Floats) -> Floats:
        """Return the valid cells of an ``(F, N)`` array, (n,)."""
        return array.reshape(-1) if self.valid.all() else array[self.valid]

    @cached_property
    def hits(self) -> Bools:
        """Mask of the valid cells, (n,)."""
        return self.take(self.mask)

    @cached_property
    def cells(self) -> int:
        """Number of valid cells n."""
        return len(self.hits)

    @cached_property
    def area(self) -> int:
        """Number of masked valid cells k, the area at which heatmaps are binarised."""
        return int(self.hits.sum())

    @cached_property
    def strata(self) -> "np.typing.NDArray[np.uint16]":
        """Stratum of each valid cell: 16 frequency bands by 9-dB levels under the clip's maximum, (n,)."""
        if self.magnitude is None:
            raise ValueError("magnitude must be given for stratified_auc, got None; pass the vocoded clip's linear magnitude")
        bins, frames = self.mask.shape
        band = np.repeat(np.arange(bins) * BANDS // bins, frames).reshape(bins, frames)
        level = self.take(self.magnitude).astype(np.float64)
        highest = level.max(initial=0.0)
        down = np.full(level.shape, LOWEST_DB)
        np.log10(np.divide(highest, level, out=np.ones_like(level), where=level > 0), out=down, where=level > 0)
        down = np.where(level > 0, np.minimum(20 * down, LOWEST_DB), LOWEST_DB if highest > 0 else 0.0)
        steps = int(LOWEST_DB // LEVEL_DB) + 1
        return (self.take(band) * steps + (down // LEVEL_DB).astype(np.int64)).astype(np.uint16)

    @cached_property
    def has_mixed_stratum(self) -> bool:
        """Whether some stratum holds cells both inside and outside the mask."""
        return bool(np.isin(self.strata[self.hits], self.strata[~self.hits]).any())

    def why(self, metric: str) -> str:
        """Say why the score of this name is NaN on this clip; empty where it is defined."""
        return _why(self, metric)

    @cached_property
    def difference_ranks(self) -> Floats:
        """Average ranks of the continuous difference, centred, smallest first, (n,)."""
        if self.difference is None:
            raise ValueError("difference must be given for spearman, got None; pass the recipe's continuous difference")
        ranking = rank(self.take(self.difference))
        ranks = np.empty(self.cells)
        ranks[ranking.order] = (self.cells - 1) / 2 - ranking.average_places()
        return ranks

    def line_counts(self, axis: Axis) -> tuple[Floats, Floats]:
        """Count masked and other valid cells of each frame (``time``) or bin (``frequency``)."""
        across = 0 if axis == "time" else 1
        positives = (self.mask & self.valid).sum(across).astype(np.float64)
        return positives, self.valid.sum(across) - positives

    def line_ranking(self, heatmap: Floats, axis: Axis) -> tuple[Floats, Floats]:
        """Rank frames or bins by their mean relevance; return masked and other cells per group of ties, most relevant first."""
        across = 0 if axis == "time" else 1
        sums = np.where(self.valid, heatmap, 0).sum(across, dtype=np.float64)
        ranking = rank(sums / np.maximum(self.valid.sum(across), 1))
        positives, negatives = self.line_counts(axis)
        return ranking.group_sums(positives[ranking.order]), ranking.group_sums(negatives[ranking.order])

    def marginals(self, heatmap: Floats, axis: Axis) -> dict[str, float]:
        """AUROC and average precision where each cell carries the mean relevance of its frame (``time``) or bin (``frequency``)."""
        positives, negatives = self.line_ranking(heatmap, axis)
        return {f"{axis}_auroc": auroc(positives, negatives), f"{axis}_average_precision": average_precision(positives, negatives)}

    def dilated(self, tolerance_bins: int) -> Bools:
        """Return the valid cells that lie within a Chebyshev distance of the mask, (n,)."""
        if not tolerance_bins:
            return self.hits
        from scipy.ndimage import maximum_filter

        return self.take(maximum_filter(self.mask & self.valid, size=2 * tolerance_bins + 1, mode="constant"))

    def pointing(self, ranking: Ranking, tolerance_bins: int = 0) -> float:
        """Share of the most relevant cells (one, unless tied) that hit the mask."""
        top = int(ranking.bounds(np.zeros(1, np.int64))[1][0]) if self.cells else 0
        return float(self.dilated(tolerance_bins)[ranking.order[:top]].mean()) if self.area else float("nan")

    def mass(self, relevance: Floats) -> float:
        """Share of positive relevance inside the mask; the masked share where no relevance is positive."""
        if not self.area:
            return float("nan")
        positive = np.maximum(relevance, 0).astype(np.float64)
        peak = positive.max()
        if not peak > 0:
            return self.area / self.cells
        positive /= peak  # so that sums of 1e308 and of 1e-320 stay finite and positive
        return float(positive[self.hits].sum() / positive.sum())

    def spearman(self, ranking: Ranking) -> float:
        """Rank correlation with the continuous difference; 0 for a constant heatmap, NaN for a constant difference."""
        truth = self.difference_ranks
        spread = float(truth @ truth)
        if not spread > 0:
            return float("nan")
        places = ranking.average_places() - (self.cells - 1) / 2
        own = float(places @ places)
        return -float(places @ truth[ranking.order]) / (own * spread) ** 0.5 if own > 0 else 0.0

    def found(self, heatmap: Floats, ranking: Ranking, places: Ints) -> int:
        """Count masked cells among the k most relevant; a tie at the cut is settled as ``tasks.masks.top_cells`` settles it."""
        if not ranking.tied_at(self.area):
            return int(np.searchsorted(places, self.area))
        chosen, _ = top_cells(torch.tensor(heatmap)[None], self.area, torch.tensor(self.valid)[None])
        return int((chosen[0].numpy() & self.mask).sum())

    def area_scores(self, found: int, predicted: int) -> dict[str, float]:
        """Dice, IoU and Generalized Dice of a prediction of ``predicted`` cells, ``found`` of which are masked; NaN where undefined."""
        return overlap(found, predicted, self.area, self.cells)

    def score(self, heatmap: Any) -> dict[str, float]:
        """Return every localisation metric that the prepared truth allows, by name; NaN where undefined.

        Raises:
            TypeError: If the heatmap is a bool prediction or no array.
            ValueError: If its shape differs from the mask's or a value is not finite.
        """
        values = check_heatmap(heatmap, ndim=2)
        if values.dtype == np.bool_:
            raise TypeError("heatmap must be real-valued, got bool; score predictions with generalized_dice, dice or iou")
        check_shape(self.mask, values.shape, "mask")
        relevance = self.take(values)
        ranking = rank(relevance)
        places = places_of(ranking, self.hits)
        scores = self.area_scores(self.found(values, ranking, places), self.area)
        scores["relevance_rank"] = scores["dice"]
        scores["average_precision"] = average_precision_at(ranking, places)
        scores["auroc"] = auroc_at(ranking, places)
        if self.magnitude is not None:
            scores["stratified_auc"] = stratified_auroc(ranking, self.hits, self.strata) if self.cells else float("nan")
        scores["relevance_mass"] = self.mass(relevance)
        scores["pointing_game"] = self.pointing(ranking)
        if self.difference is not None:
            scores["spearman"] = self.spearman(ranking) if self.cells else float("nan")
        scores |= self.marginals(values, "time") | self.marginals(values, "frequency")
        scores["tied_cells"] = float(ranking.tied_at(self.area)) if self.area else float("nan")
        return scores

    def decided(self, heatmap: Any, threshold: float) -> dict[str, float]:
        """Score the cells above an explainer's own threshold, however many they are: what equal area hides is how many it would choose."""
        chosen = self.take(check_heatmap(heatmap, ndim=2) > threshold)
        predicted = int(chosen.sum())
        scores = self.area_scores(int((chosen & self.hits).sum()), predicted)
        share = predicted / self.cells if self.cells else float("nan")
        return {f"{name}_at_threshold": scores[name] for name in ("generalized_dice", "dice")} | {"area_at_threshold": share}


def _why(target: "Target", metric: str) -> str:
    metric = metric.removesuffix("_at_threshold")
    if not target.cells:
        return "no cell is valid: the clip is shorter than one analysis window"
    if metric == "spearman":
        flat = target.difference is not None and not target.difference_ranks.any()
        return "the difference of the twins is the same everywhere, so there is no order to agree with" if flat else ""
    if not target.area and metric != "area":
        return "the mask is empty: the twins do not differ, so there is nothing to find"
    if target.area == target.cells and metric in NEEDS_BOTH_CLASSES:
        return "the mask is full: no cell is left to tell the artifact from"
    if metric == "stratified_auc" and target.magnitude is not None and not target.has_mixed_stratum:
        return "no band and level holds cells both inside and outside the mask"
    return ""


def overlap(found: int, predicted: int, area: int, cells: int) -> dict[str, float]:
    """Overlap scores from counts: cells in common, predicted, masked, and in all.

    Generalized Dice (Sudre et al. 2017, arXiv:1707.03237) with square weights over background and foreground:
    ``2 sum_l w_l sum_n r p / sum_l w_l sum_n (r + p)`` with ``w_l = 1 / (sum_n r)^2``. A random or empty or full prediction
    scores ``2 m (1 - m)`` for a masked share m; the corrected value maps this to 0 and a perfect prediction to 1.
    """
    nan = float("nan")
    if not area:
        return dict.fromkeys(("generalized_dice", "generalized_dice_corrected", "dice", "iou"), nan)
    dice, iou = 2 * found / (predicted + area), found / (predicted + area - found)
    if area == cells:
        return {"generalized_dice": nan, "generalized_dice_corrected": nan, "dice": dice, "iou": iou}
    rest = cells - area
    background = cells - area - predicted + found
    shared = found / area**2 + background / rest**2
    total = (area + predicted) / area**2 + (2 * cells - area - predicted) / rest**2
    generalized, chance = 2 * shared / total, 2 * area * rest / cells**2
    return {"generalized_dice": generalized, "generalized_dice_corrected": (generalized - chance) / (1 - chance), "dice": dice, "iou": iou}
