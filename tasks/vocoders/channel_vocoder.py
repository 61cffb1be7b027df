"""The channel vocoder (Dudley 1939, doi:10.1121/1.1916020): band envelopes of the recording on a buzz-or-hiss carrier."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.frames import interpolate, pulse_train
from xaibench.tasks.vocoders.pitch import PitchTracker
from xaibench.tasks.vocoders.vocoder import Samples, Vocoder
from xaibench.types import SAMPLE_RATE


@VOCODERS.register("channel_vocoder")
@dataclass(frozen=True)
class ChannelVocoder(Vocoder):
    """Zero-phase bands on the ERB scale; each carries the recording's envelope under 50 Hz."""

    title: ClassVar[str] = "Channel vocoder"
    kind: ClassVar[str] = "filter-bank"
    reference: ClassVar[str] = "Dudley 1939"

    channels: int = 32
    envelope_hz: float = 50.0
    low_hz: float = 60.0
    hop_samples: int = 80

    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Replace each band by the carrier's band with the recording's envelope."""
        f0, _ = PitchTracker(hop=self.hop_samples).track(samples)
        voiced = interpolate((f0 > 0).astype(float), self.hop_samples, samples.size) > 0.5
        noise = rng.standard_normal(samples.size)
        carrier = pulse_train(f0, self.hop_samples, samples.size) + noise * np.where(voiced, 0.1, 1.0)
        size = 1 << (samples.size + 4096).bit_length()
        frequency: Samples = np.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float64)
        smooth = np.exp(-0.5 * (frequency / self.envelope_hz) ** 2)
        spoken, carried = np.fft.rfft(samples, size), np.fft.rfft(carrier, size)
        total = np.zeros(samples.size)
        for band in self._bands(frequency):
            envelopes = []
            for spectrum in (spoken, carried):
                power = np.fft.irfft(spectrum * band)[: samples.size] ** 2
                envelopes.append(np.sqrt(np.maximum(np.fft.irfft(np.fft.rfft(power, size) * smooth)[: samples.size], 1e-12)))
            total += np.fft.irfft(carried * band)[: samples.size] * envelopes[0] / np.maximum(envelopes[1], 1e-3 * envelopes[1].max())
        return total

    def _bands(self, frequency: Samples) -> list[Samples]:
        """Overlapping raised-cosine bands, equally wide in ERB number (Glasberg & Moore 1990)."""
        erb = 21.4 * np.log10(1 + 0.00437 * frequency)
        first, last = 21.4 * np.log10(1 + 0.00437 * np.array([self.low_hz, SAMPLE_RATE / 2]))
        centres = np.linspace(first, last, self.channels)
        step = centres[1] - centres[0]
        return [np.cos(np.clip((erb - centre) / step, -1, 1) * np.pi / 2) for centre in centres]
