"""Harmonic-plus-noise neural source filter (Wang, Takaki & Yamagishi 2019, arXiv:1904.12088; with sinc filters, arXiv:1908.10256).

Sines at multiples of F0 are shaped by dilated convolutions into the harmonic part, noise by one such block into the noise part. Both meet
in a pair of complementary filters whose corner, the maximum voice frequency, the network chooses per frame from mel and voicing.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.neural.features import BANDS, Condition, to_samples
from xaibench.tasks.vocoders.neural.losses import reconstruction
from xaibench.tasks.vocoders.neural.network import Generators, Network, normal
from xaibench.tasks.vocoders.neural.vocoder import NeuralVocoder
from xaibench.types import SAMPLE_RATE

HARMONICS = 8
SINE = 0.1
"""Amplitude of each sine; noise of a thirtieth of it lies under voiced, of a third in unvoiced speech (eq. 2)."""
TAPS = 31


@dataclass(frozen=True)
class HnNSFSizes:
    """Width, filter blocks of the harmonic part, convolutions per block, width at frame rate."""

    channels: int = 32
    blocks: int = 3
    layers: int = 6
    conditions: int = 96


def phase_cycles(f0_hz: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return the phase of the fundamental in cycles and whether a sample is voiced, both ``(B, samples)``, of F0 ``(B, N)``.

    F0 is interpolated between voiced frames and held at their edges; the phase never jumps, and rests where no voiced frame is near.
    """
    voicing = to_samples((f0_hz > 0).double(), samples)
    f0 = to_samples(f0_hz.double(), samples) / voicing.clamp(min=1e-6)
    return torch.cumsum(f0 / SAMPLE_RATE, dim=-1), voicing >= 0.5


def sine_source(f0_hz: Tensor, samples: int, generators: Generators) -> Tensor:
    """Return the excitation ``(B, 8, samples)``: harmonics below the Nyquist frequency where voiced, and noise."""
    cycles, voiced = phase_cycles(f0_hz, samples)
    number = torch.arange(1, HARMONICS + 1, device=f0_hz.device, dtype=cycles.dtype)[None, :, None]
    offsets = torch.stack([torch.rand(HARMONICS, 1, generator=g) for g in generators]).to(cycles)
    angle = 2 * math.pi * torch.remainder(number * cycles[:, None] + offsets, 1)
    rate = torch.diff(cycles, dim=-1, prepend=cycles[:, :1])[:, None] * SAMPLE_RATE
    sounding = voiced[:, None] & (number * rate < SAMPLE_RATE / 2)
    noise = normal(generators, (HARMONICS, samples), f0_hz) * torch.where(voiced, SINE / 30, SINE / 3)[:, None].to(f0_hz)
    sines: Tensor = (SINE * torch.sin(angle)).to(f0_hz) * sounding + noise
    return sines


def sinc_filters(corner: Tensor) -> tuple[Tensor, Tensor]:
    """Return Hamming-windowed low-pass and complementary high-pass filters ``(..., 31)`` of corners in (0, 1), as shares of Nyquist."""
    place = torch.arange(TAPS, device=corner.device, dtype=corner.dtype) - TAPS // 2
    window = torch.hamming_window(TAPS, periodic=False, device=corner.device, dtype=corner.dtype)
    low = corner[..., None] * torch.sinc(corner[..., None] * place) * window
    low = low / low.sum(-1, keepdim=True)
    return low, (place == 0).to(low) - low


