"""Draw masks from a trained network: the posterior of a clip's mask as mean and variance over samples.

The features G(I) are computed once per clip and shared by all steps and samples. Where the denoiser estimates the mask itself, its first
estimate, made where no signal is left, already is the posterior mean, and the mean of the samples tends to the same by the law of total
expectation, with the sampling noise of a few draws on top: averaging both costs nothing and gains nothing (measured: a tie). The samples
are what a segmenter cannot give: whole masks that the clip allows, and how far they disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from xaibench.explainers.segdiff.diffusion import Sampler, Start
from xaibench.explainers.segdiff.features import Maps
from xaibench.explainers.segdiff.network import Condition, SegDiffNetwork
from xaibench.explainers.segdiff.weights import ModelConfig


@dataclass(frozen=True)
class Sampling:
    """How a posterior is sampled; the defaults were chosen on the development split."""

    steps: int = 2
    samples: int = 4
    sampler: Sampler = "ancestral"
    eta: float = 0.0
    first_share: float = 0.8
    """Weight of the first estimate in the mean; the samples have the rest. 0 averages samples alone, as the paper does."""
    start_share: float = 0.5
    """Share of the schedule at which a trajectory begins that starts from a given estimate of the mask."""


class Posterior(NamedTuple):
    """Probability that a cell lies in the mask, and its variance over samples, both (B, R, F, N)."""

    mean: Tensor
    variance: Tensor


@torch.no_grad()
def posterior(
    network: SegDiffNetwork,
    model: ModelConfig,
    image: Tensor,
    generators: Sequence[torch.Generator],
    sampling: Sampling,
    maps: Maps = (),
    frames: int | None = None,
    start: Tensor | None = None,
) -> Posterior:
    """Return the posterior of the masks of images (B, C, F, N); one generator per clip, so that a batch equals its singles.

    ``one_shot`` networks answer once, from an empty mask; their variance is zero. Networks that read a detector need its ``maps``, which
    span ``frames`` of the frames. ``start`` holds estimates of the masks in [-1, 1], (B, R, F, N), from which samples are drawn instead of
    from noise: those of a ``one_shot`` network.
    """
    clips, empty = [], image.new_zeros(1, model.network.mask_channels, *image.shape[-2:])
    for i, generator in enumerate(generators):
        condition = network.condition(image[i : i + 1], tuple(m[i : i + 1] for m in maps), frames)
        begin = None if start is None else Start(start[i : i + 1], max(round(sampling.start_share * model.diffusion.steps) - 1, 0))
        clips.append(_one(network, model, condition, empty, generator, sampling, begin))
    mean, variance = (torch.stack(column) for column in zip(*clips, strict=True))
    return Posterior(mean, variance)


def _one(
    network: SegDiffNetwork,
    model: ModelConfig,
    condition: Condition,
    empty: Tensor,
    generator: torch.Generator,
    sampling: Sampling,
    start: Start | None,
) -> tuple[Tensor, Tensor]:
    """Sample one clip, all its samples in one batch; ``empty`` is an empty mask (1, R, F, N). Returns (R, F, N) twice."""
    shape = (sampling.samples, *empty.shape[1:])
    if model.method == "one_shot":
        last = torch.full((1,), model.diffusion.steps - 1, device=empty.device)
        answer = network(empty, last, condition).sigmoid()[0]
        return answer, torch.zeros_like(answer)

    def denoise(noisy: Tensor, times: Tensor, estimate: Tensor | None) -> Tensor:
        out: Tensor = network(noisy, times, condition.repeat(len(noisy)), None if estimate is None else estimate.expand_as(noisy))
        return out

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device).to(empty.device)

    first = samples = None
    for estimate in model.diffusion.trajectory(denoise, draw, sampling.steps, sampling.sampler, sampling.eta, start):
        samples = ((estimate + 1) / 2).clamp(0, 1)  # (S, R, F, N)
        first = samples.mean(0) if first is None else first
    if start is not None:
        first = ((start.mask[0] + 1) / 2).clamp(0, 1)
    assert first is not None  # there is at least one step
    assert samples is not None
    return torch.lerp(samples.mean(0), first, sampling.first_share), samples.var(0, unbiased=False)
