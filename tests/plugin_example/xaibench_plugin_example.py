"""Points at the loudest frame: a third party's explainer, found by its entry point."""

from dataclasses import dataclass

from torch import Tensor

from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude
from xaibench.types import Detector, Explainer, Generators


@EXPLAINERS.register("loudest_frame")
@dataclass(frozen=True)
class LoudestFrame(Explainer):
    """Energy, sharpened towards the loudest frame."""

    reference = "this file"
    polarity = "magnitude"
    power: float = 2.0
    stft: STFTConfig = DEFAULT_STFT

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return energy weighted by the energy of its frame, (B, F, N)."""
        level = magnitude(waveform, self.stft)
        return level * level.sum(dim=1, keepdim=True) ** self.power
