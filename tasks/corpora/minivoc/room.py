"""Room, channel and noise floor: what makes clean synthetic speech a recording.

The room response is a direct path followed by exponentially decaying noise (Polack 1988); the noise floor is Gaussian with a falling
spectrum. Everything is drawn from the utterance's own generator.
"""

from dataclasses import dataclass

import numpy as np

from xaibench.tasks.vocoders.vocoder import Samples
from xaibench.types import SAMPLE_RATE


@dataclass(frozen=True)
class Recording:
    """Conditions of one recording."""

    rt60_s: float
    direct_to_reverberant_db: float
    tilt_db_per_octave: float
    speech_dbfs: float
    noise_dbfs: float
    noise_slope: float
    """Exponent of the noise's falling power spectrum: 0 white, 1 pink."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Recording":
        """Draw conditions of a quiet furnished room and an ordinary microphone."""
        return cls(
            rt60_s=rng.uniform(0.1, 0.3),
            direct_to_reverberant_db=rng.uniform(6, 15),
            tilt_db_per_octave=rng.uniform(-1.0, 1.0),
            speech_dbfs=rng.uniform(-39, -32),
            noise_dbfs=rng.uniform(-71, -63),
            noise_slope=rng.uniform(0.4, 1.2),
        )


def record(speech: Samples, rng: np.random.Generator) -> Samples:
    """Place speech ``(T,)`` in a room, colour it, set its level and add the noise floor, ``(T,)``."""
    conditions = Recording.draw(rng)
    size = 1 << (2 * speech.size - 1).bit_length()
    spectrum = np.fft.rfft(speech, size) * np.fft.rfft(room_response(conditions, rng), size)
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20.0)
    tilt = 10 ** (conditions.tilt_db_per_octave * np.log2(frequency / 1000) / 20)
    rumble = frequency**4 / (frequency**4 + 50.0**4)
    wet = np.fft.irfft(spectrum * tilt * rumble)[: speech.size]
    noise = coloured_noise(speech.size, conditions.noise_slope, rng)
    return _at_level(wet, conditions.speech_dbfs) + _at_level(noise, conditions.noise_dbfs)


def room_response(conditions: Recording, rng: np.random.Generator) -> Samples:
    """Return a response that starts with the direct path, so that no delay is added."""
    time = np.arange(int(conditions.rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(time.size) * 10 ** (-3 * time / conditions.rt60_s) * (time > 0.003)
    tail *= 10 ** (-conditions.direct_to_reverberant_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail


def coloured_noise(samples: int, slope: float, rng: np.random.Generator) -> Samples:
    """Return Gaussian noise with power falling as frequency to the ``slope``, flat under 50 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 50.0)
    return np.fft.irfft(spectrum * frequency ** (-slope / 2), samples)


def _at_level(samples: Samples, dbfs: float) -> Samples:
    rms = np.sqrt(np.mean(samples**2))
    levelled: Samples = samples * (10 ** (dbfs / 20) / rms)
    return levelled
