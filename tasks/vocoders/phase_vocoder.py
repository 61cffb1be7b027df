"""The phase vocoder: stretch in time and back, phases propagated bin by bin (Flanagan and Golden 1966; Laroche and Dolson 1999)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.frames import overlap_add, split_frames
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder


@VOCODERS.register("phase_vocoder")
@dataclass(frozen=True)
class PhaseVocoder(Vocoder):
    """Stretched by a fifth and compressed again: smeared transients and the loss of phase between neighbouring bins, at equal length."""

    title: ClassVar[str] = "Phase vocoder"
    kind: ClassVar[str] = "phase"
    reference: ClassVar[str] = "Flanagan and Golden 1966"
    lag_samples: ClassVar[int] = 4

    stretch: float = 1.2
    window_samples: int = 512
    hop_samples: int = 128

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Stretch and compress; the seed turns the phase of each bin at the start."""
        start = rng.uniform(-np.pi, np.pi, self.window_samples // 2 + 1)
        stretched = self._stretch(samples, self.stretch, start)
        return self._stretch(stretched, samples.size / stretched.size, start)

    def _stretch(self, samples: Samples, ratio: float, start: Samples) -> Samples:
        """Return ``samples`` longer by ``ratio``: frames are taken at another hop than they are laid down at."""
        size, hop = self.window_samples, self.hop_samples
        length = round(samples.size * ratio)
        window = np.hanning(size + 1)[:-1]
        fine = np.fft.rfft(split_frames(samples, size, hop // 4) * window)
        step = hop // 4
        places = np.arange(length // hop + 1) * hop / ratio / step
        index = np.minimum(places.astype(int), len(fine) - 2)
        expected = 2 * np.pi * np.arange(size // 2 + 1) * step / size
        advance = np.angle(fine[index + 1]) - np.angle(fine[index]) - expected
        advance = (expected + np.angle(np.exp(1j * advance))) * (hop / step)
        phase = start + np.angle(fine[0]) + np.concatenate([np.zeros((1, advance.shape[1])), np.cumsum(advance[:-1], axis=0)])
        frames = np.fft.irfft(np.abs(fine[index]) * np.exp(1j * phase), size) * window
        copied: Samples = overlap_add(frames, hop, length, size // 2) * hop / np.square(window).sum()
        return copied
