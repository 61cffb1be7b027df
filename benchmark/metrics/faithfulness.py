"""Does the detector use what the heatmap shows? Deletion and insertion curves over its log-odds, and what follows from them.

Petsiuk et al. 2018 (RISE, arXiv:1806.07421), on log-odds instead of probabilities, with both end points and equal steps; the area is the
trapezoid over shares 0 to 1, so it does not grow with the number of steps. SRG is Blücher et al. 2024 (arXiv:2401.06654): the area of
least-relevant-first minus that of most-relevant-first deletion. Least-first deletion of a share q leaves the most relevant 1 - q, which is
insertion at 1 - q: the reversed insertion curve, at no cost, so SRG equals insertion minus deletion.

Masking happens in linear magnitude with the occluder's phase and is resynthesised (``probe.py``). AI, AD, AG, Fid-In and FF are the plain
definitions of ``confidence.py``, at area budgets and for the soft mask.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from xaibench.benchmark.metrics.confidence import (
    average_drop,
    average_gain,
    average_increase,
    confidence,
    faithfulness_of_spectra,
    fidelity_in,
)
from xaibench.benchmark.metrics.probe import Curves, Floats, Probe, ProbeOptions
from xaibench.types import Detector

__all__ = [
    "Curves",
    "Probe",
    "area",
    "average_drop",
    "average_gain",
    "average_increase",
    "confidence",
    "confidence_curves",
    "curves",
    "deletion_insertion",
    "faithfulness_of_spectra",
    "fidelity_in",
    "infidelity",
    "known_range",
    "summary",
    "undefined_reason",
]

WIDENED = 0.1
"""A range of scores is widened by this share of its width on either side before leaving it counts."""
QUANTILES = (0.02, 0.98)
FEW_SCORES = 20
OUT_OF_RANGE_LIMIT = 0.2
"""Share of masked inputs outside the range above which a curve is shown grey."""
OVER_AREA = ("average_increase", "average_drop", "average_gain", "fidelity_in", "faithfulness_of_spectra")
"""Metrics that are given at every area budget."""
NEEDS_GAP = frozenset(("deletion_normalized", "insertion_normalized", "srg_normalized"))
NEEDS_RANGE = frozenset(("out_of_range", "range_excess"))


def curves(
    waveform: Tensor,
    heatmap: Any,
    detector: Detector,
    *,
    steps: int = 10,
    budgets: Sequence[float] = (),
    soft: bool = False,
    **probe: Unpack[ProbeOptions],
) -> Curves:
    """Trace the curves of one heatmap (F, N) on one clip (T,); arguments as for ``Probe.curves`` and ``Probe``.

    For several heatmaps of one clip, make one ``Probe``: it computes the end points and the random order once.
    """
    return Probe(waveform, detector, **probe).curves(heatmap, steps=steps, budgets=budgets, soft=soft)


def deletion_insertion(
    waveform: Tensor, heatmap: Any, detector: Detector, *, steps: int = 10, **probe: Unpack[ProbeOptions]
) -> dict[str, Tensor]:
    """Return deletion, insertion and SRG of a batch of clips, and their values for a random order.

    Args:
        waveform: Clips, (B, T), float32, 16 kHz.
        heatmap: Relevance for spoof, (B, F, N), real, finite.
        detector: In ``eval()`` mode.
        steps: Equal steps from 0 to 1.
        **probe: Arguments of ``Probe``; here ``valid`` is (B, F, N) and ``twin`` (B, T), while references (R, T) serve all clips.

    Returns:
        (B,) float64 by name: areas in log-odds. Deletion is better lower, insertion and SRG higher.

    Raises:
        ValueError: If shapes do not fit, or a value is NaN or infinite.
    """
    if waveform.ndim != 2 or len(waveform) != len(heatmap):
        raise ValueError(f"waveform must be (B, T) with heatmap's B {len(heatmap)}, got {tuple(waveform.shape)}; pass both as batches")
    rows = []
    for i, clip in enumerate(waveform):
        own = probe.copy()
        own["valid"] = None if probe.get("valid") is None else probe["valid"][i]
        twins = probe.get("twin")
        own["twin"] = None if twins is None else twins[i]
        rows.append(summary(curves(clip, heatmap[i], detector, steps=steps, **own)))
    names = ("deletion", "insertion", "srg", "deletion_random", "insertion_random", "srg_random")
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in names}


def area(curve: ArrayLike) -> float:
    """Mean height of a curve over equal steps from 0 to 1, by the trapezoid rule; in the curve's own unit."""
    heights = np.asarray(curve, np.float64)
    return float((heights[1:] + heights[:-1]).mean() / 2)


