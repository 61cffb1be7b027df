"""Disturb a training pair, both twins alike: what a disturbance says about the twins is then nothing.

Level and spectral tilt are shortcuts (vocoded files are up to 4 dB quieter, one family is 7 dB darker above 6.5 kHz), hence gain and
equaliser; a training set of few voices is made one of many by speed, which shifts pitch and formants.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xaibench.errors import PairError
from xaibench.tasks.alignment import match_level
from xaibench.tasks.augmentation.rawboost import RawBoost
from xaibench.types import SAMPLE_RATE, Clip

MAX_OFFSET_SAMPLES = SAMPLE_RATE // 2
"""Offsets of clips whose whole length is not at hand."""


@dataclass(frozen=True)
class Augmentation:
    """How copies of a pair differ from it."""

    equaliser_db: float = 6.0
    """Largest gain of each of the equaliser's points."""
    equaliser_points: int = 5
    gain_db: float = 6.0
    """Largest change of level."""
    speed: float = 0.0
    """Largest relative change of speed, up or down; 0.25 for corpora of one or two voices."""
    speed_share: float = 0.7
    """Share of copies whose speed changes."""
    rawboost: int = 0
    """Algorithm of RawBoost (1 to 8, ``xaibench.tasks.augmentation``), drawn once for both twins; 0 for none."""
    rawboost_share: float = 0.5
    """Share of copies that it disturbs. The mask stays that of the undisturbed twins: its noise is no vocoder's artifact."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not 0 <= self.speed < 0.5:
            raise ValueError(f"speed must be in 0..0.5, got {self.speed}; use 0.25")
        for name in ("speed_share", "rawboost_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}; use 0.5")
        if self.rawboost:
            RawBoost(algorithm=self.rawboost)  # refuses unknown algorithms


def augment(clip: Clip, generator: torch.Generator, settings: Augmentation | None = None, whole: Clip | None = None) -> Clip:
    """Return a copy of the clip of its length: cut elsewhere, played at another speed, equalised, louder or quieter; twins alike.

    What is missing at the end is filled by tiling and is not valid. A cut from the whole pair is level-matched again.

    Args:
        clip: The clip as the task loads it.
        generator: Source of all randomness.
        settings: How far copies may differ.
        whole: The pair in its whole length, from which the cut is taken; without it the clip's start moves by up to half a second.
    """
    settings = settings or Augmentation()
    length = clip.spoof.shape[-1]
    source = whole if whole is not None and whole.valid_samples > length else clip
    factor = _factor(settings, generator)
    wanted = round(length * factor)
    room = max(source.valid_samples - max(wanted, SAMPLE_RATE), 0)
    offset = int(torch.randint(0, (room if source is whole else min(room, MAX_OFFSET_SAMPLES)) + 1, (), generator=generator))
    twins = torch.stack([source.bonafide, source.spoof])[:, offset : min(offset + wanted, source.valid_samples)]
    if source is whole:
        twins = _matched(twins)
    if factor != 1:
        twins = resample(twins, max(round(twins.shape[1] / factor), 1))
    valid = min(twins.shape[1], length)
    bonafide, spoof = _coloured(twins.repeat(1, -(-length // twins.shape[1]))[:, :length], settings, generator)
    return replace(clip, bonafide=bonafide, spoof=spoof, valid_samples=valid)


def boosted(clip: Clip, generator: torch.Generator, settings: Augmentation) -> Clip:
    """Return what a network hears of a copy whose mask is made from ``clip``: the copy itself, or a disturbed one."""
    if not settings.rawboost or float(torch.rand((), generator=generator)) >= settings.rawboost_share:
        return clip
    return RawBoost(algorithm=settings.rawboost).clip(clip, generator)[0]


def resample(twins: Tensor, samples: int) -> Tensor:
    """Play (2, T) within ``samples`` samples by cutting or padding the spectrum: exact for what lies under both Nyquist frequencies."""
    spectrum = torch.fft.rfft(twins)
    kept = torch.zeros(len(twins), samples // 2 + 1, dtype=spectrum.dtype)
    shared = min(kept.shape[1], spectrum.shape[1])
    kept[:, :shared] = spectrum[:, :shared]
    played: Tensor = torch.fft.irfft(kept, n=samples) * (samples / twins.shape[1])
    return played


def _factor(settings: Augmentation, generator: torch.Generator) -> float:
    if not settings.speed:
        return 1.0
    drawn, change = torch.rand(2, generator=generator).tolist()
    return 1 + settings.speed * (2 * change - 1) if drawn < settings.speed_share else 1.0


def _matched(twins: Tensor) -> Tensor:
    try:
        return torch.stack([twins[0], match_level(twins[0], twins[1])])
    except PairError:  # a pause: there is no level to match
        return twins


def _coloured(twins: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Pass (2, T) through a smooth curve of random gains."""
    gains = (2 * torch.rand(1, 1, settings.equaliser_points, generator=generator) - 1) * settings.equaliser_db
    level = (2 * torch.rand((), generator=generator) - 1) * settings.gain_db
    spectrum = torch.fft.rfft(twins)
    curve = torch.nn.functional.interpolate(gains, size=spectrum.shape[-1], mode="linear", align_corners=True)[0]
    coloured: Tensor = torch.fft.irfft(spectrum * 10 ** ((curve + level) / 20), n=twins.shape[1])
    return coloured
