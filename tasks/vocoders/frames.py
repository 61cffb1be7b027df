"""Frames of a signal, their overlap-add, and the pulse-and-noise source that several vocoders share."""

import numpy as np
import numpy.typing as npt

from xaibench.tasks.vocoders.vocoder import Samples
from xaibench.types import SAMPLE_RATE

Frames = npt.NDArray[np.float64]


def split_frames(samples: Samples, size: int, hop: int) -> Frames:
    """Cut centred frames, ``(N, size)`` with ``N = T // hop + 1``; frame n is centred on sample n x hop."""
    padded = np.pad(samples, (size // 2, size))
    count = samples.size // hop + 1
    return np.lib.stride_tricks.sliding_window_view(padded, size)[: count * hop : hop].copy()


def overlap_add(frames: Frames, hop: int, length: int, lead: int) -> Samples:
    """Add frames ``(N, size)`` at multiples of ``hop``; sample ``lead`` of frame n lands on sample n x hop."""
    count, size = frames.shape
    total = np.zeros((count - 1) * hop + size)
    for n in range(count):
        total[n * hop : n * hop + size] += frames[n]
    return np.pad(total[lead:], (0, length))[:length]


def interpolate(values: Samples, hop: int, length: int) -> Samples:
    """Interpolate values given every ``hop`` samples linearly to each sample, ``(length,)``."""
    return np.interp(np.arange(length), np.arange(values.size) * hop, values)


def pulse_train(f0_hz: Samples, hop: int, length: int) -> Samples:
    """Place one pulse per pitch period, each split over two samples; unit power where voiced, 0 where ``f0_hz`` is 0."""
    voiced = interpolate((f0_hz > 0).astype(float), hop, length) > 0.5
    bridged = _bridge(f0_hz)
    rate = interpolate(bridged, hop, length) / SAMPLE_RATE
    cycles = np.cumsum(np.where(voiced, rate, 0.0))
    starts = np.flatnonzero(np.diff(np.floor(cycles)) > 0) + 1
    train = np.zeros(length + 1)
    late = (cycles[starts] - np.floor(cycles[starts])) / rate[starts]
    height = np.sqrt(1.0 / rate[starts])
    np.add.at(train, starts, height * (1 - late))
    np.add.at(train, starts - 1, height * late)
    return train[:length]


def _bridge(f0_hz: Samples) -> Samples:
    """Fill unvoiced frames by interpolation between voiced ones."""
    voiced = np.flatnonzero(f0_hz > 0)
    if voiced.size == 0:
        return np.full_like(f0_hz, 100.0)
    return np.interp(np.arange(f0_hz.size), voiced, f0_hz[voiced])
