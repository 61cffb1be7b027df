"""The path of dynamic time warping between two band envelopes, as the lag of every frame of the second, and its refinement to knots.

After Sakoe and Chiba 1978 (doi:10.1109/TASSP.1978.1163055), asymmetric and within a band: every frame of the spoof gets one frame of the
recording.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from xaibench.tasks.local_lags import HOP, WINDOW_S, Floats, local_lags
from xaibench.types import SAMPLE_RATE

BAND_S = 0.25
"""Largest distance of the path from the constant lag."""
HOLD_COST = 0.05
JUMP_COST = 6.0
_COARSE = 4  # envelope frames per step of the path: 4 ms


def path_lags(real: Floats, fake: Floats, lag: float) -> Floats:
    """Return the lag of each coarse frame of the spoof in envelope frames, by dynamic programming over lags within the band.

    From frame to frame the lag stays for free, moves by one step either way at a small cost (the recording is held, or two of its frames
    pass), or falls by any amount at the cost of a jump (part of the recording was lost). It never rises by more than one, since the
    recording's time must not run backwards.
    """
    first, second = (_coarse(e) for e in (real, fake))
    first, second = (e / np.maximum(np.linalg.norm(e, axis=0, keepdims=True), 1e-9) * _activity(e) for e in (first, second))
    reach = round(BAND_S * SAMPLE_RATE / HOP / _COARSE)
    lags = round(lag / _COARSE) + np.arange(-reach, reach + 1)
    frames = second.shape[1]
    at = np.arange(frames)[:, None] - lags[None]
    outside = (at < 0) | (at >= first.shape[1])
    clipped = np.clip(at, 0, first.shape[1] - 1)
    cost = np.stack([np.square(first[:, clipped[i]] - second[:, [i]]).sum(0) for i in range(frames)]) + 2.0 * outside
    best, came = cost[0].copy(), np.zeros(cost.shape, np.int64)
    index = np.arange(len(lags))
    for i in range(1, frames):
        held = np.concatenate([[np.inf], best[:-1]]) + HOLD_COST  # lag rises by one
        passed = np.concatenate([best[1:], [np.inf]]) + HOLD_COST  # lag falls by one
        suffix = np.minimum.accumulate(best[::-1])[::-1]  # best among this lag and all larger ones
        source = _argmin_suffix(best)
        choices = np.stack([best, held, passed, suffix + JUMP_COST])
        chosen = choices.argmin(0)
        came[i] = np.choose(chosen, [index, index - 1, index + 1, source])
        best = choices[chosen, index] + cost[i]
    path = np.empty(frames, np.int64)
    path[-1] = best.argmin()
    for i in range(frames - 1, 0, -1):
        path[i - 1] = came[i, path[i]]
    return lags[path].astype(np.float64) * _COARSE


def refined(real: Floats, fake: Floats, path: Floats) -> list[tuple[float, float]]:
    """Refine the lag between jumps by local correlation; return knots in envelope frames."""
    fine = np.repeat(path, _COARSE)
    fine = np.concatenate([fine, np.full(max(0, fake.shape[1] - len(fine)), fine[-1])])[: fake.shape[1]]
    edges = [0, *(np.flatnonzero(_breaks(path)) * _COARSE).tolist(), len(fine)]
    smooth = _smooth(fine, edges)
    local, _ = local_lags(real, fake, smooth)
    knots: list[tuple[float, float]] = []
    half = round(WINDOW_S * SAMPLE_RATE / HOP) // 2
    for start, stop in pairwise(edges):
        if stop <= start:
            continue
        inside = local[(local[:, 0] >= start + half) & (local[:, 0] < stop - half)]
        if len(inside) < 2:
            level = float(inside[0, 1]) if len(inside) else float(np.median(fine[start:stop]))
            knots += [(start, level), (stop, level)]
            continue
        lags = _steady(inside[:, 1])
        knots += [(start, lags[0]), *zip(inside[:, 0].tolist(), lags.tolist(), strict=True), (stop, lags[-1])]
    return knots


def _argmin_suffix(values: Floats) -> NDArray[np.int64]:
    """Return for each place where the smallest value at or after it lies."""
    source = np.empty(len(values), np.int64)
    at = len(values) - 1
    for i in range(len(values) - 1, -1, -1):
        at = i if values[i] <= values[at] else at
        source[i] = at
    return source


def _coarse(energies: Floats) -> Floats:
    usable = energies.shape[1] // _COARSE * _COARSE
    found: Floats = energies[:, :usable].reshape(len(energies), -1, _COARSE).mean(2)
    return found


def _activity(energies: Floats) -> Floats:
    """Return how much each frame counts, 0.3 to 1: quiet frames have their shape from noise."""
    loudness = energies.mean(0, keepdims=True)
    low, high = np.percentile(loudness, [10, 90])
    found: Floats = 0.3 + 0.7 * np.clip((loudness - low) / max(high - low, 1e-9), 0, 1)
    return found


def _breaks(path: Floats) -> NDArray[np.bool_]:
    """Tell before which coarse frames the lag begins or ends to jump or to be held: it moves by 12 ms or more within 20 ms."""
    width = 5
    padded = np.concatenate([path, np.full(width, path[-1])])
    steep = np.concatenate([[False], np.abs(padded[width:] - padded[:-width]) >= 12, [False]])
    found = np.zeros(len(path), bool)
    for start, stop in zip(np.flatnonzero(steep[1:] & ~steep[:-1]), np.flatnonzero(steep[:-1] & ~steep[1:]), strict=True):
        for edge in (start, stop):
            found[min(int(edge) + 2, len(path) - 1)] = True
    return found


def _smooth(fine: Floats, edges: list[int]) -> Floats:
    """Average the coarse lag over 200 ms inside each piece."""
    found = fine.copy()
    for start, stop in pairwise(edges):
        size = min(200, (stop - start) // 2 * 2)
        if size >= 3:
            padded = np.pad(fine[start:stop], size // 2, mode="edge")
            sums = np.concatenate([[0.0], np.cumsum(padded)])
            found[start:stop] = ((sums[size:] - sums[:-size]) / size)[: stop - start]
    return found


def _steady(values: Floats) -> Floats:
    """Take out single outliers, then average over seven windows: clocks drift slowly, local estimates scatter by half a millisecond."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    middle = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    reach = min(3, (len(values) - 1) // 2)
    mirrored = np.concatenate([2 * middle[0] - middle[reach:0:-1], middle, 2 * middle[-1] - middle[-2 : -reach - 2 : -1]])
    found: Floats = np.convolve(mirrored, np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="valid")
    return found
