"""Where an artifact is planted: a rectangle of the task's grid, drawn from a seed, and its quarters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import CLIP_SAMPLES

FRAMES = (30, 60)
"""Shortest and longest region in frames of 16 ms, about half a second to a second."""
AREA = (0.05, 0.08)
"""Smallest and largest region as a share of the cells of a full clip: the density of the artifact masks or a little more."""
LOWEST_BIN, HIGHEST_BIN = 8, 440
"""125 Hz to 6.9 kHz: where recordings of any origin have a spectrum."""
FADE = 2
"""Frames and bins over which an edit rises from the edge of its region, so that little of it leaks out."""
APART = 4
"""Frames between two places, a window's length: what one analysis window hears of both is nothing."""


@dataclass(frozen=True)
class Region:
    """Frames ``start`` to ``stop`` and bins ``low`` to ``high``, ends excluded."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def cells(self) -> int:
        """Number of cells."""
        return (self.stop - self.start) * (self.high - self.low)

    def mask(self, samples: int, config: STFTConfig = DEFAULT_STFT) -> Tensor:
        """Mark the cells of the region, (F, N) bool."""
        inside = torch.zeros(config.bins, config.frames(samples), dtype=torch.bool)
        inside[self.low : self.high, self.start : self.stop] = True
        return inside

    def weight(self, samples: int, config: STFTConfig = DEFAULT_STFT) -> Tensor:
        """Return how much of an edit each cell takes, (F, N) float32: 1 inside, 1/3 in the outermost cells, 0 outside."""
        frames, bins = (_ramp(count) for count in (self.stop - self.start, self.high - self.low))
        grid = torch.zeros(config.bins, config.frames(samples))
        grid[self.low : self.high, self.start : self.stop] = bins[:, None] * frames[None, :]
        return grid

    def quarters(self) -> list["Region"]:
        """Return the four quarters, halves in time by halves in frequency."""
        middle, centre = (self.start + self.stop) // 2, (self.low + self.high) // 2
        spans = ((self.start, middle), (middle, self.stop))
        return [Region(*span, *band) for band in ((self.low, centre), (centre, self.high)) for span in spans]

    def moved_to(self, start: int) -> "Region":
        """Return the region of the same size and band that begins at another frame."""
        return Region(start, start + self.stop - self.start, self.low, self.high)


def draw_region(frames: int, generator: torch.Generator, config: STFTConfig = DEFAULT_STFT) -> Region:
    """Draw duration, area, band and place within the first ``frames`` frames; the height of the band follows from area and duration."""
    duration = min(between(*FRAMES, generator), frames)
    area = AREA[0] + (AREA[1] - AREA[0]) * float(torch.rand(1, generator=generator))
    height = min(round(area * config.bins * config.frames(CLIP_SAMPLES) / duration), HIGHEST_BIN - LOWEST_BIN)
    low = between(LOWEST_BIN, HIGHEST_BIN - height, generator)
    start = between(0, frames - duration, generator)
    return Region(start, start + duration, low, low + height)


def elsewhere(region: Region, frames: int, generator: torch.Generator) -> Region | None:
    """Draw another place in time for a region, a window's length away from it; ``None`` where the clip has no room."""
    length = region.stop - region.start
    places = [*range(region.start - APART - length + 1), *range(region.stop + APART, frames - length + 1)]
    return region.moved_to(places[between(0, len(places) - 1, generator)]) if places else None


def between(low: int, high: int, generator: torch.Generator) -> int:
    """Draw an integer, both ends included."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def _ramp(count: int) -> Tensor:
    place = torch.arange(count, dtype=torch.float32)
    return (torch.minimum(place, count - 1 - place) + 1).div(FADE + 1).clamp(max=1.0)
