"""The short-time Fourier transform and its inverse: the only file that knows window and hop.

Conventions
    Periodic Hann window, centred frames, reflect padding, unnormalised: ``T`` samples give ``N = T // hop_samples + 1`` frames of
    ``F = window_samples // 2 + 1`` bins. The default 1024/256 grid turns 64 600 samples into 513 x 253 cells. Both directions are
    differentiable.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor

from xaibench.types import SAMPLE_RATE, content_hash

LOG_FLOOR = 1e-8
"""Added to magnitudes before the logarithm (-160 dBFS per cell)."""


@dataclass(frozen=True)
class STFTConfig:
    """The grid of a task: window and hop in samples at 16 kHz."""

    window_samples: int = 1024
    hop_samples: int = 256

    def __post_init__(self) -> None:
        """Refuse windows and hops from which a signal cannot be rebuilt."""
        if self.window_samples < 2 or self.window_samples % 2:
            raise ValueError(f"window_samples must be even and at least 2, got {self.window_samples}; use for example 1024")
        if not 0 < self.hop_samples <= self.window_samples // 2:
            raise ValueError(
                f"hop_samples must be in 1..{self.window_samples // 2} (half the window), got {self.hop_samples}; use a quarter"
            )

    @classmethod
    def parse(cls, text: str) -> "STFTConfig":
        """Read ``"1024/256"``, the form of the command line."""
        window, _, hop = text.partition("/")
        if not (window.isdigit() and hop.isdigit()):
            raise ValueError(f"stft must be WINDOW/HOP in samples, got {text!r}; use for example 1024/256")
        return cls(int(window), int(hop))

    def __str__(self) -> str:
        """Write the form that ``parse`` reads."""
        return f"{self.window_samples}/{self.hop_samples}"

    @property
    def bins(self) -> int:
        """Frequency bins F."""
        return self.window_samples // 2 + 1

    def frames(self, samples: int) -> int:
        """Frames N of a clip of this many samples."""
        return samples // self.hop_samples + 1

    def frequencies_hz(self) -> Tensor:
        """Centre frequency of each bin, (F,)."""
        return torch.arange(self.bins) * (SAMPLE_RATE / self.window_samples)

    def content_hash(self) -> str:
        """Hash of the grid, part of every result's key."""
        return content_hash(asdict(self))


DEFAULT_STFT = STFTConfig()


@lru_cache(maxsize=16)
def _hann(length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a window first made under inference mode could not be differentiated through later
        return torch.hann_window(length, periodic=True, device=device, dtype=dtype)


def stft(waveform: Tensor, config: STFTConfig = DEFAULT_STFT) -> Tensor:
    """Transform ``(B, T)`` (or ``(T,)``) to a complex spectrogram ``(B, F, N)`` (or ``(F, N)``).

    Raises:
        ValueError: If the clip is shorter than half a window, which reflect padding needs.
    """
    if waveform.shape[-1] <= config.window_samples // 2:
        raise ValueError(
            f"waveform must have more than {config.window_samples // 2} samples, got {waveform.shape[-1]}; tile it to the detector's length"
        )
    window = _hann(config.window_samples, waveform.device, waveform.dtype)
    return torch.stft(waveform, config.window_samples, config.hop_samples, window=window, center=True, return_complex=True)


def inverse(spectrum: Tensor, samples: int, config: STFTConfig = DEFAULT_STFT) -> Tensor:
    """Rebuild ``(B, T)`` with ``T = samples`` from a complex spectrogram ``(B, F, N)``; exact for one that ``stft`` made."""
    window = _hann(config.window_samples, spectrum.device, spectrum.real.dtype)
    return torch.istft(spectrum, config.window_samples, config.hop_samples, window=window, center=True, length=samples)


def inverse_frames(spectrum: Tensor, samples: int, config: STFTConfig = DEFAULT_STFT) -> Tensor:
    """Rebuild ``(B, T)`` as ``inverse`` does, from spectra stored frame by frame, ``(B, N, F)``; about three times faster.

    For many spectra of one grid: nothing is transposed, and windowing is part of the overlapping addition.
    """
    parts, rest = divmod(config.window_samples, config.hop_samples)
    if rest:  # a hop that does not divide the window
        return inverse(spectrum.transpose(1, 2), samples, config)
    clips, frames = spectrum.shape[:2]
    window = _hann(config.window_samples, spectrum.device, spectrum.real.dtype).view(parts, config.hop_samples)
    pieces = torch.fft.irfft(spectrum, n=config.window_samples, dim=-1).reshape(clips, frames, parts, config.hop_samples)
    added = pieces.new_zeros(clips, frames + parts - 1, config.hop_samples)
    for i in range(parts):
        added[:, i : i + frames].addcmul_(pieces[:, :, i], window[i])
    start = config.window_samples // 2
    rebuilt: Tensor = added.flatten(1)[:, start : start + samples]
    return rebuilt * _gain(config, frames, samples, spectrum.device, spectrum.real.dtype)


@lru_cache(maxsize=8)
def _gain(config: STFTConfig, frames: int, samples: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return what undoes the sum of the overlapping squared windows, (T,)."""
    with torch.inference_mode(False):
        squares = _hann(config.window_samples, device, dtype).square().view(-1, config.hop_samples)
        total = squares.new_zeros(frames + len(squares) - 1, config.hop_samples)
        for i, part in enumerate(squares):
            total[i : i + frames] += part
        start = config.window_samples // 2
        return total.flatten()[start : start + samples].reciprocal()


def magnitude(waveform: Tensor, config: STFTConfig = DEFAULT_STFT) -> Tensor:
    """Linear magnitude, ``(B, F, N)``."""
    return stft(waveform, config).abs()


def log_magnitude(waveform: Tensor, config: STFTConfig = DEFAULT_STFT) -> Tensor:
    """Natural logarithm of magnitude plus 1e-8, ``(B, F, N)``."""
    return torch.log(magnitude(waveform, config) + LOG_FLOOR)


def valid_cells(valid_samples: int, samples: int, config: STFTConfig = DEFAULT_STFT) -> Tensor:
    """Mark the frames whose whole window lies before tiling began, ``(F, N)`` bool; all of them where nothing was tiled."""
    frames = torch.arange(config.frames(samples))
    valid = frames * config.hop_samples + config.window_samples // 2 <= valid_samples
    if valid_samples >= samples:
        valid = torch.ones_like(valid)
    return valid[None, :].expand(config.bins, -1)
