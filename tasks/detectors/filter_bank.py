"""Initial values for a small waveform encoder: a bank of band-pass filters whose outputs are rectified and averaged.

The random convolutions of an untrained ``FeatureExtractor`` say next to nothing of a clip's spectrum, and a small corpus is not enough to
learn it; XLS-R has learned it from 436 000 hours. So the tiny sibling starts where a filter bank stands: each band is heard at several
phases, whose half-waves add up to an envelope, and later convolutions average it down to the frame rate. Training goes on from there.
"""

import math
from typing import cast

import torch
from torch import Tensor

from xaibench.tasks.detectors.wav2vec2 import ConvolutionLayer, FeatureExtractor
from xaibench.types import SAMPLE_RATE

LOWEST_HZ, HIGHEST_HZ = 100.0, 7600.0
TILT = 1.5
"""Exponent of frequency in the filters' gains: high bands of speech are weak, and channel normalization is linear."""
GAIN = 6.0
"""Factor on the normalized filter outputs: far from zero a GELU is a half-wave rectifier."""
SHIFT = 2.0
"""Added to the normalized envelopes, so that their GELU is nearly linear."""
BLUR = 0.1
"""What is left of the random values, for channels to differ by."""


def start_as_filter_bank(extractor: FeatureExtractor, bands: int) -> None:
    """Replace the random initial values of an extractor.

    Args:
        extractor: Its first convolution has several channels for each band, one for each phase.
        bands: Number of bands, equally spaced in mel.

    Raises:
        ValueError: If the first convolution cannot hold so many bands.
    """
    first, *later = cast("list[ConvolutionLayer]", list(extractor.conv_layers))
    channels, _, kernel = first.conv.weight.shape
    if bands < 2 or channels % bands:
        raise ValueError(f"filter_bands must be a divisor of {channels}, the channels of the first convolution, got {bands}; use 2 or more")
    with torch.no_grad():
        first.conv.weight.copy_(filters(bands, channels // bands, kernel)[:, None])
        first.conv.bias.zero_()  # type: ignore[union-attr]
        first.layer_norm.weight.fill_(GAIN)
        entering = torch.arange(channels) % bands  # the band of each channel that enters
        for layer in later:
            out = len(layer.conv.weight)
            leaving = torch.arange(out) % bands
            same = (leaving[:, None] == entering).float()
            average = same / same.sum(1, keepdim=True).clamp(min=1) / layer.conv.weight.shape[2]
            layer.conv.weight.mul_(BLUR).add_(average[..., None])
            layer.conv.bias.zero_()  # type: ignore[union-attr]
            layer.layer_norm.bias.fill_(SHIFT)
            entering = leaving


def filters(bands: int, phases: int, kernel: int) -> Tensor:
    """Return ``(phases * bands, kernel)``: Gaussian-windowed cosines, all bands at the first phase, then all at the next.

    Bandwidths are 1.5 times the equivalent rectangular ones of hearing (Glasberg & Moore 1990), as far as the kernel allows.
    """
    mel = torch.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), bands)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    time = (torch.arange(kernel) - (kernel - 1) / 2) / SAMPLE_RATE
    width_hz = 1.5 * 24.7 * (4.37 * hertz / 1000 + 1)
    window = torch.exp(-0.5 * (2 * math.pi * width_hz[:, None] * time / 2.355).square()) * torch.hann_window(kernel, periodic=False)
    shifts = 2 * math.pi * torch.arange(phases) / phases
    waves = torch.cos(2 * math.pi * hertz[:, None] * time + shifts[:, None, None]) * window  # (phases, bands, kernel)
    waves = waves / waves.norm(dim=2, keepdim=True)
    bank: Tensor = 10 * waves * (hertz / 1000).clamp(min=0.2)[:, None] ** TILT
    return bank.flatten(0, 1)


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)
