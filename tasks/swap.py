"""Exchanging tiles between two clips, and asking the detector about the mixtures.

Splitting is linear (``tasks/tiles.py``), so every mixture is a base clip plus a sum of parts made once: a batch of mixtures costs one
matrix product beside the forward.
"""

import torch
from torch import Tensor

from xaibench.tasks.audio import tile
from xaibench.tasks.spectrogram import STFTConfig, inverse, stft
from xaibench.tasks.tiles import TileGrid
from xaibench.types import Clip, Detector

BATCH = 32
"""Clips per forward; changes speed and memory, and values by rounding only."""


class SwapGame:
    """Coalitions of tiles as a detector hears them: a base clip plus the parts of a difference that belong to the coalition.

    Args:
        base: Heard for the empty coalition, (T,).
        difference: Added in full for the full coalition, (T,).
        detector: In ``eval()`` mode; runs without gradients on its own device.
        grid: Of the tiles.
        valid_samples: Where tiling to length began.
        batch: Clips per forward.

    Raises:
        ValueError: If shapes differ, the detector is in training mode, or the batch is empty.
    """

    def __init__(
        self, base: Tensor, difference: Tensor, detector: Detector, grid: TileGrid, valid_samples: int | None = None, batch: int = BATCH
    ) -> None:
        if base.shape != difference.shape:
            raise ValueError(f"difference must have base's shape {tuple(base.shape)}, got {tuple(difference.shape)}; align the pair")
        if detector.training:
            raise ValueError("detector must be in eval mode, got training mode; call detector.eval()")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}; use {BATCH}")
        self.detector, self.grid, self.batch = detector, grid, batch
        device = next((p.device for p in detector.parameters()), base.device)
        with torch.inference_mode():
            self.base = base.detach().to(device, torch.float32)
            self.parts = grid.split(difference.detach().to(device, torch.float32), valid_samples)
        self.forwards = 0

    @classmethod
    def of_twins(cls, clip: Clip, detector: Detector, grid: TileGrid, batch: int = BATCH) -> "SwapGame":
        """Return the game whose Shapley values are the causal truth of a clip: tiles of the vocoded clip join its real twin."""
        return cls(clip.bonafide, clip.spoof - clip.bonafide, detector, grid, clip.valid_samples, batch)

    def __call__(self, coalitions: Tensor) -> Tensor:
        """Return the spoof log-odds of coalitions (C, tiles) bool, (C,) float64.

        Raises:
            ValueError: If the detector answers with NaN or infinity.
        """
        heard = []
        with torch.inference_mode():
            for first in range(0, len(coalitions), self.batch):
                part = coalitions[first : first + self.batch]
                clips = self.base + part.to(self.parts.device, self.parts.dtype) @ self.parts
                heard.append(self.detector.spoof_logit(clips).double().cpu())
                self.forwards += len(part)
        found = torch.cat(heard) if heard else torch.empty(0, dtype=torch.float64)
        if not torch.isfinite(found).all():
            raise ValueError("log-odds must be finite, got NaN or infinity for a mixture of the twins; check the detector")
        return found.clone()  # an ordinary tensor, which may be saved for a backward pass


def phase_randomized(waveform: Tensor, config: STFTConfig, valid_samples: int | None = None, seed: int = 0) -> Tensor:
    """Return the clip ``(T,)`` with the magnitudes of its STFT and phases drawn at random, cell by cell."""
    heard = waveform[: min(valid_samples or len(waveform), len(waveform))]
    level = stft(heard, config).abs()
    phase = torch.rand(level.shape, generator=torch.Generator().manual_seed(seed)).to(level.device)
    copy = inverse(torch.polar(level, 2 * torch.pi * phase)[None], len(heard), config)[0]
    return tile(copy, len(waveform))
