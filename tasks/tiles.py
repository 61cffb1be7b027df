"""Tiles of a clip: a signal is split into parts that add up to it, each at home in one rectangle of time and frequency.

Both ways of splitting are linear, so a clip in which any tiles are exchanged for another clip's is a sum of parts that were made once.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xaibench.tasks.audio import tile
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, inverse, stft, valid_cells
from xaibench.types import SAMPLE_RATE

Domain = Literal["stft", "time"]


@dataclass(frozen=True)
class TileGrid:
    """Bands by segments of equal size over the part of a clip that was not tiled to length.

    ``stft``: rectangles of the complex STFT, each inverted alone; seams are as soft as a window is long.
    ``time``: segments of the waveform, cross-faded over ``fade_ms``; one band.
    """

    bands: int = 8
    segments: int = 4
    domain: Domain = "stft"
    fade_ms: float = 10.0
    """Length of the raised-cosine cross-fade between segments of the ``time`` domain; shorter than a phone."""
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse grids without tiles, and bands where there is no frequency."""
        if self.domain not in ("stft", "time"):
            raise ValueError(f"domain must be stft or time, got {self.domain!r}; detectors of raw waveforms may need time")
        if not 1 <= self.bands <= self.stft.bins or self.segments < 1:
            raise ValueError(
                f"bands must be in 1..{self.stft.bins} and segments at least 1, got {self.bands} and {self.segments}; use 8 and 4"
            )
        if self.domain == "time" and self.bands != 1:
            raise ValueError(f"bands must be 1 in the time domain, got {self.bands}; give more segments instead")
        if not self.fade_ms >= 0:
            raise ValueError(f"fade_ms must be at least 0, got {self.fade_ms}; use 10")

    @property
    def tiles(self) -> int:
        """Number of tiles; tile ``band * segments + segment`` counts bands from 0 Hz and segments from the start."""
        return self.bands * self.segments

    def fits(self, samples: int, valid_samples: int | None = None) -> bool:
        """Tell whether every tile of a clip holds a cell that tiling to length does not reach."""
        if min(valid_samples or samples, samples) <= self.stft.window_samples // 2:
            return False
        cells = self.cells(samples, valid_samples)
        return bool((torch.bincount(cells[cells >= 0], minlength=self.tiles) > 0).all())

    def cells(self, samples: int, valid_samples: int | None = None) -> Tensor:
        """Number the tile of every cell of a clip's grid, (F, N) int64; -1 where tiling to length reaches a cell."""
        length = samples if valid_samples is None else min(valid_samples, samples)
        frames = self.stft.frames(length)
        segment = torch.arange(self.stft.frames(samples)) * self.segments // frames
        band = torch.arange(self.stft.bins) * self.bands // self.stft.bins
        numbers = band[:, None] * self.segments + segment[None, :].clamp(max=self.segments - 1)
        return numbers.masked_fill(~valid_cells(length, samples, self.stft), -1)

    def split(self, waveform: Tensor, valid_samples: int | None = None) -> Tensor:
        """Split ``(T,)`` into the waveforms of its tiles, (tiles, T), which add up to it.

        Args:
            waveform: Any signal, such as the difference of twins.
            valid_samples: Where tiling to length began; parts are tiled from there as well, so that no copy keeps what another lost.

        Raises:
            ValueError: If the clip is not one row of samples, or shorter than half a window.
        """
        if waveform.ndim != 1:
            raise ValueError(f"waveform must be one clip (T,), got shape {tuple(waveform.shape)}; pass clips one at a time")
        samples = len(waveform)
        heard = waveform[: min(valid_samples or samples, samples)]
        parts = self._rectangles(heard) if self.domain == "stft" else self._segments(heard)
        return parts if len(heard) == samples else torch.stack([tile(part, samples) for part in parts])

    def _rectangles(self, waveform: Tensor) -> Tensor:
        spectrum = stft(waveform, self.stft)
        numbers = self.cells(len(waveform)).to(waveform.device)
        parts = [inverse((spectrum * (numbers == i))[None], len(waveform), self.stft)[0] for i in range(self.tiles)]
        return torch.stack(parts)

    def _segments(self, waveform: Tensor) -> Tensor:
        samples = len(waveform)
        place = torch.arange(samples, device=waveform.device, dtype=torch.float64) + 0.5
        fade = max(self.fade_ms * SAMPLE_RATE / 1000, 1.0)
        edges = torch.arange(1, self.segments, device=waveform.device)[:, None] * (samples / self.segments)
        ramp = ((place - edges) / fade + 0.5).clamp(0, 1)
        begun = 0.5 - 0.5 * torch.cos(torch.pi * ramp)  # (S - 1, T): 0 before an edge, 1 after it
        ends = torch.ones(1, samples, device=waveform.device, dtype=torch.float64)
        begun = torch.cat([ends, begun, 0 * ends])
        return ((begun[:-1] - begun[1:]) * waveform).to(waveform.dtype)
