"""What happens to recordings on their way: telephone band, codecs, a room, noise at a stated SNR; done alike to both members of a pair.

Everything random (room, noise) is drawn from a seed of pair and condition, and is the same for both members: the same room, and the same
noise at the level that gives the recording the stated SNR. Truth is computed again on the degraded pair; the clean pair's mask stays beside
it as the second column (``clean-pair-v1``), since a degradation may hide an artifact or carry it elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import UnknownNameError
from xaibench.registry import VOCODERS
from xaibench.tasks.alignment import match_level
from xaibench.tasks.audio import tile
from xaibench.tasks.masks import truth
from xaibench.tasks.recipes import CLEAN
from xaibench.types import SAMPLE_RATE, Clip, Pair, Split, Task, content_hash

Samples = np.ndarray[Any, np.dtype[np.float64]]


def _telephone(samples: Samples, rng: np.random.Generator, reference: Samples) -> Samples:
    """Band of 300 to 3400 Hz (ITU-T G.712) with 8-bit mu-law steps (G.711)."""
    del rng
    from scipy.signal import butter, sosfiltfilt

    band = sosfiltfilt(butter(4, [300, 3400], "bandpass", fs=SAMPLE_RATE, output="sos"), samples)
    peak = max(float(np.abs(reference).max()), 1e-9)
    level = np.clip(band / peak, -1, 1)
    coded = np.round(np.sign(level) * np.log1p(255 * np.abs(level)) / np.log(256) * 127) / 127
    found: Samples = peak * np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
    return found


def _codec(spec: str) -> "Degrade":
    def degrade(samples: Samples, rng: np.random.Generator, reference: Samples) -> Samples:
        del rng, reference
        copied: Tensor = VOCODERS.load(spec).copy(torch.from_numpy(samples).float())
        return copied.double().numpy()

    return degrade


def _reverb(samples: Samples, rng: np.random.Generator, reference: Samples) -> Samples:
    """A room of T60 = 0.5 s: direct sound and exponentially falling noise 6 dB under it (Polack 1988's statistical model)."""
    del reference
    from scipy.signal import fftconvolve

    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / 0.5)
    tail[: SAMPLE_RATE // 400] = 0
    response = np.concatenate([[1.0], 0.5 * tail / np.sqrt(np.square(tail).sum())])
    found: Samples = fftconvolve(samples, response)[: len(samples)]
    return found


def _noise(snr_db: float) -> "Degrade":
    def degrade(samples: Samples, rng: np.random.Generator, reference: Samples) -> Samples:
        spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))  # pink
        noise = np.fft.irfft(spectrum, len(samples))
        gain = np.sqrt(np.square(reference).mean() / max(np.square(noise).mean(), 1e-30) / 10 ** (snr_db / 10))
        found: Samples = samples + gain * noise
        return found

    return degrade


Degrade = Callable[[Samples, np.random.Generator, Samples], Samples]
CONDITIONS: dict[str, Degrade] = {
    "telephone": _telephone,
    "mp3": _codec("mp3:kbps=24"),
    "opus": _codec("opus:kbps=16"),
    "reverb": _reverb,
    "noise20": _noise(20.0),
    "noise10": _noise(10.0),
}
"""Name to what it does to samples, with a generator and the bona fide member, by which levels are set."""


def degrade(clip: Clip, condition: str) -> Clip:
    """Degrade both members of a clip alike and keep the clean pair's mask as ``planted``.

    Raises:
        UnknownNameError: If there is no such condition.
    """
    if condition not in CONDITIONS:
        raise UnknownNameError(f"condition must be one of {', '.join(CONDITIONS)}, got {condition!r}; see docs/protocols.md")
    seed = int(content_hash([condition, clip.pair.utterance])[:15], 16)
    size = clip.valid_samples
    real = clip.bonafide[:size].double().numpy()
    twins = [
        torch.from_numpy(CONDITIONS[condition](w[:size].double().numpy(), np.random.default_rng(seed), real).astype(np.float32))
        for w in (clip.bonafide, clip.spoof)
    ]
    spoof = match_level(*twins)
    known = truth(clip)
    return replace(clip, bonafide=tile(twins[0], len(clip.bonafide)), spoof=tile(spoof, len(clip.spoof)), planted=known.mask)


@dataclass(frozen=True)
class DegradedTask(Task):
    """A task heard through one condition."""

    title: ClassVar[str] = "degraded pairs"

    condition: str = "telephone"
    base: Task | None = field(default=None, repr=False, metadata={"config": False})

    def __post_init__(self) -> None:
        """Take on what the base declares."""
        assert self.base is not None
        for name in ("version", "licence", "default_detector", "truth"):
            object.__setattr__(self, name, getattr(self.base, name))
        object.__setattr__(self, "name", f"{self.base.name}-{self.condition}")
        object.__setattr__(self, "recipes", (*self.base.recipes[:1], CLEAN.name))

    @property
    def _base(self) -> Task:
        assert self.base is not None
        return self.base

    def pairs(self, split: Split) -> list[Pair]:
        """Return the pairs of the base."""
        return self._base.pairs(split)

    def complete(self, pair: Pair) -> Pair:
        """Return the pair as the base completes it."""
        return self._base.complete(pair)

    def load(self, pair: Pair) -> Clip:
        """Load a pair and degrade it."""
        return degrade(self._base.load(pair), self.condition)

    def references(self, pair: Pair) -> Tensor:
        """Return the base's references, degraded likewise."""
        change = CONDITIONS[self.condition]
        rows = []
        for i, recording in enumerate(self._base.references(pair)):
            samples = recording.double().numpy()
            rows.append(torch.from_numpy(change(samples, np.random.default_rng(i), samples).astype(np.float32)))
        return torch.stack(rows)

    def fingerprint(self) -> str:
        """Hash the base and the condition."""
        return content_hash({"base": self._base.fingerprint(), "condition": self.condition})
