"""Score a SegDiff network on cached examples: the number by which a training run selects its weights."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaibench.explainers.segdiff.data import Examples
from xaibench.explainers.segdiff.network import SegDiffNetwork
from xaibench.explainers.segdiff.sampling import Sampling, posterior
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
        generators = [torch.Generator().manual_seed(i)]
        heat = posterior(network, model, batch.image.to(device), generators, sampling or Sampling()).mean.cpu()
        for r, recipe in enumerate(model.recipes):
            if bool(batch.weight[0, r].any()):
                score = generalized_dice(heat[0, r], batch.mask[0, r], batch.weight[0, r].expand_as(batch.mask[0, r]) > 0)
                for label in (recipe, *([f"{recipe}/{groups[i]}"] if groups else [])):
                    kept[label].append(score)
    scores = {label: 100 * sum(values) / len(values) for label, values in sorted(kept.items())}
    return {"mean": sum(scores[r] for r in model.recipes if r in scores) / len(model.recipes), **scores}


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
