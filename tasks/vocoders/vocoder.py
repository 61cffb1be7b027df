"""A vocoder copies a recording: analysis to a few parameters, then synthesis, so that only its own artifacts differ.

Copies are aligned to the sample grid of the recording, of equal length and of equal RMS level. The random numbers of a copy depend on the
seed and on the recording's 16-bit samples, so that no two recordings share a noise sequence which a detector could memorize.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Samples = npt.NDArray[np.float64]

MIN_SAMPLES = 2048
"""Shortest recording a vocoder takes: two analysis windows (128 ms)."""


@dataclass(frozen=True)
class Vocoder(ABC):
    """A copy synthesizer; its dataclass fields are its options.

    Subclasses implement ``resynthesize`` and are registered with ``VOCODERS.register``.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    """What is kept and how it is synthesized, e.g. ``"source-filter"``; vocoders of one kind form a family."""
    reference: ClassVar[str] = ""
    version: ClassVar[str] = "1"
    lag_samples: ClassVar[int] = 0
    """Constant lag of the raw synthesis behind the recording (median over voices, band envelopes); ``copy`` takes it off."""
    trained: ClassVar[bool] = False
    """Whether it needs weights, which may not ship."""

    seed: int = 0

    @abstractmethod
    def resynthesize(self, samples: Samples, rng: np.random.Generator) -> Samples:
        """Copy ``(T,)`` float64 samples at 16 kHz; any length and level may come back, the caller fits both."""

    def copy(self, waveform: Tensor) -> Tensor:
        """Copy a recording through this vocoder.

        Args:
            waveform: (T,) float32 in [-1, 1], 16 kHz, at least 2048 samples.

        Returns:
            (T,) float32 on the CPU, aligned with the recording and of the same RMS; silence is copied as silence.

        Raises:
            ValueError: If the waveform is not one-dimensional, too short, or holds NaN or infinity.
        """
        if waveform.ndim != 1 or waveform.numel() < MIN_SAMPLES:
            shape = tuple(waveform.shape)
            raise ValueError(f"waveform must be (T,) with at least {MIN_SAMPLES} samples, got {shape}; pass one mono recording at 16 kHz")
        if not bool(torch.isfinite(waveform).all()):
            raise ValueError("waveform must be finite, got NaN or infinity; mend the recording first")
        samples = waveform.detach().cpu().double().numpy()
        if not samples.any():
            return torch.zeros(samples.size)
        copied = fit_length(self.resynthesize(samples, self._generator(samples)), samples.size, self.lag_samples)
        power = float(np.mean(copied**2))
        gain = np.sqrt(np.mean(samples**2) / power) if power > 0 else 0.0
        return torch.from_numpy((copied * gain).astype(np.float32))

    def state_hash(self) -> str:
        """Return the hash of what a copy depends on beside name, version and options; empty where there is nothing."""
        return ""

    def _generator(self, samples: Samples) -> np.random.Generator:
        quantized = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2")
        digest = hashlib.sha256(f"{self.name}|{self.version}|{self.seed}|".encode() + quantized.tobytes()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def fit_length(samples: Samples, length: int, lag: int) -> Samples:
    """Take off a lag and cut or extend to ``(length,)``; mirrored at the ends, since digital silence would give copies away."""
    moved = np.pad(samples[max(0, lag) :], (max(0, -lag), 0), mode="reflect")[:length]
    return np.pad(moved, (0, length - moved.size), mode="reflect")
