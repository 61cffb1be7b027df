"""A copy with a coarse magnitude and its own phase: the mildest modification, and the one whose artifact is known cell by cell."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from xaibench.registry import VOCODERS
from xaibench.tasks.spectrogram import STFTConfig, inverse, stft
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder


@VOCODERS.register("stft_magnitude")
@dataclass(frozen=True)
class STFTMagnitude(Vocoder):
    """Log-magnitude rounded to steps of ``step_db`` with a random offset per bin, phase kept."""

    title: ClassVar[str] = "Rounded STFT magnitude"
    kind: ClassVar[str] = "magnitude"
    reference: ClassVar[str] = "xaibench"

    step_db: float = 6.0
    window_samples: int = 512
    hop_samples: int = 128

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Round and invert."""
        grid = STFTConfig(self.window_samples, self.hop_samples)
        spectrum = stft(torch.from_numpy(samples), grid).numpy()
        magnitude = np.abs(spectrum)
        floor = 1e-5 * magnitude.max()
        level = 20 * np.log10(magnitude + floor)
        offset = rng.uniform(0, self.step_db, (len(level), 1))
        rounded = 10 ** ((np.round((level + offset) / self.step_db) * self.step_db - offset) / 20)
        changed = torch.from_numpy(rounded * spectrum / np.maximum(magnitude, 1e-12))
        copied: Samples = inverse(changed, samples.size, grid).numpy()
        return copied
