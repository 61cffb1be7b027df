"""Harmonic plus noise model (Stylianou 1996, PhD thesis, ENST Paris): sinusoids up to a maximum voiced frequency, shaped noise above."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from xaibench.registry import VOCODERS
from xaibench.tasks.spectrogram import STFTConfig, inverse, stft
from xaibench.tasks.vocoders.frames import Frames, interpolate
from xaibench.tasks.vocoders.pitch import PitchTracker
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder
from xaibench.types import SAMPLE_RATE


@VOCODERS.register("harmonic_noise")
@dataclass(frozen=True)
class HarmonicNoise(Vocoder):
    """Harmonics of F0 with amplitudes from the spectrum and an artificial phase, plus noise with the smoothed spectrum."""

    title: ClassVar[str] = "Harmonic plus noise model"
    kind: ClassVar[str] = "sinusoidal"
    reference: ClassVar[str] = "Stylianou 1996"

    voiced_hz: float = 4000.0
    """Maximum voiced frequency at full harmonicity; it falls with harmonicity."""
    window_samples: int = 400
    hop_samples: int = 80

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Add the harmonic and the noise part."""
        grid = STFTConfig(self.window_samples, self.hop_samples)
        magnitude = stft(torch.from_numpy(samples), grid).abs().numpy()
        f0, harmonicity = PitchTracker(hop=self.hop_samples).track(samples)
        limit_hz = np.where(f0 > 0, self.voiced_hz * np.clip((harmonicity - 0.3) / 0.6, 0.1, 1.0), 0.0)
        return self._harmonics(magnitude, f0, limit_hz, samples.size) + self._noise(magnitude, limit_hz, samples.size, rng)

    def _harmonics(self, magnitude: Frames, f0: Samples, limit_hz: Samples, length: int) -> Samples:
        """Sum sinusoids at multiples of F0; a Schroeder phase spreads their energy over the period."""
        voiced = np.flatnonzero(f0 > 0)
        if voiced.size == 0:
            return np.zeros(length)
        bridged = np.interp(np.arange(f0.size), voiced, f0[voiced])
        cycles = np.cumsum(interpolate(bridged, self.hop_samples, length)) / SAMPLE_RATE
        highest = int(self.voiced_hz / f0[voiced].min())
        total = np.zeros(length)
        # A sinusoid of amplitude 1 peaks at half the window's sum, 0.25 x size for Hann.
        scale = 4.0 / self.window_samples
        for k in range(1, highest + 1):
            position = bridged * k * self.window_samples / SAMPLE_RATE
            inside = (k * f0 < limit_hz) & (f0 > 0)
            if not inside.any():
                continue
            amplitude = np.where(inside, _at(magnitude, position), 0.0) * scale
            total += interpolate(amplitude, self.hop_samples, length) * np.cos(2 * np.pi * k * cycles - np.pi * k * k / highest)
        return total

    def _noise(self, magnitude: Frames, limit_hz: Samples, length: int, rng: np.random.Generator) -> Samples:
        """Shape white noise by the magnitude smoothed over 3 frames and 5 bins, above the limit of each frame."""
        grid = STFTConfig(self.window_samples, self.hop_samples)
        white = stft(torch.from_numpy(rng.standard_normal(length)), grid)
        envelope = torch.nn.functional.avg_pool2d(torch.from_numpy(magnitude**2)[None], (5, 3), 1, (2, 1), count_include_pad=False)[
            0
        ].sqrt()
        frequency = np.fft.rfftfreq(self.window_samples, 1 / SAMPLE_RATE)[:, None]
        rise = np.clip((frequency - limit_hz[None, :]) / 200.0 + 0.5, 0.0, 1.0)
        gain = envelope * torch.from_numpy(np.where(limit_hz[None, :] > 0, rise, 1.0))
        # White noise of variance 1 has mean power sum(window^2), 0.375 x size for Hann.
        shaped: Samples = inverse(white * gain / np.sqrt(0.375 * self.window_samples), length, grid).numpy()
        return shaped


def _at(magnitude: Frames, position: Samples) -> Samples:
    """Read column n of ``(F, N)`` at a fractional row; the larger neighbour, as harmonics fall between bins."""
    last = magnitude.shape[0] - 1
    low = np.clip(np.floor(position).astype(int), 0, last)
    columns = np.arange(magnitude.shape[1])
    peak: Samples = np.maximum(magnitude[low, columns], magnitude[np.minimum(low + 1, last), columns])
    return peak