def infidelity(heatmap: Tensor, perturbations: Tensor, changes: Tensor, *, normalize: bool = True) -> Tensor:
    """How badly a heatmap predicts what perturbations do to the log-odds, (B,); 0 is exact (Yeh et al. 2019, arXiv:1901.09392).

    ``mean_r (b <I_r, a> - (f(x) - f(x - I_r)))^2`` for a map ``a`` on the scale of a gradient. For maps on the scale of gradient
    times input hand over each ``I_r`` divided by the input. Not a column: it compares scales, which heatmaps are free to choose.

    Args:
        heatmap: (B, F, N), real.
        perturbations: What was taken from each clip in each of R tries, (R, B, F, N).
        changes: Log-odds that each try took away, (R, B).
        normalize: Whether ``b`` is the factor that fits best for each clip, so that the map's scale does not matter; else 1. A map of
            zeros stays as it is.

    Raises:
        ValueError: If shapes do not fit.
    """
    tries, clips = perturbations.shape[:2]
    if perturbations.shape[1:] != heatmap.shape or changes.shape != (tries, clips):
        raise ValueError(
            f"perturbations and changes must be (R, {', '.join(map(str, heatmap.shape))}) and (R, {len(heatmap)}), "
            f"got {tuple(perturbations.shape)} and {tuple(changes.shape)}; stack the tries first"
        )
    predicted = (perturbations.double() * heatmap.double()).flatten(2).sum(2)
    if normalize:
        power = predicted.square().sum(0)
        fit = (predicted * changes.double()).sum(0) / torch.where(power > 0, power, torch.ones_like(power))
        predicted = predicted * fit
    return (predicted - changes.double()).square().mean(0)


def known_range(log_odds: ArrayLike, widened: float = WIDENED) -> tuple[float, float]:
    """Return the range of a detector's scores on known clips, widened on either side by a share of its width.

    From 20 clips on it reaches from the 2 % to the 98 % quantile, so that a single odd clip cannot excuse every occluder.

    Raises:
        ValueError: If there is no finite score.
    """
    scores = np.asarray(log_odds, np.float64).reshape(-1)
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        raise ValueError("log_odds must hold a finite score, got none; score the known clips first")
    low, high = np.quantile(scores, QUANTILES) if len(scores) >= FEW_SCORES else (scores.min(), scores.max())
    margin = widened * float(high - low)
    return float(low) - margin, float(high) + margin


