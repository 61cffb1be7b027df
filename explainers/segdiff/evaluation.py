"""Score a SegDiff network on cached examples: the number by which a training run selects its weights."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaibench.explainers.segdiff.data import Batch, Examples
from xaibench.explainers.segdiff.network import SegDiffNetwork
from xaibench.explainers.segdiff.sampling import Posterior, Sampling, posterior
from xaibench.explainers.segdiff.weights import ModelConfig


def evaluate(
    network: SegDiffNetwork,
    model: ModelConfig,
    examples: Examples,
    sampling: Sampling | None = None,
    *,
    groups: Sequence[str] = (),
    device: str = "cpu",
) -> dict[str, Any]:
    """Return Generalized Dice in percent: ``mean`` over recipes, one entry per recipe, and per recipe and group where groups are given.

    Args:
        network: In ``eval()`` mode.
        model: Its configuration.
        examples: Development examples; each clip's noise comes from its place in them.
        sampling: How the diffusion is sampled.
        groups: One label per example, e.g. its vocoder.
        device: Where the network is.
    """
    kept: dict[str, list[float]] = defaultdict(list)
    for i in range(len(examples)):
        batch = examples.batch([i])
        heat = _drawn(network, model, examples, batch, i, sampling or Sampling(), device).mean.cpu()
        for r, recipe in enumerate(model.recipes):
            if bool(batch.weight[0, r].any()):
                score = generalized_dice(heat[0, r], batch.mask[0, r], batch.weight[0, r].expand_as(batch.mask[0, r]) > 0)
                for label in (recipe, *([f"{recipe}/{groups[i]}"] if groups else [])):
                    kept[label].append(score)
    scores = {label: 100 * sum(values) / len(values) for label, values in sorted(kept.items())}
    return {"mean": sum(scores[r] for r in model.recipes if r in scores) / len(model.recipes), **scores}


def calibration(network: SegDiffNetwork, model: ModelConfig, examples: Examples, *, device: str = "cpu") -> dict[str, float]:
    """Return ``reliability`` of the default sampling over all known cells and recipes of the examples."""
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in range(len(examples)):
        batch = examples.batch([i])
        drawn = _drawn(network, model, examples, batch, i, Sampling(), device)
        known = batch.weight.expand_as(batch.mask) > 0
        columns.append((drawn.mean.cpu()[known], drawn.variance.cpu()[known], batch.mask[known]))
    probability, variance, mask = (torch.cat(column) for column in zip(*columns, strict=True))
    return reliability(probability, variance, mask)


def _drawn(
    network: SegDiffNetwork, model: ModelConfig, examples: Examples, batch: Batch, number: int, sampling: Sampling, device: str
) -> Posterior:
    """Return the posterior of the one example of a batch, with noise from its number."""
    maps = tuple(m.to(device) for m in batch.maps)
    return posterior(
        network, model, batch.image.to(device), [torch.Generator().manual_seed(number)], sampling, maps, examples.frames or None
    )


def reliability(probability: Tensor, variance: Tensor, mask: Tensor, bins: int = 20) -> dict[str, float]:
    """Tell whether probabilities and variances of cells, all (n,), say how often and how far the mask differs.

    ``calibration_error`` is the expected calibration error (Naeini et al. 2015): the mean gap between probability and frequency over bins
    of probability. ``squared_error`` is what ``expected_squared_error``, the mean of p (1 - p), predicts. ``variance`` over samples is a
    part of it; ``deviation_correlation`` is Pearson's between the samples' standard deviation and the absolute error.
    """
    error, deviation = (probability - mask).double(), variance.double().sqrt()
    place = (probability * bins).long().clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, error)
    spread = float(deviation.std())
    return {
        "calibration_error": float(gaps.abs().sum()) / len(error),
        "squared_error": float((error**2).mean()),
        "expected_squared_error": float((probability * (1 - probability)).double().mean()),
        "variance": float(variance.double().mean()),
        "deviation_correlation": float(torch.corrcoef(torch.stack([deviation, error.abs()]))[0, 1]) if spread else 0.0,
    }


def generalized_dice(heatmap: Tensor, mask: Tensor, valid: Tensor) -> float:
    """Return Generalized Dice (Sudre et al. 2017, arXiv:1707.03237) of the |mask| largest valid cells against the mask, both classes."""
    scores, wanted = heatmap[valid], mask[valid] > 0
    inside, total = int(wanted.sum()), wanted.numel()
    chosen = torch.zeros_like(wanted)
    chosen[scores.topk(inside).indices] = True
    hits = int((chosen & wanted).sum())
    outside, rejected = total - inside, total - 2 * inside + hits
    weights = 1 / inside**2, 1 / outside**2
    return 2 * (weights[0] * hits + weights[1] * rejected) / (weights[0] * 2 * inside + weights[1] * 2 * outside)
