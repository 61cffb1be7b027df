"""Judges of a generator: one folds the waveform by periods, one reads spectrograms; both answer with numbers and with what they saw.

Multi-period discriminator of Kong, Kim & Bae (2020, arXiv:2010.05646, sec. 2.3); multi-resolution spectrogram discriminator of Jang et al.
(2021, arXiv:2106.07889, sec. 2.2); least-squares losses (Mao et al. 2017), feature matching (Kumar et al. 2019, arXiv:1910.06711, eq. 5).
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from xaibench.tasks.spectrogram import STFTConfig, magnitude

PERIODS = (2, 3, 5, 7, 11)
GRIDS = (STFTConfig(256, 64), STFTConfig(512, 128), STFTConfig(1024, 256))


class Verdict(NamedTuple):
    """What one discriminator says."""

    score: Tensor
    """(B, ...), towards 1 for recordings."""
    seen: list[Tensor]
    """Its hidden features."""


class _Stack(nn.Module):
    """2-d convolutions over ``(B, 1, H, W)``, of stride along H."""

    def __init__(self, channels: int, layers: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        widths = [1] + [min(channels * 2**i, 8 * channels) for i in range(layers)]
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.layers = nn.ModuleList(weight_norm(nn.Conv2d(a, b, kernel, stride, padding)) for a, b in pairwise(widths))
        self.last = weight_norm(nn.Conv2d(widths[-1], 1, (3, kernel[1]), 1, (1, kernel[1] // 2)))

    def forward(self, image: Tensor) -> Verdict:
        seen = []
        for layer in self.layers:
            image = nn.functional.leaky_relu(layer(image), 0.1)
            seen.append(image)
        return Verdict(self.last(image).flatten(1), seen)


class Discriminators(nn.Module):
    """All judges of a training.

    Args:
        channels: Channels of the first layers; 8 for a CPU, 32 as published.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.periods = nn.ModuleList(_Stack(channels, 4, (5, 1), (3, 1)) for _ in PERIODS)
        self.grids = nn.ModuleList(_Stack(channels, 3, (5, 3), (2, 1)) for _ in GRIDS)

    def verdicts(self, waveform: Tensor) -> list[Verdict]:
        """Judge ``(B, T)``."""
        folded = [judge(fold(waveform, period)) for judge, period in zip(self.periods, PERIODS, strict=True)]
        return folded + [judge(magnitude(waveform, grid)[:, None]) for judge, grid in zip(self.grids, GRIDS, strict=True)]

    def forward(self, waveform: Tensor, generated: Tensor) -> Tensor:
        """Return the discriminators' own loss: recordings towards 1, copies towards 0."""
        both = self.verdicts(torch.cat([waveform, generated]))
        parts = [v.score.chunk(2) for v in both]
        return torch.stack([(1 - real).square().mean() + fake.square().mean() for real, fake in parts]).mean()

    def persuade(self, waveform: Tensor, generated: Tensor) -> Tensor:
        """Return the generator's loss: copies towards 1, plus twice the distance of hidden features."""
        real, fake = self.verdicts(waveform), self.verdicts(generated)
        fooled = torch.stack([(1 - v.score).square().mean() for v in fake]).mean()
        pairs = [(a.detach(), b) for r, f in zip(real, fake, strict=True) for a, b in zip(r.seen, f.seen, strict=True)]
        return fooled + 2 * torch.stack([(a - b).abs().mean() / a.abs().mean().clamp(min=1e-3) for a, b in pairs]).mean()


def fold(waveform: Tensor, period: int) -> Tensor:
    """Return ``(B, 1, ceil(T / period), period)``, mirrored at the end."""
    missing = -waveform.shape[-1] % period
    padded = nn.functional.pad(waveform[:, None], (0, missing), mode="reflect")
    return padded.reshape(len(waveform), 1, -1, period)
