"""Controls that look at the sound at most, never at the detector: what a heatmap scores for free.

Random and constant maps sit at the chance level of each metric. Energy, its inverse and edges are what an explainer that merely redraws
the spectrogram would score: the baselines that popular methods often fail to beat (Clark et al. 2023, arXiv:2306.12816).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, LOG_FLOOR, STFTConfig, log_magnitude, magnitude
from xaibench.types import Control, Detector, Generators, clip_generators


@dataclass(frozen=True)
class _Control(Control):
    """A control knows the waveform alone; the grid is its only option."""

    polarity = "magnitude"
    stft: STFTConfig = DEFAULT_STFT


@EXPLAINERS.register("random")
@dataclass(frozen=True)
class Random(_Control):
    """Uniform noise, drawn clip by clip."""

    reference = "the chance level of every metric"
    deterministic = False

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return uniform noise in [0, 1), (B, F, N)."""
        shape = (self.stft.bins, self.stft.frames(waveform.shape[-1]))
        maps = [torch.rand(shape, generator=g, device=g.device) for g in clip_generators(generator, len(waveform))]
        return torch.stack(maps).to(waveform.device)


@EXPLAINERS.register("constant")
@dataclass(frozen=True)
class Constant(_Control):
    """The same value everywhere: an explainer that says nothing."""

    reference = "an explainer that says nothing; every cell ties"

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return ones, (B, F, N)."""
        return torch.ones(len(waveform), self.stft.bins, self.stft.frames(waveform.shape[-1]), device=waveform.device)


@EXPLAINERS.register("energy")
@dataclass(frozen=True)
class Energy(_Control):
    """The magnitude spectrogram itself: loud means guilty."""

    reference = "redraws the spectrogram"

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the linear magnitude, (B, F, N)."""
        return magnitude(waveform, self.stft)


@EXPLAINERS.register("inverse_energy")
@dataclass(frozen=True)
class InverseEnergy(_Control):
    """The inverse of the magnitude: quiet means guilty."""

    reference = "points at the quietest cells, where relative differences live"

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the reciprocal of the magnitude, (B, F, N)."""
        return 1.0 / (magnitude(waveform, self.stft) + LOG_FLOOR)


@EXPLAINERS.register("edge")
@dataclass(frozen=True)
class Edge(_Control):
    """The Sobel gradient of the log-magnitude: contours mean guilty."""

    reference = "Sobel filter; the control of Adebayo et al. 2018, arXiv:1810.03292"

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the length of the Sobel gradient, (B, F, N)."""
        image = log_magnitude(waveform, self.stft)[:, None]
        kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], device=image.device)
        padded = nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
        gradient = nn.functional.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])
        length: Tensor = torch.linalg.vector_norm(gradient, dim=1)
        return length