def summary(curves: Curves, gap: float | None = None, score_range: tuple[float, float] | None = None) -> dict[str, float]:
    """Reduce curves to scores by metric name; NaN where undefined (``undefined_reason``).

    Args:
        curves: Of one clip and occluder.
        gap: The clip's log-odds minus its real twin's; gives the ``_normalized`` scores, in which 1 is the clip's own score, 0 its twin's.
        score_range: Lowest and highest log-odds of known clips (``known_range``); without it the range between the twins, widened.

    Returns:
        ``deletion``, ``insertion``, ``srg`` (mean log-odds over shares), the same for a random order, the normalised three,
        ``out_of_range`` (share of masked inputs outside the range), ``range_excess`` (how far the furthest lies outside, in log-odds),
        and, if measured, confidence metrics at the first budget, of a random order there (``_random``), of the trivial mask that keeps
        everything (``_all``) and of the soft mask (``_soft``); at further budgets the papers' five and their random order
        (``_at_10``, ``_random_at_10`` for 10 % of the cells), which make their curves over the area.
    """
    deletion, insertion = area(curves.deletion), area(curves.insertion)
    random_deletion, random_insertion = area(curves.random_deletion), area(curves.random_insertion)
    scale = gap if gap is not None and gap > 0 else float("nan")
    twin = curves.original - scale
    scores = {
        "deletion": deletion,
        "insertion": insertion,
        "srg": insertion - deletion,
        "deletion_random": random_deletion,
        "insertion_random": random_insertion,
        "srg_random": random_insertion - random_deletion,
        "deletion_normalized": (deletion - twin) / scale,
        "insertion_normalized": (insertion - twin) / scale,
        "srg_normalized": (insertion - deletion) / scale,
    }
    if score_range is None and scale > 0:
        score_range = known_range([twin, curves.original])
    scores |= _excess(curves.masked_scores, score_range)
    return scores | _confidence_scores(curves)


def confidence_curves(curves: Curves, threshold: float = 0.0) -> dict[str, Floats]:
    """Return AI, AD, AG, Fid-In, FF and their log-odds versions at every step of the curves, (K + 1,) by name.

    Keeping a share q is insertion at q, removing it deletion at q: the values over all area budgets cost no forward.
    """
    original = torch.full((len(curves.fractions),), curves.original, dtype=torch.float64)
    found = confidence(original, torch.from_numpy(curves.insertion), torch.from_numpy(curves.deletion), threshold=threshold)
    return {name: values.numpy() for name, values in found.items()}


def undefined_reason(metric: str, gap: float | None = None, score_range: tuple[float, float] | None = None) -> str:
    """Say why a score of ``summary`` is NaN; empty text where it is defined."""
    positive = gap is not None and gap > 0
    if metric in NEEDS_GAP and not positive:
        return "the clip does not score more spoof than its real twin, so there is no gap to measure by"
    if metric in NEEDS_RANGE and score_range is None and not positive:
        return "no known clips were scored and the twins' gap is not positive, so the detector's range is not known"
    return ""


def _excess(scores: Floats, score_range: tuple[float, float] | None) -> dict[str, float]:
    if score_range is None:
        return {"out_of_range": float("nan"), "range_excess": float("nan")}
    beyond = np.maximum(np.maximum(score_range[0] - scores, scores - score_range[1]), 0.0)
    return {"out_of_range": float((beyond > 0).mean()), "range_excess": float(beyond.max())}


def _confidence_scores(curves: Curves) -> dict[str, float]:
    inputs = {}
    scores: dict[str, float] = {}
    if curves.budgets:
        inputs["_all"] = (curves.original, curves.occluded)
        inputs[""] = (curves.masked_in[0], curves.masked_out[0])
        inputs["_random"] = (curves.random_in[0], curves.random_out[0])
    if curves.soft is not None:
        inputs["_soft"] = curves.soft
    for suffix, (kept, removed) in inputs.items():
        scores |= {f"{name}{suffix}": value for name, value in _confidence(curves.original, kept, removed).items()}
    for i, budget in enumerate(curves.budgets[1:], start=1):
        pairs = {"": (curves.masked_in[i], curves.masked_out[i]), "_random": (curves.random_in[i], curves.random_out[i])}
        for suffix, (kept, removed) in pairs.items():
            found = _confidence(curves.original, kept, removed)
            scores |= {f"{name}{suffix}_at_{100 * budget:g}": found[name] for name in OVER_AREA}
    return scores


def _confidence(original: float, kept: float, removed: float) -> dict[str, float]:
    found = confidence(*(torch.tensor([float(s)], dtype=torch.float64) for s in (original, kept, removed)))
    return {name: float(value) for name, value in found.items()}