def filtered(signal: Tensor, taps: Tensor) -> Tensor:
    """Filter ``(B, T)`` by symmetric taps ``(B, N, 31)`` that are given per frame: filter by each frame's, and interpolate."""
    windows = nn.functional.pad(signal, (TAPS // 2, TAPS // 2)).unfold(-1, TAPS, 1)
    per_sample = to_samples(taps.transpose(1, 2), signal.shape[-1]).transpose(1, 2)
    return (windows * per_sample).sum(-1)


class _Filter(nn.Module):
    """One neural filter: a signal in, the same signal plus what dilated convolutions make of it out (sec. 2.2 of arXiv:1904.12088)."""

    def __init__(self, sizes: HnNSFSizes) -> None:
        super().__init__()
        channels = sizes.channels
        self.enter = nn.Conv1d(1, channels, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=2**i, dilation=2**i) for i in range(sizes.layers))
        self.given = nn.Conv1d(sizes.conditions, channels * sizes.layers, 1)
        self.leave = nn.Conv1d(channels, 1, 1)
        with torch.no_grad():
            self.leave.weight.mul_(0.05)  # blocks begin near the identity

    def forward(self, signal: Tensor, condition: Tensor) -> Tensor:
        hidden = self.enter(signal)
        given = self.given(condition).chunk(len(self.layers), dim=1)
        for layer, bias in zip(self.layers, given, strict=True):
            hidden = hidden + torch.tanh(layer(hidden) + to_samples(bias, signal.shape[-1]))
        out: Tensor = signal + self.leave(hidden)
        return out


class HnNSFNetwork(Network):
    """Mel and F0 to waveform."""

    pitched: ClassVar[bool] = True
    presets: ClassVar[dict[str, HnNSFSizes]] = {
        "tiny": HnNSFSizes(8, 2, 3, 16),
        "small": HnNSFSizes(32, 3, 6, 96),
        "base": HnNSFSizes(64, 5, 10, 256),
    }

    def __init__(self, sizes: HnNSFSizes) -> None:
        super().__init__(sizes)
        width = sizes.conditions
        self.listen = nn.Sequential(nn.Conv1d(BANDS + 2, width, 5, padding=2), nn.GELU(), nn.Conv1d(width, width, 5, padding=2), nn.GELU())
        self.corner = nn.Conv1d(width, 1, 1)
        self.merge = nn.Conv1d(HARMONICS, 1, 1)
        self.harmonic = nn.ModuleList(_Filter(sizes) for _ in range(sizes.blocks))
        self.noise = _Filter(sizes)

    def maximum_voice_frequency(self, hidden: Tensor, voiced: Tensor) -> Tensor:
        """Return the corner ``(B, N)`` as a share of Nyquist: about 0.7 voiced and 0.2 unvoiced, and what the network adds."""
        return torch.sigmoid(self.corner(hidden)[:, 0] + torch.where(voiced, 0.85, -1.4))

    def generate(self, condition: Condition, samples: int, generators: Generators) -> Tensor:
        """Return ``(B, samples)``."""
        f0 = condition.f0_hz
        facts = torch.stack([(f0 > 0).to(f0), torch.log(f0.clamp(min=50) / 200)], dim=1)
        hidden = self.listen(torch.cat([condition.mel, facts], dim=1))
        voice = torch.tanh(self.merge(sine_source(f0, samples, generators)))
        for block in self.harmonic:
            voice = block(voice, hidden)
        breath = self.noise(SINE * normal(generators, (1, samples), f0), hidden)
        low, high = sinc_filters(self.maximum_voice_frequency(hidden, f0 > 0))
        return filtered(voice[:, 0], low) + filtered(breath[:, 0], high)

    def forward(self, waveform: Tensor, condition: Condition, generators: Generators) -> tuple[Tensor, Tensor | None]:
        """Return the distance of spectra and the copy."""
        generated = self.generate(condition, waveform.shape[-1], generators)
        return reconstruction(generated, waveform), generated


@VOCODERS.register("hn_nsf")
@dataclass(frozen=True)
class HnNSF(NeuralVocoder):
    """Sines and noise through neural filters."""

    title: ClassVar[str] = "Harmonic-plus-noise neural source filter"
    kind: ClassVar[str] = "neural-source-filter"
    reference: ClassVar[str] = "Wang et al. 2019, arXiv:1904.12088, arXiv:1908.10256"
    network: ClassVar[type[Network]] = HnNSFNetwork
