"""Synthetic clips with known truth for the audit: blobs of artifact on a spectrogram with levels, and maps of any quality."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SHAPE = (48, 60)
DENSITY = 0.05
TILES = 32


@dataclass(frozen=True)
class Problem:
    """B clips: masks of an exact share, the continuous difference that they cut, magnitudes, and values of tiles."""

    mask: Mask
    """(B, F, N)."""
    difference: Floats
    magnitude: Floats
    values: Floats
    """(B, 32) Shapley values of tiles: a few large, many near zero, some negative."""

    def take(self, index: NDArray[np.int64]) -> "Problem":
        """Return some clips, in the order given."""
        return Problem(self.mask[index], self.difference[index], self.magnitude[index], self.values[index])


def make_problem(clips: int, seed: int = 0, density: float = DENSITY) -> Problem:
    """Draw clips whose masks hold exactly ``density`` of the cells, in smooth blobs whose place does not depend on level."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    difference = np.stack([gaussian_filter(rng.normal(size=SHAPE), 2.0) for _ in range(clips)])
    difference -= difference.min(axis=(1, 2), keepdims=True)
    count = round(density * SHAPE[0] * SHAPE[1])
    order = np.argsort(-difference.reshape(clips, -1), axis=1, kind="stable")
    mask = np.zeros((clips, SHAPE[0] * SHAPE[1]), bool)
    np.put_along_axis(mask, order[:, :count], True, axis=1)
    magnitude = np.exp(rng.normal(-3, 2, (clips, *SHAPE)))
    values = rng.exponential(1.0, (clips, TILES)) ** 2 * np.where(rng.random((clips, TILES)) < 0.25, -0.3, 1.0)
    return Problem(mask.reshape(clips, *SHAPE), difference, magnitude, values)


def noisy(signal: Floats, noise: float, seed: int) -> Floats:
    """Add normal noise of ``noise`` times the signal's own deviation, clip by clip."""
    rng = np.random.default_rng(seed)
    axes = tuple(range(1, signal.ndim))
    made: Floats = signal + noise * signal.std(axis=axes, keepdims=True) * rng.normal(size=signal.shape)
    return made
