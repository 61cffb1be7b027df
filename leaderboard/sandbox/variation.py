"""A clip heard a little differently at each evaluation, so that nobody can look it up: another gain, and an offset of a fraction of a hop.

A plugin that recognises a clip by its bytes and returns a map that it brought along finds none. The change is too small for the truth to
move: 4 samples are a sixty-fourth of the default hop, and the gain scales all magnitudes alike.
"""

import secrets
from dataclasses import dataclass

from torch import Tensor

MAX_GAIN_DB = 1.5
MAX_SHIFT = 4


@dataclass(frozen=True)
class Variation:
    """One change of a clip."""

    gain_db: float
    shift: int
    """Samples by which the clip is late; what falls out at the end comes in at the start."""

    @classmethod
    def draw(cls) -> "Variation":
        """Draw one from the system's randomness, which no seed of a run tells; never the identity."""
        steps = secrets.randbelow(2 * 1000) + 1
        gain = MAX_GAIN_DB * (steps - 1000) / 1000 - (MAX_GAIN_DB / 2000)
        return cls(gain, secrets.randbelow(2 * MAX_SHIFT + 1) - MAX_SHIFT)

    def of(self, waveform: Tensor) -> Tensor:
        """Return the clip (B, T) as it is heard; it stays in [-1, 1] where it was."""
        louder = waveform * 10 ** (self.gain_db / 20)
        peak = float(louder.abs().max())
        limit = max(1.0, float(waveform.abs().max()))
        return (louder / max(1.0, peak / limit)).roll(self.shift, -1)
