"""Where the strongest evidence of a heatmap lies, as a few rectangles of time and frequency that can be said in words."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import SAMPLE_RATE

SPREAD_S, SPREAD_HZ = 0.1, 400.0
"""Chosen cells closer than this count as one place."""
LEAST_SHARE = 0.03
"""A place with less of the chosen cells is not worth a sentence."""
LEAST_FOCUS = 2.0
"""A place holds at least twice as many chosen cells as its area would by chance."""


@dataclass(frozen=True)
class Place:
    """A rectangle that holds a dense part of the chosen cells."""

    from_s: float
    to_s: float
    from_hz: float
    to_hz: float
    share: float
    """Share of all chosen cells that lie in it, 0 to 1."""

    def words(self, offset_s: float = 0.0) -> str:
        """Say where; ``offset_s`` is the start of the window in its file."""
        time = f"{self.from_s + offset_s:.2f} to {self.to_s + offset_s:.2f} s"
        return f"{time}, {self.from_hz / 1000:.1f} to {self.to_hz / 1000:.1f} kHz ({100 * self.share:.0f} % of the strongest cells)"


def places(chosen: NDArray[np.bool_], config: STFTConfig = DEFAULT_STFT, count: int = 3) -> list[Place]:
    """Find the densest places of chosen cells (F, N), the largest first.

    The cells are smoothed over 0.1 s by 400 Hz; the rectangle around the connected region above half of the peak is one place.

    Args:
        chosen: The strongest cells, (F, N).
        config: Their grid.
        count: Places wanted; fewer, or none, where the cells have no focus.
    """
    from scipy.ndimage import find_objects, label, uniform_filter

    bins = max(1, round(SPREAD_HZ * config.window_samples / SAMPLE_RATE))
    frames = max(1, round(SPREAD_S * SAMPLE_RATE / config.hop_samples))
    left, total, found = chosen.copy(), int(chosen.sum()), []
    for _ in range(count):
        density = uniform_filter(left.astype(np.float32), (bins, frames), mode="constant")
        peak = np.unravel_index(int(density.argmax()), density.shape)
        if density[peak] <= 0:
            break
        regions, _ = label(density >= density[peak] / 2)
        box = find_objects(regions)[regions[peak] - 1]
        rows, columns = box
        share = float(left[box].sum()) / total
        if share >= LEAST_SHARE and share >= LEAST_FOCUS * left[box].size / left.size:
            found.append(_place(rows, columns, share, config))
        left[max(rows.start - bins, 0) : rows.stop + bins, max(columns.start - frames, 0) : columns.stop + frames] = False
    return sorted(found, key=lambda place: -place.share)


def _place(rows: slice, columns: slice, share: float, config: STFTConfig) -> Place:
    second, hertz = config.hop_samples / SAMPLE_RATE, SAMPLE_RATE / config.window_samples
    return Place(
        round(columns.start * second, 3),
        round(columns.stop * second, 3),
        round(rows.start * hertz, 1),
        round(min(rows.stop * hertz, SAMPLE_RATE / 2), 1),
        round(share, 4),
    )
