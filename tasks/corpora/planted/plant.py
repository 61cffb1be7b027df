"""Planting, undoing, transplanting, and decoys: every edit is a waveform that is *added* to a recording.

    edit = inverse STFT of weight x (rule(X) - X),   X the recording's complex STFT, weight the region's, faded over two cells

so that outside the region nothing changes but what one analysis window smears, 0.3 % of the edit's energy at most (a test).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import torch
from torch import Tensor

from xaibench.tasks.corpora.planted.kinds import RULES, Kind, usual_level
from xaibench.tasks.corpora.planted.region import Region, between, draw_region, elsewhere
from xaibench.tasks.spectrogram import inverse, stft

Grade = Literal["subtle", "coarse"]
GRADES: tuple[Grade, ...] = get_args(Grade)
SIZES: dict[Grade, tuple[float, float]] = {"subtle": (0.0, 0.35), "coarse": (0.65, 1.0)}
Decoy = Literal["speech", "phases", "gain", "reverse"]
DECOYS: tuple[Decoy, ...] = get_args(Decoy)
TAUGHT: tuple[Decoy, ...] = ("speech", "phases", "gain")
"""Decoys that detectors are trained against; the other one is for the check alone."""
DRAWS = 24
"""Places tried before the best one so far is taken."""
HEARD = 2.5e-4
"""Energy of an artifact over the recording's, -36 dB, from which a place is taken ..."""
FILLED = 0.25
"""... as long as it is also this share of what the band usually holds: nothing can be taken away from a pause."""


@dataclass(frozen=True)
class Planted:
    """An artifact as planted."""

    kind: Kind
    size: float
    """0 subtle, 1 coarse."""
    region: Region
    artifact: Tensor
    """(T,), what was added to the recording."""


def plant(recording: Tensor, kind: Kind, grade: Grade, generator: torch.Generator) -> Planted:
    """Draw size, region and details from a generator and plant; places where next to nothing would change are drawn again.

    Args:
        recording: (T,), not tiled.
        kind: What.
        grade: Subtle or coarse.
        generator: Source of everything random.
    """
    low, high = SIZES[grade]
    size = low + (high - low) * float(torch.rand(1, generator=generator))
    spectrum = stft(recording)
    drawn = (draw_region(spectrum.shape[1] - 2, generator) for _ in range(DRAWS))
    return _first_heard(spectrum, len(recording), kind, size, drawn, generator)


def transplant(recording: Tensor, planted: Planted, generator: torch.Generator, *, away: bool) -> Tensor | None:
    """Return the same kind of artifact of the same size and band at another time ``(T,)``.

    Args:
        recording: The one that ``planted`` was planted in, or another.
        planted: What is transplanted.
        generator: Source of the place and of details.
        away: Whether the new place must not touch the old one.

    Returns:
        The artifact, or ``None`` where the recording has no room for it.
    """
    spectrum, region = stft(recording), planted.region
    frames, length = spectrum.shape[1] - 2, region.stop - region.start
    if away:
        places = (elsewhere(region, frames, generator) for _ in range(DRAWS))
        drawn: Iterator[Region] = (place for place in places if place is not None)
    else:
        drawn = (region.moved_to(between(0, frames - length, generator)) for _ in range(DRAWS) if frames >= length)
    first = next(drawn, None)
    if first is None:
        return None
    return _first_heard(spectrum, len(recording), planted.kind, planted.size, chain([first], drawn), generator).artifact


def _first_heard(spectrum: Tensor, samples: int, kind: Kind, size: float, regions: Iterable[Region], generator: torch.Generator) -> Planted:
    """Plant in the first region where enough changes, or in the best one."""
    power, usual = spectrum.abs().square().sum(), usual_level(spectrum).square()[:, 0]
    best = -1.0
    for region in regions:
        edit = (RULES[kind](spectrum, region, size, generator) - spectrum) * region.weight(samples)
        energy = edit.abs().square().sum()
        holds = usual[region.low : region.high].sum() * (region.stop - region.start)
        worth = min(float(energy / power) / HEARD, float(energy / holds) / FILLED)
        if worth > best:
            best, chosen = worth, (region, edit)
        if worth >= 1:
            break
    return Planted(kind, size, chosen[0], inverse(chosen[1][None], samples)[0])


def undo(artifact: Tensor, parts: list[Region]) -> Tensor:
    """Return what of an artifact ``(T,)`` lies in some regions; taking it away undoes the plant there and nowhere else."""
    spectrum = stft(artifact)
    inside = torch.zeros(spectrum.shape, dtype=torch.bool)
    for part in parts:
        inside |= part.mask(len(artifact))
    return inverse((spectrum * inside)[None], len(artifact))[0]


def decoy(recording: Tensor, planted: Planted, region: Region, how: Decoy, other: Tensor, generator: torch.Generator) -> Tensor:
    """Return an edit ``(T,)`` of an artifact's energy that is no artifact.

    Args:
        recording: (T,).
        planted: Whose energy is matched.
        region: Where; ``elsewhere`` gives places of equal area and band.
        how: ``speech`` adds the same cells of another recording, ``phases`` redraws the recording's phases, ``gain`` turns it up,
            ``reverse`` plays it backwards.
        other: Another recording, (T,) or longer.
        generator: Source of the phases.
    """
    source = stft(other[: len(recording)] if how == "speech" else recording)
    turns = torch.rand(source.shape, generator=generator)
    source = torch.polar(source.abs(), 2 * torch.pi * turns) - source if how == "phases" else source
    if how == "reverse":
        turned = source.clone()
        turned[:, region.start : region.stop] = source[:, region.start : region.stop].flip(1).conj()
        source = turned - source
    edit = inverse((source * region.weight(len(recording)))[None], len(recording))[0]
    return edit * (planted.artifact.square().sum() / edit.square().sum().clamp(min=1e-20)).sqrt()
