"""Local lags: by how much short stretches of two band envelopes lie apart, around lags that are already known roughly."""

import numpy as np
from numpy.typing import NDArray

from xaibench.types import SAMPLE_RATE

HOP = 16
"""Samples between envelope frames (``alignment.band_energies``): 1 ms."""
WINDOW_S, STEP_S, REACH_S = 0.4, 0.1, 0.04
MIN_CORRELATION = 0.6

Floats = NDArray[np.float64]


def residuals(real: Floats, fake: Floats, lags: Floats) -> tuple[float, float, float]:
    """Return median and 95th percentile of the distance of local lags from those given, in ms, and the share of windows that have one."""
    found, loud = local_lags(real, fake, lags)
    if not len(found):
        return float("nan"), float("nan"), 0.0 if loud else float("nan")
    apart = np.abs(found[:, 1] - lags[found[:, 0].astype(int)]) * 1000 * HOP / SAMPLE_RATE
    p50, p95 = np.percentile(apart, [50, 95])
    return float(p50), float(p95), len(found) / loud


def local_lags(real: Floats, fake: Floats, lags: Floats) -> tuple[Floats, int]:
    """Estimate lags window by window around those given.

    Returns:
        Rows of centre (envelope frame of the spoof) and lag (in envelope frames), and how many windows hold speech.
    """
    width, step, reach = (round(s * SAMPLE_RATE / HOP) for s in (WINDOW_S, STEP_S, REACH_S))
    frames, offsets = fake.shape[1], np.arange(-reach, reach + 1)
    at = np.arange(frames)[None] - np.round(lags).astype(int)[None] - offsets[:, None]  # recording's frame for each offset and spoof frame
    inside = (at >= 0) & (at < real.shape[1])
    at = np.clip(at, 0, real.shape[1] - 1)
    products = np.stack([np.einsum("bn,bn->n", real[:, row], fake) for row in at]) * inside
    power = np.stack([np.einsum("bn,bn->n", real[:, row], real[:, row]) for row in at]) * inside
    own = np.einsum("bn,bn->n", fake, fake)

    def windowed(values: Floats) -> Floats:
        sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
        total: Floats = (sums[..., width:] - sums[..., :-width])[..., ::step]
        return total

    if frames <= width:
        return np.zeros((0, 2)), 0
    correlation = windowed(products) / np.sqrt(np.maximum(windowed(power) * windowed(own), 1e-9))
    starts = np.arange(0, frames - width + 1, step)[: correlation.shape[1]]
    peaks = correlation.argmax(0)
    value = np.take_along_axis(correlation, peaks[None], 0)[0]
    whole = windowed(inside.astype(float)).min(0) >= width - 0.5
    loud = windowed(own) > 0.25 * np.median(windowed(own))
    speech = whole & loud
    good = (value >= MIN_CORRELATION) & (peaks > 0) & (peaks < 2 * reach) & speech
    centres = starts + width // 2
    left, right = (np.take_along_axis(correlation, np.clip(peaks + d, 0, 2 * reach)[None], 0)[0] for d in (-1, 1))
    curve = left - 2 * value + right
    shift = np.where(curve < 0, 0.5 * (left - right) / np.where(curve < 0, curve, -1), 0)
    found = np.round(lags[centres]) + offsets[peaks] + shift
    return np.stack([centres[good], found[good]], axis=1).astype(np.float64), int(speech.sum())
