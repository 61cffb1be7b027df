"""The six artifacts: rules for what the magnitudes and phases of a region become.

A rule ``(spectrum, region, size, generator) -> spectrum`` gets a complex STFT (F, N) and returns another one, of which only the region is
taken; ``size`` goes from 0 (subtle) to 1 (coarse). Levels are relative to the band's *usual* one, the root mean square of each bin over
the clip, smoothed over 9 bins.
"""

# ruff: noqa: ARG001 (every rule takes the whole signature, whether it draws or not)

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from xaibench.tasks.corpora.planted.region import Region
from xaibench.tasks.spectrogram import DEFAULT_STFT, inverse, stft
from xaibench.types import SAMPLE_RATE

Kind = Literal["plateau", "notch", "harmonic_removal", "clicks", "texture", "tones"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Rule = Callable[[Tensor, Region, float, torch.Generator], Tensor]

RISE_DB = (-3.0, 6.0)
"""Level of what is put in over the band's usual one, subtle and coarse."""
FALL_DB = (-20.0, -50.0)
"""Gain of a notch."""
HARMONIC_WINDOW = 17
"""Bins (266 Hz) in which the valley between harmonics is looked for."""
CLICK_MS = (24.0, 40.0)
LOOP_SAMPLES = 512
"""Length of the repeated sound, 32 ms."""
TONE_SPACING = 5
"""Bins from tone to tone, 78 Hz: close enough that every cell of the region holds the skirt of one."""


def plateau(spectrum: Tensor, region: Region, size: float, generator: torch.Generator) -> Tensor:
    """Clamp every magnitude to one level (the band's usual, -3 to +6 dB), phases kept: a flat patch."""
    level = usual_level(spectrum)[region.low : region.high].square().mean().sqrt() * _gain(RISE_DB, size)
    return torch.polar(level.expand(spectrum.shape).clone(), spectrum.angle())


def notch(spectrum: Tensor, region: Region, size: float, generator: torch.Generator) -> Tensor:
    """Turn the region down by 20 to 50 dB: a hole."""
    return spectrum * _gain(FALL_DB, size)


def harmonic_removal(spectrum: Tensor, region: Region, size: float, generator: torch.Generator) -> Tensor:
    """Press spectral peaks down to the valleys between harmonics, 50 to 100 % of the way in decibels: the pitch goes."""
    level, half = spectrum.abs().clamp(min=1e-8), HARMONIC_WINDOW // 2
    around = torch.nn.functional.pad(level[None], (0, 0, half, half), mode="replicate")[0].unfold(0, HARMONIC_WINDOW, 1)
    valley = torch.minimum(level, around.kthvalue(4, dim=-1).values)
    return torch.polar(level * (valley / level) ** (0.5 + 0.5 * size), spectrum.angle())


def clicks(spectrum: Tensor, region: Region, size: float, generator: torch.Generator) -> Tensor:
    """Add a click every 24 to 40 ms."""
    period = CLICK_MS[0] + (CLICK_MS[1] - CLICK_MS[0]) * float(torch.rand(1, generator=generator))
    train = torch.zeros(_samples(spectrum))
    train[torch.arange(0, len(train), period * SAMPLE_RATE / 1000).long()] = 1.0
    return spectrum + _at_usual_level(stft(train), spectrum, region, size)


def texture(spectrum: Tensor, region: Region, size: float, generator: torch.Generator) -> Tensor:
    """Put the region's loudest 32 ms in its place, over and over: a stutter."""
    waveform = inverse(spectrum[None], _samples(spectrum))[0]
    loudest = int(spectrum[region.low : region.high, region.start : region.stop].abs().square().sum(0).argmax())
    middle = (region.start + loudest) * DEFAULT_STFT.hop_samples
    first = max(0, min(middle - LOOP_SAMPLES // 2, len(waveform) - LOOP_SAMPLES))
    loop = waveform[first : first + LOOP_SAMPLES].repeat(-(-len(waveform) // LOOP_SAMPLES))[: len(waveform)]
    return _at_usual_level(stft(loop), spectrum, region, size)


def tones(spectrum: Tensor, region: Region, size: float, generator: torch.Generator) -> Tensor:
    """Add steady tones 78 Hz apart to the noise of the recording."""
    bins = torch.arange(region.low + 2, region.high - 1, TONE_SPACING) + torch.rand(1, generator=generator)
    phases = torch.rand(len(bins), generator=generator)
    turns = torch.arange(_samples(spectrum))[:, None] / DEFAULT_STFT.window_samples * bins + phases
    return spectrum + _at_usual_level(stft(torch.cos(2 * torch.pi * turns).sum(1)), spectrum, region, size)


RULES: dict[Kind, Rule] = {
    "plateau": plateau,
    "notch": notch,
    "harmonic_removal": harmonic_removal,
    "clicks": clicks,
    "texture": texture,
    "tones": tones,
}


def usual_level(spectrum: Tensor) -> Tensor:
    """Return the root mean square of each bin, smoothed over 9 bins, (F, 1)."""
    power = spectrum.abs().square().mean(dim=-1)[None, None]
    return torch.nn.functional.avg_pool1d(power, 9, stride=1, padding=4, count_include_pad=False)[0, 0].sqrt()[:, None]


def _at_usual_level(added: Tensor, spectrum: Tensor, region: Region, size: float) -> Tensor:
    """Give an added spectrum the usual level of the recording in every bin, raised by the size."""
    own = usual_level(added[:, region.start : region.stop]).clamp(min=1e-12)
    return added * (usual_level(spectrum) / own * _gain(RISE_DB, size))


def _gain(decibels: tuple[float, float], size: float) -> float:
    return float(10 ** ((decibels[0] + (decibels[1] - decibels[0]) * size) / 20))


def _samples(spectrum: Tensor) -> int:
    return (spectrum.shape[1] - 1) * DEFAULT_STFT.hop_samples
