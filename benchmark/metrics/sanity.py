"""Does the heatmap depend on what it should depend on: the detector's weights, the vocoder, and not the seed?"""

import copy
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from xaibench.benchmark.metrics.inputs import Maps, check_heatmap, check_mask, check_shape
from xaibench.benchmark.metrics.localization import spearman
from xaibench.tasks.masks import top_cells
from xaibench.types import Detector

AnyDetector = TypeVar("AnyDetector", bound=Detector)
ENTROPY_BINS = 100


def randomized(detector: AnyDetector, seed: int = 0) -> AnyDetector:
    """Return a copy with every parameter drawn anew from a normal of the tensor's own mean and deviation.

    Every parameter is reached, also bare ones and the two halves of weight norm, and its scale stays. Tensors whose entries are all equal
    (an untouched normalisation layer) hold nothing to forget and keep their value; buffers (windows, running statistics) stay.
    """
    scrambled = copy.deepcopy(detector).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in scrambled.parameters():
            spread = float(parameter.std()) if parameter.numel() > 1 else float(parameter.abs().sum())
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(parameter.mean() + spread * noise.to(parameter))
    return scrambled


def entropy_rise(heatmap: Any, randomized_heatmap: Any, valid: Any = None, *, bins: int = ENTROPY_BINS) -> float:
    """Relative rise of a map's entropy once the detector is randomised, eMPRT (Hedström et al. 2024, arXiv:2405.02383).

    The entropy is that of the histogram of the map's values over their own range. A method that reads the detector gives a noisier map of a
    random one; 0 means that the map does not depend on the weights. NaN where the explanation is constant.

    Args:
        heatmap: Of the trained detector, (F, N).
        randomized_heatmap: Of its randomised copy, (F, N).
        valid: Cells that count, (F, N) bool; all by default. NaN where there is none.
        bins: Of the histogram.

    Raises:
        ValueError: If shapes differ, or a value is NaN or infinite.
    """
    maps = [check_heatmap(one, ndim=2) for one in (heatmap, randomized_heatmap)]
    check_shape(maps[1], maps[0].shape, "randomized_heatmap")
    cells = np.ones(maps[0].shape, np.bool_) if valid is None else check_mask(valid, maps[0].shape, "valid")
    if not cells.any():
        return float("nan")
    trained, scrambled = (_histogram_entropy(one[cells], bins) for one in maps)
    return (scrambled - trained) / trained if trained > 0 else float("nan")


def _histogram_entropy(values: Any, bins: int) -> float:
    counts, _ = np.histogram(values.astype(np.float64), bins=bins)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def cross_vocoder_similarity(heatmaps: Maps, valid: Maps | None = None, *, density: float = 0.05) -> float:
    """Mean Dice between the strongest cells of the explanations of one utterance through different vocoders.

    Vocoders leave different traces (their masks share .2), so a high value means that the map follows the speech and not the artifact.

    Args:
        heatmaps: One per vocoder, (V, F, N), on one common alignment.
        valid: Cells that count, (V, F, N) bool.
        density: Share of the valid cells that is compared; also the chance level.

    Raises:
        ValueError: If there are fewer than 2 maps, shapes differ, or the density is not between 0 and 1.
    """
    if not 0 < density < 1:
        raise ValueError(f"density must be between 0 and 1, got {density}; use 0.05")
    maps = check_heatmap(heatmaps)
    cells = np.ones(maps.shape, np.bool_) if valid is None else check_mask(valid, maps.shape, "valid")
    common = np.logical_and.reduce(cells)
    count = int(np.ceil(density * common.sum()))
    chosen, _ = top_cells(torch.tensor(maps.astype(np.float64)), count, torch.tensor(common))
    return _mean_over_pairs([(one & other).sum() / count for one, other in combinations(chosen.numpy(), 2)], len(maps))


def repeatability(heatmaps: Maps, valid: Maps | None = None) -> float:
    """Mean rank correlation between the explanations of one clip under different seeds, (S, F, N); 1 for a method without chance."""
    maps = check_heatmap(heatmaps)
    pairs = [(i, j) for i, j in combinations(range(len(maps)), 2)]
    cells = None if valid is None else check_mask(valid, maps.shape, "valid")
    scores = [float(spearman(maps[i : i + 1], maps[j : j + 1], None if cells is None else cells[i : i + 1])[0]) for i, j in pairs]
    return _mean_over_pairs(scores, len(maps))


def _mean_over_pairs(scores: list[Any], maps: int) -> float:
    if maps < 2:
        raise ValueError(f"heatmaps must hold at least 2 maps, got {maps}; explain the utterance again")
    return float(np.mean(scores))


def maximum_sensitivity(heatmap: Tensor, perturbed: Tensor) -> Tensor:
    """Largest relative change of a map under inaudible changes of its clip, (B,) (Yeh et al. 2019, arXiv:1901.09392).

    Args:
        heatmap: Of the clips, (B, F, N).
        perturbed: Of R perturbed copies of each clip, (R, B, F, N).

    Returns:
        ``max_r ||perturbed_r - heatmap|| / ||heatmap||`` in float64; NaN for a map of zeros.
    """
    if perturbed.ndim != 4 or perturbed.shape[1:] != heatmap.shape:
        raise ValueError(
            f"perturbed must have shape (R, {', '.join(map(str, heatmap.shape))}), got {tuple(perturbed.shape)}; stack the copies first"
        )
    change = (perturbed.double() - heatmap.double()).flatten(2).norm(dim=2).amax(0)
    size = heatmap.double().flatten(1).norm(dim=1)
    return torch.where(size > 0, change / size, torch.full_like(size, float("nan")))
