"""HiFi-GAN (Kong, Kim & Bae 2020, arXiv:2010.05646): transposed convolutions up to sample rate, each followed by parallel residual stacks.

The generator of sec. 2.2 for a hop of 200 samples, 5 x 5 x 4 x 2; discriminators and losses are in the files of these names.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.neural.features import BANDS, HOP, Condition
from xaibench.tasks.vocoders.neural.losses import reconstruction
from xaibench.tasks.vocoders.neural.network import Generators, Network
from xaibench.tasks.vocoders.neural.vocoder import NeuralVocoder

RATES = (5, 5, 4, 2)
KERNELS = (11, 11, 8, 4)
"""Kernels of the transposed convolutions; ``kernel - rate`` is even, so that padding leaves exactly rate x frames."""
assert math.prod(RATES) == HOP


@dataclass(frozen=True)
class HiFiGANSizes:
    """Width before the first transposed convolution, halved by each; kernels of the residual stacks and their dilations."""

    channels: int = 128
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)


class _Residual(nn.Module):
    """Pairs of convolutions, the first of growing dilation, each added to what it read (appendix A.1, "ResBlock 1")."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        half = kernel // 2
        self.first = nn.ModuleList(weight_norm(nn.Conv1d(channels, channels, kernel, padding=half * d, dilation=d)) for d in dilations)
        self.second = nn.ModuleList(weight_norm(nn.Conv1d(channels, channels, kernel, padding=half)) for _ in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        for first, second in zip(self.first, self.second, strict=True):
            hidden = hidden + second(_leaky(first(_leaky(hidden))))
        return hidden


def _leaky(hidden: Tensor) -> Tensor:
    return nn.functional.leaky_relu(hidden, 0.1)


class _Parallel(nn.Module):
    """Residual stacks of several kernels side by side, averaged ("multi-receptive field fusion")."""

    def __init__(self, channels: int, sizes: HiFiGANSizes) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(_Residual(channels, kernel, sizes.dilations) for kernel in sizes.kernels)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.stack([stack(hidden) for stack in self.stacks]).mean(0)


class HiFiGANNetwork(Network):
    """Mel to waveform."""

    presets: ClassVar[dict[str, HiFiGANSizes]] = {
        "tiny": HiFiGANSizes(32, (3,), (1, 3)),
        "small": HiFiGANSizes(96, (3, 7), (1, 3, 5)),
        "base": HiFiGANSizes(192, (3, 7, 11), (1, 3, 5)),
    }

    def __init__(self, sizes: HiFiGANSizes) -> None:
        super().__init__(sizes)
        widths = [max(4, sizes.channels // 2**i) for i in range(len(RATES) + 1)]
        self.first = weight_norm(nn.Conv1d(BANDS, widths[0], 7, padding=3))
        self.up = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(widths[i], widths[i + 1], kernel, rate, (kernel - rate) // 2))
            for i, (kernel, rate) in enumerate(zip(KERNELS, RATES, strict=True))
        )
        self.fuse = nn.ModuleList(_Parallel(width, sizes) for width in widths[1:])
        self.last = weight_norm(nn.Conv1d(widths[-1], 1, 7, padding=3))

    def generate(self, condition: Condition, samples: int, generators: Generators) -> Tensor:
        """Return ``(B, samples)``; no random number is drawn."""
        hidden = self.first(condition.mel)
        for up, fuse in zip(self.up, self.fuse, strict=True):
            hidden = up(_leaky(hidden))
            hidden = fuse(hidden)
        wave: Tensor = torch.tanh(self.last(_leaky(hidden)))[:, 0, :samples]
        return wave

    def forward(self, waveform: Tensor, condition: Condition, generators: Generators) -> tuple[Tensor, Tensor | None]:
        """Return the distance of spectra and the copy."""
        generated = self.generate(condition, waveform.shape[-1], generators)
        return reconstruction(generated, waveform), generated


@VOCODERS.register("hifigan")
@dataclass(frozen=True)
class HiFiGAN(NeuralVocoder):
    """Upsampling by transposed convolutions, trained against discriminators."""

    title: ClassVar[str] = "HiFi-GAN"
    kind: ClassVar[str] = "neural-gan"
    reference: ClassVar[str] = "Kong et al. 2020, arXiv:2010.05646"
    network: ClassVar[type[Network]] = HiFiGANNetwork
