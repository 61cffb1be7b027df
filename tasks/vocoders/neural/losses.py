"""Distances of spectra that train vocoders: several resolutions at once, so that no single window can be fooled.

Multi-resolution STFT loss of Yamamoto, Song & Kim (2020, arXiv:1910.11480, eq. 3-6): spectral convergence and log magnitude. Mel loss of
Kong, Kim & Bae (2020, arXiv:2010.05646, eq. 4).
"""

import torch
from torch import Tensor

from xaibench.tasks.spectrogram import STFTConfig, stft
from xaibench.tasks.vocoders.neural.features import LEVEL, log_mel

RESOLUTIONS = (STFTConfig(256, 64), STFTConfig(512, 128), STFTConfig(1024, 256))
POWER_FLOOR = 1e-5
"""Least power of a cell, 50 dB under that of white noise at the usual level."""


def spectral_distance(generated: Tensor, waveform: Tensor, grid: STFTConfig) -> Tensor:
    """Return spectral convergence plus mean absolute difference of log magnitudes, 0 for equal ``(B, T)``.

    Convergence is relative to the recording, or to noise 20 dB under the usual level in pauses, which would else outweigh all speech.
    """
    one, two = _magnitude(generated, grid), _magnitude(waveform, grid)
    pause = two[0].numel() * 0.375 * grid.window_samples * (LEVEL / 10) ** 2  # 0.375: mean square of a Hann window
    convergence = ((two - one).square().sum((1, 2)) / two.square().sum((1, 2)).clamp(min=pause)).clamp(min=1e-12).sqrt()
    return convergence.mean() + (two.log() - one.log()).abs().mean()


def _magnitude(waveform: Tensor, grid: STFTConfig) -> Tensor:
    spectrum = stft(waveform, grid)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=POWER_FLOOR).sqrt()


def mel_distance(generated: Tensor, waveform: Tensor) -> Tensor:
    """Return the mean absolute difference of log-mel features."""
    return (log_mel(generated) - log_mel(waveform)).abs().mean()


def reconstruction(generated: Tensor, waveform: Tensor) -> Tensor:
    """Return the mean distance over resolutions plus three times that of mel features."""
    distances = torch.stack([spectral_distance(generated, waveform, grid) for grid in RESOLUTIONS])
    return distances.mean() + 3 * mel_distance(generated, waveform)
