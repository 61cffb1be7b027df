"""Random notch filters, from which RawBoost builds channels and colours of noise (Tak et al. 2022, arXiv:2111.04433, section 3)."""

from dataclasses import dataclass

import torch
from scipy.signal import firwin
from torch import Tensor

from xaibench.types import SAMPLE_RATE

EDGE_HZ = 1e-3
"""Distance that band edges keep from 0 Hz and from half the sample rate."""


@dataclass(frozen=True)
class NotchRanges:
    """Ranges from which a filter is drawn, uniformly; the defaults are the published ones."""

    n_bands: int = 5
    center_hz: tuple[float, float] = (20.0, 8000.0)
    bandwidth_hz: tuple[float, float] = (100.0, 1000.0)
    taps: tuple[int, int] = (10, 100)
    """Taps of one band, made odd by adding one."""


def uniform(bounds: tuple[float, float], generator: torch.Generator) -> float:
    """Draw a number between two bounds, which may come in either order."""
    return bounds[0] + (bounds[1] - bounds[0]) * float(torch.rand(1, generator=generator, dtype=torch.float64))


def amplitude(decibels: float) -> float:
    """Return decibels as a factor."""
    return float(10 ** (decibels / 20))


def draw_notch(ranges: NotchRanges, gain_db: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draw a cascade of band stops as one filter of odd length, ``(K,)`` float64, whose strongest frequency has a gain in ``gain_db``."""
    cascade = torch.ones(1, dtype=torch.float64)
    for _ in range(ranges.n_bands):
        center, width = uniform(ranges.center_hz, generator), uniform(ranges.bandwidth_hz, generator)
        taps = int(torch.randint(ranges.taps[0], ranges.taps[1] + 1, (1,), generator=generator)) | 1
        edges = max(center - width / 2, EDGE_HZ), min(center + width / 2, SAMPLE_RATE / 2 - EDGE_HZ)
        cascade = convolve(cascade, torch.from_numpy(firwin(taps, edges, window="hamming", pass_zero="bandstop", fs=SAMPLE_RATE)))
    peak = float(torch.fft.rfft(cascade, 1024).abs().max())
    return cascade * (amplitude(uniform(gain_db, generator)) / peak)


def convolve(signal: Tensor, taps: Tensor) -> Tensor:
    """Convolve signals ``(..., T)`` with a filter ``(K,)`` to full length ``(..., T + K - 1)``."""
    length = signal.shape[-1] + len(taps) - 1
    size = 1 << (length - 1).bit_length()
    full: Tensor = torch.fft.irfft(torch.fft.rfft(signal, size) * torch.fft.rfft(taps, size), size)
    return full[..., :length]


def filtered(signal: Tensor, taps: Tensor) -> Tensor:
    """Filter signals ``(..., T)`` without delay, to the same length: the filter's centre tap lies on each sample.

    The published code advances by one sample more, which would move the twins under a mask that was made before.
    """
    start = (len(taps) - 1) // 2
    return convolve(signal, taps)[..., start : start + signal.shape[-1]]
