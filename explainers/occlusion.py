"""Occlusion: hide one tile of the spectrogram at a time and see what the detector loses (Zeiler & Fergus 2014, arXiv:1311.2901)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, inverse, stft
from xaibench.types import Detector, Explainer, Generators


@EXPLAINERS.register("occlusion")
@dataclass(frozen=True)
class Occlusion(Explainer):
    """The log-odds that a clip loses when a tile is turned down to the floor, given to every cell of the tile.

    Works with any detector, gradients or not: ``bands * segments + 1`` forward passes per clip (257 by default).
    """

    reference = "Zeiler & Fergus 2014, arXiv:1311.2901"
    polarity = "signed"
    needs = frozenset({"logits"})
    bands: int = 16
    segments: int = 16
    floor_db: float = -60.0
    """Level of a hidden cell under the loudest cell of the clip; cells that are quieter stay as they are. Silence would leave speech."""
    chunk_size: int = field(default=16, metadata={"result": False})
    """Clips that the detector hears at once; changes memory and speed, not the result."""
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse grids without a tile."""
        if min(self.bands, self.segments, self.chunk_size) < 1:
            got = f"{self.bands}, {self.segments} and {self.chunk_size}"
            raise ValueError(f"bands, segments and chunk_size must be at least 1, got {got}; use for example 16, 16 and 16")

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the loss of log-odds by tile, (B, F, N)."""
        with torch.no_grad():
            return torch.stack([self._one(clip, detector) for clip in waveform])

    def _one(self, clip: Tensor, detector: Detector) -> Tensor:
        spectrum = stft(clip[None], self.stft)
        bins, frames = spectrum.shape[1:]
        tiles = self._tiles(bins, frames, clip.device)
        level = spectrum.abs()
        floor = level.amax() * 10 ** (self.floor_db / 20)
        hidden = spectrum * (floor / level.clamp(min=torch.finfo(level.dtype).tiny)).clamp(max=1.0)
        whole = detector.spoof_logit(clip[None])
        heard = []
        count = self.bands * self.segments
        for first in range(0, count, self.chunk_size):
            numbers = torch.arange(first, min(first + self.chunk_size, count), device=clip.device)
            inside = tiles[None] == numbers[:, None, None]
            heard.append(detector.spoof_logit(inverse(torch.where(inside, hidden, spectrum), len(clip), self.stft)))
        return (whole - torch.cat(heard))[tiles]

    def _tiles(self, bins: int, frames: int, device: torch.device) -> Tensor:
        """Number the tile of every cell, (F, N)."""
        band = torch.arange(bins, device=device) * self.bands // bins
        segment = torch.arange(frames, device=device) * self.segments // frames
        return band[:, None] * self.segments + segment[None, :]
