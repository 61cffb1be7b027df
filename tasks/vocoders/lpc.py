"""Linear prediction with a pulse or noise source (Atal & Hanauer 1971, doi:10.1121/1.1912679; Levinson-Durbin recursion)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.frames import Frames, interpolate, overlap_add, pulse_train, split_frames
from xaibench.tasks.vocoders.pitch import PitchTracker
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder
from xaibench.types import SAMPLE_RATE

FFT_SIZE = 2048
LAG_WINDOW_HZ = 60.0


@VOCODERS.register("lpc")
@dataclass(frozen=True)
class LPC(Vocoder):
    """An all-pole filter per frame, driven by pulses where voiced and by noise elsewhere."""

    title: ClassVar[str] = "LPC, pulse/noise source"
    kind: ClassVar[str] = "linear-prediction"
    reference: ClassVar[str] = "Atal & Hanauer 1971"
    lag_samples: ClassVar[int] = 20

    order: int = 20
    window_samples: int = 480
    hop_samples: int = 80
    noise_share: float = 0.15
    """Share of noise amplitude mixed into voiced frames."""

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Analyze every 5 ms, filter windowed stretches of the source in the frequency domain and add them up."""
        window = np.hanning(self.window_samples + 2)[1:-1]
        filters, gain = all_pole(split_frames(samples, self.window_samples, self.hop_samples) * window, self.order)
        gain /= np.sqrt(np.mean(window**2) * self.window_samples)
        source = self._source(samples, rng)
        size = 2 * self.hop_samples
        stretches = split_frames(source, size, self.hop_samples) * np.hanning(size + 1)[:-1] * gain[:, None]
        response = 1.0 / np.fft.rfft(filters, FFT_SIZE)
        filtered = np.fft.irfft(np.fft.rfft(stretches, FFT_SIZE) * response)
        return overlap_add(filtered, self.hop_samples, samples.size, size // 2)

    def _source(self, samples: Samples, rng: np.random.Generator) -> Samples:
        f0, _ = PitchTracker(hop=self.hop_samples).track(samples)
        noise = rng.standard_normal(samples.size)
        pulses = pulse_train(f0, self.hop_samples, samples.size)
        voiced = interpolate((f0 > 0).astype(float), self.hop_samples, samples.size)
        return (1 - self.noise_share) * pulses + noise * np.where(voiced > 0.5, self.noise_share, 1.0)


def all_pole(frames: Frames, order: int) -> tuple[Frames, Samples]:
    """Fit ``1 / A(z)`` to each frame ``(N, size)``.

    Returns:
        A, ``(N, order + 1)`` with A[0] = 1, and the root of the residual's energy, ``(N,)``.
    """
    spectrum = np.abs(np.fft.rfft(frames, FFT_SIZE)) ** 2
    r = np.fft.irfft(spectrum)[:, : order + 1]
    # A Gaussian lag window widens resonances by 60 Hz: high voices would otherwise ring on single harmonics, and late.
    r *= np.exp(-0.5 * (2 * np.pi * LAG_WINDOW_HZ / SAMPLE_RATE * np.arange(order + 1)) ** 2)
    r[:, 0] = r[:, 0] * 1.0001 + 1e-9
    a = np.zeros_like(r)
    a[:, 0] = 1.0
    error = r[:, 0].copy()
    for m in range(1, order + 1):
        k = -np.sum(a[:, :m] * r[:, m:0:-1], axis=1) / error
        a[:, 1 : m + 1] += k[:, None] * a[:, m - 1 :: -1][:, :m]
        error *= 1 - k**2
    return a, np.sqrt(np.maximum(error, 0.0))
