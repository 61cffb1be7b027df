"""At what level a net hears a clip: at the clip's own, so that gain does not matter, or at one for all clips."""

from torch import Tensor

SILENCE_RMS = 1e-4
"""Level (-80 dBFS) at which normalization fades out: what is quieter stays quiet instead of being blown up."""


def at_level(waveform: Tensor, level: float | None) -> Tensor:
    """Return clips in units of a level, ``(B, T)``.

    A clip's own level depends on all its samples, most on the loud ones. Through it every loud cell has a say in the answer, and gradients
    find them all, wherever the evidence lies; a level for all clips keeps gradients where the evidence is.

    Args:
        waveform: ``(B, T)``, full scale 1.
        level: RMS that becomes 1; ``None`` for each clip's own.
    """
    if level is not None:
        return waveform / level
    return waveform / (waveform.square().mean(dim=-1, keepdim=True) + SILENCE_RMS**2).sqrt()
