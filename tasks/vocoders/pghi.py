"""Phase-gradient heap integration on a coarse magnitude (Prusa, Balazs & Sondergaard 2017, doi:10.1109/TASLP.2017.2678166).

The phase is integrated from the log-magnitude's gradient, loudest cells first; nothing is iterated. The Hann window stands for a Gaussian
with time-frequency ratio ``0.25645 x window^2`` (table II of the paper).
"""

import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from xaibench.registry import VOCODERS
from xaibench.tasks.spectrogram import STFTConfig, inverse, stft
from xaibench.tasks.vocoders.frames import Frames
from xaibench.tasks.vocoders.mel import through_mel
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder

HANN_RATIO = 0.25645


@VOCODERS.register("pghi")
@dataclass(frozen=True)
class PGHI(Vocoder):
    """Coarse magnitude (128 mel bands) with a phase integrated from its gradient."""

    title: ClassVar[str] = "Phase-gradient heap integration"
    kind: ClassVar[str] = "phase-gradient"
    reference: ClassVar[str] = "Prusa et al. 2017"

    bands: int = 128
    window_samples: int = 512
    hop_samples: int = 128
    tolerance: float = 1e-3
    """Cells under this share of the maximum get a random phase."""

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Integrate the phase and invert."""
        grid = STFTConfig(self.window_samples, self.hop_samples)
        magnitude = stft(torch.from_numpy(samples), grid).abs().numpy()
        coarse = through_mel(magnitude, self.bands, self.window_samples)
        phase = self._integrate(coarse, rng.uniform(-np.pi, np.pi, coarse.shape))
        copied: Samples = inverse(torch.polar(torch.from_numpy(coarse), torch.from_numpy(phase)), samples.size, grid).numpy()
        return copied

    def _integrate(self, magnitude: Frames, phase: Frames) -> Frames:
        """Fill in the phase of loud cells ``(F, N)`` from loud neighbours, in falling order of magnitude."""
        bins, frames = magnitude.shape
        # One silent cell all around spares the bounds checks of the inner loop; plain lists are several times faster than arrays there.
        padded = np.pad(magnitude, 1)
        time, frequency = (np.pad(g, 1).ravel().tolist() for g in self._gradients(magnitude))
        todo = (padded > self.tolerance * magnitude.max()).ravel()
        order = np.argsort(-padded, axis=None, kind="stable")[: int(todo.sum())].tolist()
        level, phases, open_cells = (-padded).ravel().tolist(), np.pad(phase, 1).ravel().tolist(), todo.tolist()
        steps = ((1, time, 0.5), (-1, time, -0.5), (frames + 2, frequency, 0.5), (-frames - 2, frequency, -0.5))
        for start in order:
            if not open_cells[start]:
                continue
            open_cells[start], phases[start] = False, 0.0
            heap = [(level[start], start)]
            while heap:
                here = heapq.heappop(heap)[1]
                for offset, slope, half in steps:
                    there = here + offset
                    if open_cells[there]:
                        open_cells[there] = False
                        phases[there] = phases[here] + half * (slope[here] + slope[there])
                        heapq.heappush(heap, (level[there], there))
        return np.array(phases).reshape(bins + 2, frames + 2)[1:-1, 1:-1]

    def _gradients(self, magnitude: Frames) -> tuple[Frames, Frames]:
        """Phase steps to the next frame and to the next bin, ``(F, N)`` each, for frames whose phase is measured at their centre."""
        log = np.log(np.maximum(magnitude, 1e-10))
        ratio = HANN_RATIO * self.window_samples**2
        hop, size = self.hop_samples, self.window_samples
        centre = 2 * np.pi * hop * np.arange(magnitude.shape[0])[:, None] / size
        time = hop * size / ratio * np.gradient(log, axis=0) + centre
        frequency = -ratio / (hop * size) * np.gradient(log, axis=1)
        # torch.stft measures phase from the frame's first sample, half a window before its centre.
        return time, frequency - np.pi
