"""The explanation made audible: the chosen cells alone, and everything but them.

A binary mask on the complex spectrogram, phase of the clip, inverse transform: the cells that were scored and no others. What is heard is
brought to the level of the clip, otherwise five per cent of the cells would be too soft to judge.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, inverse, stft

PEAK = 0.98
MAX_GAIN_DB = 40.0


@dataclass(frozen=True)
class Sound:
    """One thing to listen to."""

    waveform: Tensor
    """(T,) float32 in [-1, 1]."""
    gain_db: float
    """Level match applied, in dB; 0 where the sound is silent."""
    silent: bool = False


def match_level(waveform: Tensor, reference: Tensor) -> Sound:
    """Scale ``waveform`` (T,) to the RMS of ``reference`` (T,), by at most 40 dB and without clipping."""
    rms, target = waveform.square().mean().sqrt(), reference.square().mean().sqrt()
    if float(rms) < 1e-7 or float(target) < 1e-7:
        return Sound(torch.zeros_like(waveform), 0.0, silent=True)
    gain = min(float(target / rms), 10 ** (MAX_GAIN_DB / 20), PEAK / max(float(waveform.abs().max()), 1e-9))
    return Sound((waveform * gain).float(), 20 * float(torch.log10(torch.tensor(gain))))


def split(waveform: Tensor, mask: Tensor, config: STFTConfig = DEFAULT_STFT) -> tuple[Sound, Sound]:
    """Split a clip into what lies in the mask and the rest.

    Args:
        waveform: Clip, (T,).
        mask: Cells to hear, (F, N) bool.
        config: Grid of the mask.

    Returns:
        Only the masked cells, and only the rest, each level-matched to the clip.

    Raises:
        ValueError: If the mask does not have the grid's shape.
    """
    spectrum = stft(waveform, config)
    if mask.shape != spectrum.shape:
        raise ValueError(f"mask must have the grid's shape {tuple(spectrum.shape)}, got {tuple(mask.shape)}; use the STFT it was made with")
    only = inverse((spectrum * mask)[None], waveform.shape[-1], config)[0]
    return match_level(only, waveform), match_level(waveform - only, waveform)


def flac_bytes(waveform: Tensor, sample_rate: int = 16_000) -> bytes:
    """Encode (T,) in [-1, 1] as 16-bit FLAC: lossless, played by every browser, equal bytes for equal input."""
    import io

    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform.clamp(-1, 1).numpy(), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
