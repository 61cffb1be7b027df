"""RawWrapper: any waveform detector as a function of the log-magnitude spectrogram, the clip's own phase held fixed.

``f_TF(M) = f(ISTFT((exp(M) - floor) e^{i phase}))`` rebuilds the clip exactly, so that a time-frequency explainer attributes the very
answer that the detector gives on the waveform (Grinberg et al. 2025, arXiv:2506.03425, section 3). The gradient by ``M`` equals
``Re X dRe + Im X dIm``: it is input x gradient of the complex spectrum, and its sum over the grid is input x gradient of the waveform.
"""

import torch
from torch import Tensor, nn

from xaibench.tasks.spectrogram import DEFAULT_STFT, LOG_FLOOR, STFTConfig, inverse, stft
from xaibench.types import Detector

ROUNDING = 1e-6 * LOG_FLOOR
"""Magnitudes that logarithm and exponential make out of zero, by rounding that differs between processors."""


class RawWrapper(nn.Module):
    """A detector that hears what a log-magnitude spectrogram and a phase sound like.

    Args:
        detector: Waveform detector in ``eval()`` mode; it is called, never changed.
        stft: Grid of the explanation.
        samples: Length of the rebuilt clip; the detector's ``input_samples`` by default.
    """

    def __init__(self, detector: Detector, stft: STFTConfig = DEFAULT_STFT, samples: int | None = None) -> None:
        super().__init__()
        self.detector = detector
        self.stft = stft
        self.samples = samples or detector.input_samples
        self.training = detector.training

    def split(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-magnitude and phase of clips ``(B, T)``, each ``(B, F, N)``; ``forward`` of both is the detector's answer."""
        spectrum = stft(waveform, self.stft)
        return torch.log(spectrum.abs() + LOG_FLOOR), spectrum.angle()

    def waveform(self, log_magnitude: Tensor, phase: Tensor) -> Tensor:
        """Rebuild the clips ``(B, T)`` from log-magnitude and phase, each ``(B, F, N)``.

        Raises:
            ValueError: If the shapes differ or belong to another grid or length.
        """
        grid = (self.stft.bins, self.stft.frames(self.samples))
        if log_magnitude.shape != phase.shape or log_magnitude.shape[1:] != grid:
            got = f"{tuple(log_magnitude.shape)} and {tuple(phase.shape)}"
            raise ValueError(
                f"log_magnitude and phase must both have shape (B, {grid[0]}, {grid[1]}), got {got}; give RawWrapper their grid and length"
            )
        level = log_magnitude.exp() - LOG_FLOOR
        level = nn.functional.hardshrink(level, ROUNDING)  # silence stays silence, by a function that rules know
        direction = torch.polar(torch.ones_like(phase), phase)  # polar(level, phase) itself has no slope at level zero
        return inverse(level * direction, self.samples, self.stft)

    def forward(self, log_magnitude: Tensor, phase: Tensor) -> Tensor:
        """Return the log-odds of spoof, ``(B,)``, of log-magnitudes and phases ``(B, F, N)``."""
        return self.detector.spoof_logit(self.waveform(log_magnitude, phase))
