"""Griffin-Lim phase from an 80-band mel spectrogram (Griffin & Lim 1984, doi:10.1109/TASSP.1984.1164317).

The momentum is that of the fast form (Perraudin, Balazs & Sondergaard 2013, doi:10.1109/WASPAA.2013.6701851).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from xaibench.registry import VOCODERS
from xaibench.tasks.spectrogram import STFTConfig, inverse, stft
from xaibench.tasks.vocoders.mel import through_mel
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder


@VOCODERS.register("griffin_lim")
@dataclass(frozen=True)
class GriffinLim(Vocoder):
    """Mel magnitude, pseudo-inverse, and alternating projections from random phase."""

    title: ClassVar[str] = "Griffin-Lim from 80 mel bands"
    kind: ClassVar[str] = "phase-reconstruction"
    reference: ClassVar[str] = "Griffin & Lim 1984; Perraudin et al. 2013"

    bands: int = 80
    iterations: int = 32
    momentum: float = 0.9
    window_samples: int = 800
    hop_samples: int = 200

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Iterate magnitude and consistency projections."""
        grid = STFTConfig(self.window_samples, self.hop_samples)
        magnitude = stft(torch.from_numpy(samples), grid).abs().numpy()
        target = torch.from_numpy(through_mel(magnitude, self.bands, self.window_samples))
        phase = torch.from_numpy(rng.uniform(-np.pi, np.pi, magnitude.shape))
        spectrum, previous = torch.polar(target, phase), torch.zeros(())
        for _ in range(self.iterations):
            rebuilt = stft(inverse(spectrum, samples.size, grid), grid)
            ahead = rebuilt + self.momentum * (rebuilt - previous)
            spectrum, previous = torch.polar(target, ahead.angle()), rebuilt
        copied: Samples = inverse(spectrum, samples.size, grid).numpy()
        return copied
