"""EER, AUC and pair accuracy against scikit-learn and by hand; the shortcut control finds a tilt and nothing else."""

import math

import numpy as np
import pytest
import torch

from xaibench.tasks.detectors.quality import PairScores, auc, average_spectrum_control, eer, figures, figures_by_slice, pair_accuracy
from xaibench.types import Clip, Pair


def pair(utterance: str, vocoder: str = "v", seen: bool = True) -> Pair:
    return Pair(f"{utterance}-{vocoder}", utterance, "s", vocoder, f"{utterance}.flac", f"{utterance}-{vocoder}.flac", seen_vocoder=seen)


@pytest.mark.parametrize("seed", range(8))
def test_auc_and_eer_agree_with_scikit_learn_ties_included(seed: int):
    from scipy.optimize import brentq
    from sklearn.metrics import roc_auc_score, roc_curve

    draw = np.random.default_rng(seed)
    spoof = draw.normal(0.7, 1, 40).round(seed % 3)
    bonafide = draw.normal(0, 1, 25 + seed).round(seed % 3)
    labels, scores = np.r_[np.ones(len(spoof)), np.zeros(len(bonafide))], np.r_[spoof, bonafide]
    assert auc(spoof, bonafide) == pytest.approx(roc_auc_score(labels, scores))
    alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert eer(spoof, bonafide) == pytest.approx(brentq(lambda x: 1 - x - np.interp(x, alarms, hits), 0, 1), abs=1e-6)


def test_extremes_and_empty_classes():
    assert eer([2, 3], [0, 1]) == 0
    assert eer([0, 1], [2, 3]) == 1
    assert eer([1, 1], [1, 1]) == auc([1, 1], [1, 1]) == 0.5
    assert math.isnan(eer([], [1]))
    assert math.isnan(auc([1], []))
    assert pair_accuracy([1, 2, 0], [0, 2, 1]) == 0.5
    with pytest.raises(ValueError, match="one score per pair, got 2 and 1"):
        pair_accuracy([1, 2], [1])
    with pytest.raises(ValueError, match="scores must be numbers, got 1 NaN of 2"):
        auc([float("nan"), 1], [0])


def test_a_recording_with_several_twins_counts_once_and_slices_name_each_vocoder():
    scores = [PairScores(pair("a", "x"), 0.0, 1.0), PairScores(pair("a", "y", seen=False), 0.0, -1.0), PairScores(pair("b", "x"), 0.5, 2.0)]
    whole = figures(scores)
    assert (whole["pairs"], whole["recordings"], whole["median_gap"]) == (3, 2, 1.0)
    assert whole["pair_accuracy"] == pytest.approx(2 / 3)
    slices = figures_by_slice(scores)
    assert list(slices) == ["all", "seen", "vocoder:x", "unseen", "vocoder:y"]
    assert slices["unseen"]["auc"] == 0
    assert slices["seen"]["auc"] == 1


def test_the_control_hears_a_spectral_tilt_at_any_level_and_nothing_where_spectra_agree():
    generator = torch.Generator().manual_seed(0)

    def clip(number: int, tilt: float) -> Clip:
        noise = torch.randn(8000, generator=generator)
        spectrum = torch.fft.rfft(noise)
        tilted = torch.fft.irfft(spectrum * torch.linspace(1, 1 - tilt, len(spectrum)), n=8000)
        return Clip(pair(str(number)), noise * 0.1, tilted * (0.01 + 0.1 * (number % 3)), 8000)

    tilted = [clip(n, 0.3) for n in range(12)]
    assert figures(average_spectrum_control(tilted[:6], tilted[6:]))["auc"] == 1
    equal = [clip(n, 0.0) for n in range(12)]
    assert figures(average_spectrum_control(equal[:6], equal[6:]))["pair_accuracy"] < 0.95
    with pytest.raises(ValueError, match="training must hold at least one clip"):
        average_spectrum_control([], tilted)
