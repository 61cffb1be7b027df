"""A flow vocoder after WaveGlow (Prenger, Valle & Catanzaro 2019, arXiv:1811.00002): noise, turned into speech by invertible steps.

Eight samples are one vector. A step mixes its channels by an invertible matrix (Kingma & Dhariwal 2018, arXiv:1807.03039) and shifts and
scales one half by what a gated network makes of the other half and the mel bands; two channels leave early every few steps. Training
maximises the exact likelihood (eq. 3); no discriminator is needed.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.neural.blocks import GatedStack
from xaibench.tasks.vocoders.neural.features import BANDS, LEVEL, Condition, to_samples
from xaibench.tasks.vocoders.neural.network import Generators, Network, normal
from xaibench.tasks.vocoders.neural.vocoder import NeuralVocoder

GROUP = 8
EARLY = 2
"""Channels that leave at a time."""
TEMPERATURE = 0.6
"""Standard deviation of the noise that copies start from, as published."""


@dataclass(frozen=True)
class WaveGlowSizes:
    """Steps, steps between early outputs, and the coupling networks' width, layers and condition."""

    steps: int = 6
    early_every: int = 2
    channels: int = 48
    layers: int = 5
    conditions: int = 64


class _Mix(nn.Module):
    """Invertible matrix over channels, orthogonal at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        start = torch.linalg.qr(torch.randn(channels, channels))[0]
        start[:, 0] *= torch.linalg.det(start).sign()  # a positive determinant keeps the logarithm's branch
        self.matrix = nn.Parameter(start)

    def forward(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        return self.matrix @ groups, torch.linalg.slogdet(self.matrix)[1] * groups.shape[-1]

    def inverse(self, groups: Tensor) -> Tensor:
        mended: Tensor = torch.linalg.solve(self.matrix.double(), groups.double()).to(groups)
        return mended


class _Coupling(nn.Module):
    """Affine coupling; the last layer is 0 at first, so that a new step is the identity."""

    def __init__(self, channels: int, sizes: WaveGlowSizes) -> None:
        super().__init__()
        self.enter = nn.Conv1d(channels // 2, sizes.channels, 1)
        self.stack = GatedStack(sizes.channels, sizes.layers, sizes.conditions)
        self.leave = nn.Conv1d(sizes.channels, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def _affine(self, kept: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.leave(self.stack(self.enter(kept), condition)).chunk(2, dim=1)
        return 2 * torch.tanh(log_scale / 2), shift  # bounded, so that the inverse cannot overflow

    def forward(self, groups: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = groups.chunk(2, dim=1)
        log_scale, shift = self._affine(kept, condition)
        return torch.cat([kept, log_scale.exp() * moved + shift], dim=1), log_scale.sum((1, 2))

    def inverse(self, groups: Tensor, condition: Tensor) -> Tensor:
        kept, moved = groups.chunk(2, dim=1)
        log_scale, shift = self._affine(kept, condition)
        return torch.cat([kept, (moved - shift) * (-log_scale).exp()], dim=1)


class WaveGlowNetwork(Network):
    """Mel and noise to waveform, and back."""

    adversarial: ClassVar[bool] = False
    presets: ClassVar[dict[str, WaveGlowSizes]] = {
        "tiny": WaveGlowSizes(3, 2, 16, 2, 16),
        "small": WaveGlowSizes(6, 2, 48, 5, 64),
        "base": WaveGlowSizes(12, 4, 64, 7, 80),
    }

    def __init__(self, sizes: WaveGlowSizes) -> None:
        super().__init__(sizes)
        self.listen = nn.Sequential(nn.Conv1d(BANDS, sizes.conditions, 5, padding=2), nn.GELU())
        self.mixes, self.couplings = nn.ModuleList(), nn.ModuleList()
        self.leaving: list[int] = []
        """Channels that leave before each step."""
        channels = GROUP
        for number in range(sizes.steps):
            early = EARLY if number and number % sizes.early_every == 0 and channels - EARLY >= EARLY else 0
            channels -= early
            self.leaving.append(early)
            self.mixes.append(_Mix(channels))
            self.couplings.append(_Coupling(channels, sizes))
        self.remaining = channels

    def _condition(self, condition: Condition, samples: int) -> Tensor:
        return to_samples(self.listen(condition.mel), samples)[..., ::GROUP]

    def encode(self, waveform: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Turn ``(B, T)``, T a multiple of 8, into noise ``(B, 8, T / 8)``; also the logarithm of the determinant ``(B,)``."""
        given = self._condition(condition, waveform.shape[-1])
        groups = (waveform / LEVEL).reshape(len(waveform), -1, GROUP).transpose(1, 2)
        left, log_determinant = [], waveform.new_zeros(len(waveform))
        for early, mix, coupling in zip(self.leaving, self.mixes, self.couplings, strict=True):
            left.append(groups[:, :early])
            mixed, volume = mix(groups[:, early:])
            groups, gained = coupling(mixed, given)
            log_determinant = log_determinant + volume + gained
        return torch.cat([*left, groups], dim=1), log_determinant

    def decode(self, noise: Tensor, condition: Condition) -> Tensor:
        """Turn noise ``(B, 8, T / 8)`` into a waveform ``(B, T)``: the inverse of ``encode``."""
        given = self._condition(condition, noise.shape[-1] * GROUP)
        groups, place = noise[:, GROUP - self.remaining :], GROUP - self.remaining
        for early, mix, coupling in reversed(list(zip(self.leaving, self.mixes, self.couplings, strict=True))):
            assert isinstance(mix, _Mix)
            assert isinstance(coupling, _Coupling)
            groups = mix.inverse(coupling.inverse(groups, given))
            groups = torch.cat([noise[:, place - early : place], groups], dim=1)
            place -= early
        return groups.transpose(1, 2).reshape(len(noise), -1) * LEVEL

    def generate(self, condition: Condition, samples: int, generators: Generators) -> Tensor:
        """Return ``(B, samples)``."""
        noise = TEMPERATURE * normal(generators, (GROUP, -(-samples // GROUP)), condition.mel)
        return self.decode(noise, condition)[:, :samples]

    def forward(self, waveform: Tensor, condition: Condition, generators: Generators) -> tuple[Tensor, Tensor | None]:
        """Return the negative log-likelihood per sample, of samples in units of the usual level."""
        noise, log_determinant = self.encode(waveform, condition)
        likelihood = -0.5 * noise.square().sum((1, 2)) + log_determinant
        return 0.5 * math.log(2 * math.pi) - likelihood.mean() / waveform.shape[-1], None


@VOCODERS.register("waveglow")
@dataclass(frozen=True)
class WaveGlow(NeuralVocoder):
    """One pass of invertible steps from noise."""

    title: ClassVar[str] = "Flow vocoder (WaveGlow-like)"
    kind: ClassVar[str] = "neural-flow"
    reference: ClassVar[str] = "Prenger et al. 2019, arXiv:1811.00002"
    network: ClassVar[type[Network]] = WaveGlowNetwork
