"""What a neural vocoder is given of a recording: 80 log-mel bands and F0 every 12.5 ms, of a voice brought to one level.

Frames are centred: frame n lies around sample 200 n, so ``T`` samples give ``N = T // 200 + 1`` frames.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xaibench.tasks.spectrogram import STFTConfig, magnitude
from xaibench.tasks.vocoders.mel import mel_filters
from xaibench.tasks.vocoders.pitch import PitchTracker

BANDS = 80
HOP = 200
GRID = STFTConfig(800, HOP)
MARGIN = 2
"""Frames on each side of a crop from which no window reaches beyond the crop's own samples."""
LEVEL = 0.06
"""RMS to which every voice is brought (-24 dBFS)."""
FLOOR = 1e-3
"""Lowest mel magnitude; white noise of ``LEVEL`` has about 1."""


class Condition(NamedTuple):
    """Features of a batch."""

    mel: Tensor
    """(B, 80, N), natural logarithm, shifted and scaled to about [-2.5, 2.5]."""
    f0_hz: Tensor
    """(B, N), 0 where unvoiced; all 0 for networks that do not listen to it."""


def levelled(waveform: Tensor) -> Tensor:
    """Bring ``(T,)`` to the RMS that networks are used to; silence stays."""
    rms = waveform.square().mean().sqrt()
    return waveform * (LEVEL / rms) if rms > 0 else waveform


def log_mel(waveform: Tensor) -> Tensor:
    """Return ``(B, 80, N)`` of ``(B, T)``."""
    filters = torch.from_numpy(mel_filters(BANDS, GRID.window_samples)).to(waveform)
    mel = filters @ magnitude(waveform, GRID)
    return (torch.log(mel.clamp(min=FLOOR)) + 2) / 2


def pitch(waveform: Tensor) -> Tensor:
    """Return F0 in Hz ``(N,)`` of ``(T,)``, 0 where unvoiced."""
    f0, _ = PitchTracker(hop=HOP).track(waveform.double().numpy())
    return torch.from_numpy(f0).float()


def to_samples(frames: Tensor, samples: int) -> Tensor:
    """Interpolate ``(..., N)`` linearly from frames to ``(..., samples)``; frame n is sample 200 n, the last one is held."""
    place = torch.arange(samples, device=frames.device)
    left = (place // HOP).clamp(max=frames.shape[-1] - 1)
    right = (left + 1).clamp(max=frames.shape[-1] - 1)
    share = (place % HOP).to(frames.dtype) / HOP
    return frames[..., left] * (1 - share) + frames[..., right] * share
