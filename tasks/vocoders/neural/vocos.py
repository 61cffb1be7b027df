"""An iSTFT vocoder after Vocos (Siuzdak 2023, arXiv:2306.00814): ConvNeXt blocks at frame rate, then one inverse Fourier transform.

No layer runs at sample rate, hence the cheapest of the neural vocoders. The head predicts log magnitude and phase of every cell (eq. 4-7).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.registry import VOCODERS
from xaibench.tasks.spectrogram import inverse
from xaibench.tasks.vocoders.neural.features import BANDS, GRID, Condition
from xaibench.tasks.vocoders.neural.losses import reconstruction
from xaibench.tasks.vocoders.neural.network import Generators, Network
from xaibench.tasks.vocoders.neural.vocoder import NeuralVocoder

LOUDEST = 100.0
"""Largest magnitude that the head can give, against overflow early in training."""


@dataclass(frozen=True)
class VocosSizes:
    """Width and depth."""

    channels: int = 256
    layers: int = 8


class _Block(nn.Module):
    """ConvNeXt block (Liu et al. 2022, arXiv:2201.03545) in one dimension."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 3 * channels), nn.Linear(3 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1 / layers))

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.norm(self.depthwise(hidden).transpose(1, 2))
        inner = self.narrow(nn.functional.gelu(self.wide(inner))) * self.scale
        summed: Tensor = hidden + inner.transpose(1, 2)
        return summed


class VocosNetwork(Network):
    """Mel to complex spectrum to waveform."""

    presets: ClassVar[dict[str, VocosSizes]] = {"tiny": VocosSizes(32, 2), "small": VocosSizes(192, 6), "base": VocosSizes(256, 8)}

    def __init__(self, sizes: VocosSizes) -> None:
        super().__init__(sizes)
        channels = sizes.channels
        self.embed = nn.Conv1d(BANDS, channels, 7, padding=3)
        self.first = nn.LayerNorm(channels)
        self.blocks = nn.Sequential(*(_Block(channels, sizes.layers) for _ in range(sizes.layers)))
        self.last = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, 2 * GRID.bins)

    def spectrum(self, condition: Condition) -> Tensor:
        """Return ``(B, 401, N)`` complex."""
        hidden = self.first(self.embed(condition.mel).transpose(1, 2)).transpose(1, 2)
        level, phase = self.head(self.last(self.blocks(hidden).transpose(1, 2))).transpose(1, 2).chunk(2, dim=1)
        return torch.polar(level.exp().clamp(max=LOUDEST), phase)

    def generate(self, condition: Condition, samples: int, generators: Generators) -> Tensor:
        """Return ``(B, samples)``; no random number is drawn."""
        return inverse(self.spectrum(condition), samples, GRID)

    def forward(self, waveform: Tensor, condition: Condition, generators: Generators) -> tuple[Tensor, Tensor | None]:
        """Return the distance of spectra and the copy."""
        generated = self.generate(condition, waveform.shape[-1], generators)
        return reconstruction(generated, waveform), generated


@VOCODERS.register("vocos")
@dataclass(frozen=True)
class Vocos(NeuralVocoder):
    """Every cell's magnitude and phase at once, then overlap-add."""

    title: ClassVar[str] = "iSTFT vocoder (Vocos-like)"
    kind: ClassVar[str] = "neural-istft"
    reference: ClassVar[str] = "Siuzdak 2023, arXiv:2306.00814"
    network: ClassVar[type[Network]] = VocosNetwork
