"""How well a detector separates twins: EER, AUC and pair accuracy by vocoder, beside a shortcut that any good detector must beat.

The average-spectrum control is a logistic regression on each clip's mean log-spectrum. Where it does as well as the detector, low error
rates say little about hearing artifacts: level and tilt of the vocoder are enough.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from xaibench.tasks.spectrogram import log_magnitude
from xaibench.types import Clip, Detector, Pair

Figures = dict[str, float]


def auc(spoof: ArrayLike, bonafide: ArrayLike) -> float:
    """Return the probability that a spoof scores above a recording, ties counted half (0.5 is chance; NaN where a class is empty)."""
    high, low = _scores(spoof), np.sort(_scores(bonafide))
    if not len(high) or not len(low):
        return float("nan")
    below, not_above = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + not_above).mean() / 2 / len(low))


def eer(spoof: ArrayLike, bonafide: ArrayLike) -> float:
    """Return the equal error rate, 0..1, between the thresholds where misses and false alarms cross (NaN where a class is empty).

    Args:
        spoof: Scores of spoofs, higher for more spoof.
        bonafide: Scores of recordings.
    """
    high, low = np.sort(_scores(spoof)), np.sort(_scores(bonafide))
    if not len(high) or not len(low):
        return float("nan")
    thresholds = np.concatenate([np.unique(np.concatenate([high, low])), [np.inf]])
    misses = np.searchsorted(high, thresholds, "left") / len(high)  # rises from 0 to 1
    alarms = 1 - np.searchsorted(low, thresholds, "left") / len(low)  # falls from 1 to 0
    after = int(np.argmax(misses >= alarms))
    gap_before, gap_after = alarms[after - 1] - misses[after - 1], misses[after] - alarms[after]
    share = gap_before / (gap_before + gap_after)
    return float(alarms[after - 1] + share * (alarms[after] - alarms[after - 1]))


def pair_accuracy(spoof: ArrayLike, bonafide: ArrayLike) -> float:
    """Return the share of twins whose spoof scores above its own recording, ties counted half (NaN without pairs).

    Raises:
        ValueError: If the two do not have one score per pair.
    """
    high, low = _scores(spoof), _scores(bonafide)
    if len(high) != len(low):
        raise ValueError(f"spoof and bonafide must hold one score per pair, got {len(high)} and {len(low)}; pass twins in the same order")
    return float(np.mean((high > low) + 0.5 * (high == low))) if len(high) else float("nan")


def _scores(values: ArrayLike) -> NDArray[np.float64]:
    """Return scores as a vector.

    Raises:
        ValueError: If a score is NaN.
    """
    scores = np.asarray(values, dtype=np.float64).ravel()
    if np.isnan(scores).any():
        raise ValueError(
            f"scores must be numbers, got {int(np.isnan(scores).sum())} NaN of {len(scores)}; leave those clips out and count them"
        )
    return scores


@dataclass(frozen=True)
class PairScores:
    """The scores of one pair's twins, higher for more spoof."""

    pair: Pair
    bonafide: float
    spoof: float


def score_pairs(detector: Detector, clips: Iterable[Clip]) -> list[PairScores]:
    """Score the twins of each clip with a detector on its own device."""
    device = next(detector.parameters()).device
    scores = []
    with torch.no_grad():
        for clip in clips:
            low, high = detector.spoof_logit(torch.stack([clip.bonafide, clip.spoof]).to(device)).tolist()
            scores.append(PairScores(clip.pair, low, high))
    return scores


def figures(scores: Sequence[PairScores]) -> Figures:
    """Return EER, AUC, pair accuracy and the median gap of log-odds of a set of pairs; a recording with several twins counts once."""
    recordings = {s.pair.bonafide: s.bonafide for s in reversed(scores)}
    spoof, bonafide = [s.spoof for s in scores], [s.bonafide for s in scores]
    return {
        "pairs": len(scores),
        "recordings": len(recordings),
        "eer": eer(spoof, list(recordings.values())),
        "auc": auc(spoof, list(recordings.values())),
        "pair_accuracy": pair_accuracy(spoof, bonafide),
        "median_gap": float(np.median(np.subtract(spoof, bonafide))) if scores else float("nan"),
    }


def figures_by_slice(scores: Sequence[PairScores]) -> dict[str, Figures]:
    """Return the figures of all pairs, of seen and of unseen vocoders, and of each vocoder; slices without pairs are left out."""
    slices: dict[str, list[PairScores]] = {"all": list(scores)}
    for s in sorted(scores, key=lambda s: (s.pair.seen_vocoder is False, s.pair.vocoder)):
        for name in ("seen" if s.pair.seen_vocoder else "unseen", f"vocoder:{s.pair.vocoder}"):
            slices.setdefault(name, []).append(s)
    return {name: figures(members) for name, members in slices.items() if members}


def average_spectrum_control(training: Iterable[Clip], test: Iterable[Clip], strength: float = 0.1) -> list[PairScores]:
    """Fit a logistic regression on mean log-spectra of training twins and score test twins with it.

    Args:
        training: Clips to fit on.
        test: Clips to score.
        strength: Inverse of the L2 penalty on standardized features.

    Raises:
        ValueError: If there is no training clip.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = [_average_spectra(clip) for clip in training]
    if not rows:
        raise ValueError("training must hold at least one clip, got none; use a task with a train split")
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    model.fit(np.concatenate(rows), np.tile([0, 1], len(rows)))
    scored = [(clip.pair, model.decision_function(_average_spectra(clip))) for clip in test]
    return [PairScores(pair, float(low), float(high)) for pair, (low, high) in scored]


def _average_spectra(clip: Clip) -> NDArray[np.float64]:
    """Return the mean log-spectrum of recording and spoof at unit level, (2, F)."""
    twins = torch.stack([clip.bonafide, clip.spoof])
    level = twins.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-8)
    return log_magnitude(twins / level).mean(dim=2).double().numpy()
