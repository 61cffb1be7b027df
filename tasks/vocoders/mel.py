"""Triangular mel filters and their pseudo-inverse: the coarse magnitude that spectrogram vocoders start from.

Mel scale of O'Shaughnessy (1987): ``m = 2595 log10(1 + f / 700)``.
"""

from functools import lru_cache

import numpy as np

from xaibench.tasks.vocoders.frames import Frames
from xaibench.types import SAMPLE_RATE

DYNAMIC_RANGE = 1e-4
"""Magnitudes under -80 dB of the clip's maximum are raised to it, as the log compression of neural vocoders does."""

WEAKEST = 1e-2
"""Share of the largest singular value under which one is dropped from the pseudo-inverse. Where bands crowd between bins the smallest ones
are 1e-2 to 1e-9 (then rounding): inverting them blew the floor up by as much, and such copies were noise. The defaults have none there."""


@lru_cache(maxsize=8)
def mel_filters(bands: int, window: int) -> Frames:
    """Return filters ``(bands, F)``, each normalized to sum 1."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), bands + 2) / 2595) - 1)
    frequency = np.fft.rfftfreq(window, 1 / SAMPLE_RATE)[None, :]
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    # Bands narrower than a bin would be empty; half a bin of width on each side keeps all of them alive.
    width = SAMPLE_RATE / window
    rise = (frequency - low + width / 2) / (centre - low + width / 2)
    fall = (high + width / 2 - frequency) / (high + width / 2 - centre)
    # Shelves at both ends keep 0 Hz and the Nyquist frequency inside the bands, or their emptiness would mark every copy.
    rise[0], fall[-1] = np.maximum(rise[0], frequency[0] <= centre[0]), np.maximum(fall[-1], frequency[0] >= centre[-1])
    filters = np.clip(np.minimum(rise, fall), 0, 1)
    normalized: Frames = (filters / filters.sum(1, keepdims=True)).astype(np.float64)
    return normalized


@lru_cache(maxsize=8)
def _inverse_filters(bands: int, window: int) -> Frames:
    inverse: Frames = np.linalg.pinv(mel_filters(bands, window), rcond=WEAKEST).astype(np.float64)
    return inverse


def through_mel(magnitude: Frames, bands: int, window: int) -> Frames:
    """Squeeze a magnitude ``(F, N)`` through mel bands and back by the pseudo-inverse, not below zero."""
    mel = np.maximum(mel_filters(bands, window) @ magnitude, DYNAMIC_RANGE * magnitude.max())
    coarse: Frames = np.maximum(_inverse_filters(bands, window) @ mel, 0.0)
    return coarse
