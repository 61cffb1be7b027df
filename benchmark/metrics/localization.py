"""How well does a heatmap find the cells of a ground-truth mask?

All functions take heatmaps ``(B, F, N)``, masks ``(B, F, N)`` bool and optionally the valid cells, as torch tensors of any device
or numpy arrays, and return one float64 per clip, ``(B,)``, of the same kind. Each clip is scored alone, whatever its neighbours.

Polarity
    Larger means more evidence for *spoof*. Rank and area metrics use the order of the values as given, relevance mass their positive part.
    ``apply_polarity(heatmap, "magnitude")`` gives the second column of the board, scores of ``|heatmap|``.

Undefined
    A score is NaN where the *truth* leaves it open (an empty mask; a full one for metrics that need both classes); ``undefined_reason``
    says why. An *explanation* without information (constant, zero, nothing positive) gets the chance level and is not spared the mean.

Equal area
    A real heatmap is turned into a prediction of exactly ``|mask|`` cells by rank; ties are broken by a fixed permutation
    (``tasks.masks.top_cells``). Then Dice = precision = recall = relevance rank and IoU = Dice / (2 - Dice): one degree of freedom.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from xaibench.benchmark.metrics.inputs import Maps, check_field, check_heatmap, check_mask, like
from xaibench.benchmark.metrics.ranking import Ranking, auroc_at, average_precision_at, places_of, rank, stratified_auroc
from xaibench.benchmark.metrics.target import Axis, Target

Polarity = Literal["signed", "positive", "magnitude"]


def score(heatmap: Any, mask: Any, *, valid: Any = None, magnitude: Any = None, difference: Any = None) -> dict[str, float]:
    """Score one clip by every localisation metric with one sort.

    Args:
        heatmap: (F, N), real, finite.
        mask: (F, N), bool.
        valid: (F, N), bool, the cells that count; all by default.
        magnitude: (F, N), linear magnitude of the vocoded clip; adds ``stratified_auc``.
        difference: (F, N), continuous difference between the twins; adds ``spearman``.

    Returns:
        Score by name, NaN where undefined. To score many heatmaps against one truth, prepare it once with ``Target.of``.

    Raises:
        TypeError: If mask or valid is not boolean, or the heatmap is.
        ValueError: If shapes differ, or a value is NaN or infinite.
    """
    return Target.of(mask, valid=valid, magnitude=magnitude, difference=difference).score(heatmap)


def apply_polarity(heatmap: Maps, polarity: Polarity) -> Maps:
    """Return the heatmap as given (``signed``), its positive part (``positive``) or its absolute value (``magnitude``)."""
    if polarity == "signed":
        return heatmap
    if polarity == "magnitude":
        return abs(heatmap)
    if polarity == "positive":
        return heatmap * (heatmap > 0)
    raise ValueError(f"polarity must be signed, positive or magnitude, got {polarity!r}; the explainer declares it")


def generalized_dice(heatmap: Maps, mask: Maps, valid: Maps | None = None, *, chance_corrected: bool = False) -> Maps:
    """Generalized Dice, square weights over background and foreground, per clip (Sudre et al. 2017, arXiv:1707.03237).

    Args:
        heatmap: A bool prediction, or a real heatmap that is binarised at the mask's area, (B, F, N).
        mask: Ground truth, (B, F, N), bool.
        valid: Cells that count, (B, F, N), bool.
        chance_corrected: Map chance, ``2 m (1 - m)`` for a masked share m, to 0 and keep 1.

    Returns:
        (B,) in [0, 1], or up to 1 when corrected; NaN where the mask is empty or full.

    Raises:
        TypeError: If mask or valid is not boolean.
        ValueError: If shapes differ, or a value is NaN or infinite.
    """
    return _overlap("generalized_dice_corrected" if chance_corrected else "generalized_dice", heatmap, mask, valid)


def dice(heatmap: Maps, mask: Maps, valid: Maps | None = None) -> Maps:
    """Dice (F1) of a bool prediction or of a heatmap at equal area, (B,) in [0, 1]; chance m, NaN where the mask is empty."""
    return _overlap("dice", heatmap, mask, valid)


def iou(heatmap: Maps, mask: Maps, valid: Maps | None = None) -> Maps:
    """Intersection over union of a bool prediction, or of a heatmap at equal area, (B,) in [0, 1]; chance m / (2 - m), empty mask NaN."""
    return _overlap("iou", heatmap, mask, valid)


def average_precision(heatmap: Maps, mask: Maps, valid: Maps | None = None) -> Maps:
    """Average precision, ``sum (R_k - R_{k-1}) P_k`` over distinct values, (B,) in (0, 1]; chance m, NaN where the mask is empty.

    Tied cells enter in one step, as in scikit-learn: a constant map scores m, where the trapezoid of the curve would give (1 + m) / 2.
    """
    return _ranked(lambda ranking, target: average_precision_at(ranking, places_of(ranking, target.hits)), heatmap, mask, valid)


def auroc(heatmap: Maps, mask: Maps, valid: Maps | None = None) -> Maps:
    """Probability that a masked cell outranks another, ties half, (B,) in [0, 1]; chance 0.5, NaN where the mask is empty or full."""
    return _ranked(lambda ranking, target: auroc_at(ranking, places_of(ranking, target.hits)), heatmap, mask, valid)


def stratified_auc(heatmap: Maps, mask: Maps, magnitude: Maps, valid: Maps | None = None) -> Maps:
    """AUROC among cells of like frequency and level: what a heatmap knows beyond them.

    Strata are 16 bands of equal width by 9-dB levels of the magnitude under the clip's maximum. Strata without both classes are skipped,
    the rest weighted by positives times negatives.

    Args:
        heatmap: (B, F, N), real, finite.
        mask: (B, F, N), bool.
        magnitude: Linear magnitude of the vocoded clip, (B, F, N), at least 0.
        valid: Cells that count, (B, F, N), bool.

    Returns:
        (B,) in [0, 1]; 0.5 for a map that is constant inside strata, NaN where no stratum has both classes.
    """
    maps, masks, valids = _door(heatmap, mask, valid)
    levels = check_field(magnitude, maps.shape, "magnitude")
    values = np.full(len(maps), np.nan)
    for i, one in enumerate(maps):
        target = Target.of(masks[i], valid=None if valids is None else valids[i], magnitude=levels[i])
        if target.cells:
            ranking = rank(target.take(one))
            values[i] = stratified_auroc(ranking, target.hits, target.strata)
    return like(values, heatmap)


def relevance_mass(heatmap: Maps, mask: Maps, valid: Maps | None = None) -> Maps:
    """Share of the positive relevance that lies in the mask, (B,) in [0, 1]; chance m (Arras et al. 2022, arXiv:2003.07258).

    Negative relevance is evidence against spoof and counts as none. Where nothing is positive the score is m; NaN where the mask is empty.
    """
    return _each(lambda one, target: target.mass(target.take(one)), heatmap, mask, valid)


def relevance_rank(heatmap: Maps, mask: Maps, valid: Maps | None = None) -> Maps:
    """Share of the ``|mask|`` most relevant cells that lie in the mask, (B,) (Arras et al. 2022, arXiv:2003.07258).

    Equals ``dice`` at equal area; both names are kept because the literature uses both. NaN where the mask is empty.
    """
    return _overlap("dice", heatmap, mask, valid)


def pointing_game(heatmap: Maps, mask: Maps, valid: Maps | None = None, *, tolerance_bins: int = 0) -> Maps:
    """Tell whether the most relevant cell lies in the mask (Zhang et al. 2018, arXiv:1608.00507).

    Args:
        heatmap: (B, F, N), real, finite.
        mask: (B, F, N), bool.
        valid: Cells that count, (B, F, N), bool.
        tolerance_bins: Chebyshev distance to the mask, in cells, that still counts as a hit.

    Returns:
        (B,) with 1 for a hit, 0 for a miss, the share of hits among tied maxima, and NaN where the mask is empty; chance m.

    Raises:
        ValueError: If the tolerance is negative, shapes differ, or a value is NaN or infinite.
    """
    if tolerance_bins < 0:
        raise ValueError(f"tolerance_bins must be at least 0, got {tolerance_bins}; use 0 for the cell itself")
    return _ranked(lambda ranking, target: target.pointing(ranking, tolerance_bins), heatmap, mask, valid)


def spearman(heatmap: Maps, difference: Maps, valid: Maps | None = None) -> Maps:
    """Rank correlation between the heatmap and the continuous difference of the twins, (B,) in [-1, 1]; chance 0.

    Ties get average ranks. A constant heatmap scores 0 (its expectation over random orders), a constant difference NaN.
    """
    maps = check_heatmap(heatmap)
    truths = check_field(difference, maps.shape, "difference")
    valids = None if valid is None else check_mask(valid, maps.shape, "valid")
    values = np.full(len(maps), np.nan)
    for i, one in enumerate(maps):
        target = Target.of(np.zeros(one.shape, np.bool_), valid=None if valids is None else valids[i], difference=truths[i])
        if target.cells:
            values[i] = target.spearman(rank(target.take(one)))
    return like(values, heatmap)


def marginal(heatmap: Maps, axis: Axis, valid: Maps | None = None) -> Maps:
    """Replace each cell by the mean relevance of its frame (``time``) or bin (``frequency``), (B, F, N).

    Any metric of the result is that metric's marginal version: what the explanation knows about *when*, or about *which frequency*, alone.
    """
    maps = check_heatmap(heatmap).astype(np.float64)
    cells = np.ones(maps.shape, np.bool_) if valid is None else check_mask(valid, maps.shape, "valid")
    across = {"time": 1, "frequency": 2}.get(axis)
    if across is None:
        raise ValueError(f"axis must be time or frequency, got {axis!r}; choose what to keep")
    mean = (maps * cells).sum(across, keepdims=True) / np.maximum(cells.sum(across, keepdims=True), 1)
    return like(np.broadcast_to(mean, maps.shape).copy(), heatmap)


def false_alarm_area(prediction: Maps, valid: Maps | None = None, *, threshold: float = 0.5) -> Maps:
    """Share of a bona fide clip's cells that are called artifact, (B,) in [0, 1]; lower is better.

    Args:
        prediction: Bool, or a real map whose cells above ``threshold`` are called artifact, (B, F, N).
        valid: Cells that count, (B, F, N), bool.
        threshold: On the explainer's own scale; 0.5 for methods that return probabilities.
    """
    maps = check_heatmap(prediction)
    flagged = maps if maps.dtype == np.bool_ else maps > threshold
    cells = np.ones(maps.shape, np.bool_) if valid is None else check_mask(valid, maps.shape, "valid")
    total = cells.sum((1, 2)).astype(np.float64)
    shares = np.divide((flagged & cells).sum((1, 2)), total, out=np.full(len(maps), np.nan), where=total > 0)
    return like(shares, prediction)


def tied_cells(heatmap: Maps, mask: Maps, valid: Maps | None = None) -> Maps:
    """Count the equal cells between which binarisation at equal area has to cut, (B,); 0 where the cut is clean, empty mask NaN."""
    return _ranked(lambda ranking, target: float(ranking.tied_at(target.area)), heatmap, mask, valid)


def undefined_reason(
    metric: str, heatmap: Any, mask: Any, valid: Any = None, *, magnitude: Any = None, difference: Any = None
) -> list[str] | str:
    """Say why a localisation score is NaN: one sentence per clip, empty where the score is defined.

    Args:
        metric: Name of the metric.
        heatmap: (B, F, N), or (F, N) for one clip.
        mask: Of the heatmap's shape, bool.
        valid: Of the heatmap's shape, bool.
        magnitude: Of the heatmap's shape; without it ``stratified_auc`` is judged by the mask alone.
        difference: Of the heatmap's shape; without it ``spearman`` is judged by the valid cells alone.

    Returns:
        A list of B sentences, or one sentence for (F, N).
    """
    extra = (mask, valid, magnitude, difference)
    if np.ndim(mask) == 2:
        check_heatmap(heatmap, ndim=2)
        return Target.of(mask, valid=valid, magnitude=magnitude, difference=difference).why(metric)
    maps, _, _ = _door(heatmap, mask, valid)
    clips = [[None if one is None else one[i] for one in extra] for i in range(len(maps))]
    return [Target.of(m, valid=v, magnitude=level, difference=field).why(metric) for m, v, level, field in clips]


def _door(heatmap: Any, mask: Any, valid: Any) -> tuple[Any, Any, Any]:
    maps = check_heatmap(heatmap)
    masks = check_mask(mask, maps.shape)
    return maps, masks, None if valid is None else check_mask(valid, maps.shape, "valid")


def _each(metric: Callable[[Any, Target], float], heatmap: Maps, mask: Any, valid: Any) -> Maps:
    maps, masks, valids = _door(heatmap, mask, valid)
    targets = (Target(m, np.ones(m.shape, np.bool_) if valids is None else valids[i]) for i, m in enumerate(masks))
    values = [metric(one, target) if target.area else float("nan") for one, target in zip(maps, targets, strict=True)]
    return like(np.array(values, np.float64), heatmap)


def _ranked(metric: Callable[[Ranking, Target], float], heatmap: Maps, mask: Any, valid: Any) -> Maps:
    return _each(lambda one, target: metric(rank(target.take(one)), target), heatmap, mask, valid)


def _overlap(name: str, heatmap: Maps, mask: Any, valid: Any) -> Maps:
    return _each(lambda one, target: _overlap_one(one, target)[name], heatmap, mask, valid)


def _overlap_one(one: Any, target: Target) -> dict[str, float]:
    if one.dtype == np.bool_:
        return target.area_scores(int((target.take(one) & target.hits).sum()), int(target.take(one).sum()))
    ranking = rank(target.take(one))
    return target.area_scores(target.found(one, ranking, places_of(ranking, target.hits)), target.area)
