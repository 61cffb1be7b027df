"""Artifact truth: where a vocoded clip differs from its real twin, by named and versioned recipes.

After Grinberg et al. 2025 (arXiv:2506.03425, eq. 2 as publicly re-implemented). With magnitudes M + f (s: spoof, b: bona fide),
f = ``floor`` x the largest magnitude of both twins, and G the separable Gaussian of 3 frames x 11 bins, variance 3 x 5, reflect padding:

    rel-linear  |G(Ms) - G(Mb)| / (|G(Mb)| + eps)          abs-linear  |G(Ms) - G(Mb)|
    rel-log     the same on ln(M + eps)                    abs-log     |G(ln Ms) - G(ln Mb)|
    symmetric   |G(Ms) - G(Mb)| / (G(Ms) + G(Mb) + eps)

The mask is the top 5 % of the valid cells by rank, an exact count; ties are broken by a fixed permutation and counted.
Twins are expected aligned and level-matched (``tasks/alignment.py``).

Planted truth (``planted-v1``) is no comparison of twins: the mask is the region that the task planted, and so is the continuous
difference (1 inside, 0 outside), since nothing is known of one planted cell that is not known of the others.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import PairError
from xaibench.tasks.recipes import RECIPES, MaskRecipe, recipe
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude, valid_cells
from xaibench.types import Clip

__all__ = ["RECIPES", "MaskRecipe", "Truth", "difference", "mask", "recipe", "smooth", "top_cells", "truth"]

_named = recipe  # the functions below take an argument of that name

IDENTICAL = 1e-5
"""Twins whose magnitudes differ by less than this share of their sum (-100 dB: rounding) are one recording; their mask is empty."""


@dataclass(frozen=True)
class Truth:
    """The artifact truth of one clip, or its planted truth."""

    mask: Tensor
    """(F, N) bool."""
    difference: Tensor
    """(F, N) float32, the continuous difference that the mask ranks."""
    valid: Tensor
    """(F, N) bool, cells before tiling began."""
    threshold: float
    """Smallest difference inside the mask; NaN for an empty mask."""
    ties: int
    """Cells that share the threshold where not all of them found room, else 0."""
    empty: bool
    """Whether the mask is empty, since the twins are one recording (or shorter than a window): localisation is undefined."""
    share_added: float
    """Share of the mask where the spoof has more energy than its twin; NaN for an empty mask."""


@dataclass(frozen=True)
class _Comparison:
    difference: Tensor
    signed: Tensor
    identical: Tensor


def difference(
    bonafide: Tensor,
    spoof: Tensor,
    recipe: str | MaskRecipe = "sym-floor60-v1",
    stft: STFTConfig = DEFAULT_STFT,
    valid: Tensor | None = None,
) -> Tensor:
    """Return the continuous difference of twins, ``(B, F, N)`` float32, at least 0, larger where they differ more.

    Args:
        bonafide: Real recordings, (B, T), aligned with the spoof.
        spoof: Their vocoded twins, (B, T).
        recipe: Name in ``RECIPES`` or a recipe of one's own.
        stft: The grid.
        valid: (B, F, N) or (F, N) bool; only these cells set the floor. All of them by default.

    Raises:
        ValueError: If the shapes differ or are not (B, T), or a sample is not finite.
        UnknownNameError: If the recipe has no such name.
    """
    return _compare(bonafide, spoof, _named(recipe), stft, valid).difference


def mask(
    bonafide: Tensor,
    spoof: Tensor,
    recipe: str | MaskRecipe = "sym-floor60-v1",
    stft: STFTConfig = DEFAULT_STFT,
    valid: Tensor | None = None,
) -> Tensor:
    """Return where twins differ most, ``(B, F, N)`` bool; empty for a pair of identical recordings.

    The arguments and errors are those of ``difference``; cells outside ``valid`` never enter the mask nor count for its density.
    """
    chosen = _named(recipe)
    return _select(_compare(bonafide, spoof, chosen, stft, valid), chosen, valid)[0]


def truth(clip: Clip, recipe: str | MaskRecipe = "sym-floor60-v1", stft: STFTConfig = DEFAULT_STFT) -> Truth:
    """Return mask, difference and what must be known about them for one clip; one pass for all.

    Raises:
        UnknownNameError: If the recipe has no such name.
        PairError: If the clip has not what the recipe compares: a twin, labels in time, or a planted region on this grid.
    """
    chosen = _named(recipe)
    valid = valid_cells(clip.valid_samples, len(clip.spoof), stft)
    if chosen.domain == "time":
        return _labelled(clip, stft, valid)
    if chosen.domain == "planted":
        return _planted(clip, stft, valid)
    if not clip.has_twin:
        raise PairError(f"clip must have a twin for recipe {chosen.name}, got {clip.pair.id} without one; score it on the detector alone")
    compared = _compare(clip.bonafide[None], clip.spoof[None], chosen, stft, valid)
    selected, ties = _select(compared, chosen, valid)
    inside = compared.difference[selected]
    empty = not len(inside)
    return Truth(
        mask=selected[0],
        difference=compared.difference[0],
        valid=valid,
        threshold=math.nan if empty else float(inside.min()),
        ties=int(ties[0]),
        empty=empty,
        share_added=math.nan if empty else float((compared.signed[selected] > 0).double().mean()),
    )


def _labelled(clip: Clip, stft: STFTConfig, valid: Tensor) -> Truth:
    """Return the frames whose hop around the centre is fake for the most part, at every frequency."""
    if clip.fake is None:
        raise PairError(f"clip must be labelled in time for recipe time-v1, got {clip.pair.id} without labels; use a recipe of twins")
    hop = stft.hop_samples
    samples = torch.nn.functional.pad(clip.fake.float()[None, None], (hop // 2, hop), mode="replicate")[0, 0]
    share = samples.unfold(0, hop, hop).mean(1)[: valid.shape[1]]
    mask = (share > 0.5)[None] & valid
    empty = not bool(mask.any())
    return Truth(mask, mask.float(), valid, math.nan if empty else 1.0, 0, empty, math.nan)


def _planted(clip: Clip, stft: STFTConfig, valid: Tensor) -> Truth:
    """Return the truth of a clip whose task planted an artifact."""
    if clip.planted is None or clip.planted.shape != valid.shape:
        got = "none" if clip.planted is None else f"shape {tuple(clip.planted.shape)}"
        raise PairError(f"clip must hold a planted region {tuple(valid.shape)}, got {got}; use a task with planted truth on its own grid")
    inside = clip.planted & valid
    real, fake = magnitude(torch.stack([clip.bonafide, clip.spoof]), stft)
    empty = not bool(inside.any())
    return Truth(
        mask=inside,
        difference=inside.float(),
        valid=valid,
        threshold=math.nan if empty else 1.0,
        ties=0,
        empty=empty,
        share_added=math.nan if empty else float((fake > real)[inside].double().mean()),
    )


def top_cells(scores: Tensor, count: int | Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Select exactly ``count`` cells by rank, larger first; ties are broken by a fixed permutation of the cells.

    Args:
        scores: (B, F, N), finite where valid.
        count: Cells to select in each clip, one number or (B,).
        valid: (B, F, N) or (F, N) bool; other cells are never selected.

    Returns:
        The selection (B, F, N) bool, and (B,) int64: how many cells share the last admitted score where not all of them found room, else 0.

    Raises:
        ValueError: If a shape is wrong, a valid score is not finite, or ``count`` exceeds the valid cells.
    """
    if scores.ndim != 3:
        raise ValueError(f"scores must be (B, F, N), got shape {tuple(scores.shape)}; add the missing axis")
    flat = scores.detach().reshape(len(scores), -1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    allowed = torch.ones_like(flat, dtype=torch.bool) if valid is None else _expand_valid(valid, scores).reshape(flat.shape)
    if not bool((torch.isfinite(flat) | ~allowed).all()):
        raise ValueError("scores must be finite, got NaN or infinity; check the heatmap first")
    counts = torch.as_tensor(count, device="cpu").expand(len(flat)).tolist()
    selected = torch.zeros_like(flat, dtype=torch.bool)
    ties = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    for row, k in enumerate(counts):
        selected[row], ties[row] = _top_row(flat[row], int(k), allowed[row])
    return selected.reshape(scores.shape), ties


def _top_row(scores: Tensor, count: int, allowed: Tensor) -> tuple[Tensor, int]:
    room = int(allowed.sum())
    if not 0 <= count <= room:
        raise ValueError(f"count must be in 0..{room} (the valid cells), got {count}; lower it")
    if count == 0:
        return torch.zeros_like(allowed), 0
    ranked = np.partition((scores if room == len(scores) else scores[allowed]).cpu().numpy(), room - count)  # ten times faster than torch's
    threshold = float(ranked[room - count])
    chosen = allowed & (scores > threshold)
    level = torch.nonzero(allowed & (scores == threshold)).squeeze(1)
    places = count - int(chosen.sum())
    if len(level) > places:
        order = torch.argsort(_priority(len(scores)).to(scores.device)[level])
        chosen[level[order[:places]]] = True
        return chosen, len(level)
    chosen[level] = True
    return chosen, 0


@lru_cache(maxsize=16)
def _priority(cells: int) -> Tensor:
    """Return the fixed rank of each cell among equals: splitmix64 of its index (Steele et al. 2014), the same on every platform."""
    with np.errstate(over="ignore"):
        z = np.arange(1, cells + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    rank = np.empty(cells, dtype=np.int64)
    rank[np.argsort(z)] = np.arange(cells)
    return torch.from_numpy(rank)


def _compare(bonafide: Tensor, spoof: Tensor, recipe: MaskRecipe, stft: STFTConfig, valid: Tensor | None) -> _Comparison:
    if bonafide.ndim != 2 or bonafide.shape != spoof.shape:
        raise ValueError(
            f"spoof must have bonafide's shape (B, T), got {tuple(spoof.shape)} and {tuple(bonafide.shape)}; align and crop the twins first"
        )
    if recipe.domain in ("time", "planted"):
        raise ValueError(f"recipe must compare twins, got {recipe.name}, which comes with the clip; use truth(clip, {recipe.name!r})")
    waveforms = torch.cat([bonafide, spoof]).float()
    if not bool(torch.isfinite(waveforms).all()):
        raise ValueError("bonafide and spoof must be finite, got NaN or infinity; read them with tasks.audio.read_audio")
    both = magnitude(waveforms, stft)
    size = len(bonafide)
    cells = torch.ones_like(both[:size], dtype=torch.bool) if valid is None else _expand_valid(valid, both[:size])
    real, fake = both[:size], both[size:]
    gap = ((fake - real).abs() * cells).sum((1, 2))
    identical = gap <= IDENTICAL * ((fake + real) * cells).sum((1, 2))
    if recipe.floor:
        loudest = (torch.maximum(real, fake) * cells).amax((1, 2), keepdim=True)
        both = both + recipe.floor * torch.cat([loudest, loudest])
    both = both * recipe.scale
    if recipe.domain in ("rel-log", "abs-log"):
        both = torch.log(both + recipe.eps)
    both = smooth(both, *recipe.kernels())
    real, fake = both[:size], both[size:]
    signed = fake - real
    return _Comparison(signed.abs() / _denominator(real, fake, recipe), signed, identical)


def _denominator(real: Tensor, fake: Tensor, recipe: MaskRecipe) -> Tensor | float:
    if recipe.domain in ("rel-linear", "rel-log"):
        return real.abs() + recipe.eps
    if recipe.domain == "symmetric":
        return real + fake + recipe.eps
    return 1.0


def _select(compared: _Comparison, recipe: MaskRecipe, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Take the top cells; cells without any difference never enter, so that a local edit gets a small mask rather than a wrong one."""
    scores = compared.difference
    allowed = scores > 0
    total = torch.full((len(scores),), scores[0].numel(), device=scores.device)
    if valid is not None:
        cells = _expand_valid(valid, scores)
        allowed = allowed & cells
        total = cells.sum((1, 2))
    counts = torch.ceil(total.double() * recipe.density - 1e-9).long()
    counts = torch.minimum(counts, allowed.sum((1, 2))) * ~compared.identical
    return top_cells(scores, counts, allowed)


def _expand_valid(valid: Tensor, scores: Tensor) -> Tensor:
    if valid.shape[-2:] != scores.shape[-2:] or valid.ndim > 3 or (valid.ndim == 3 and len(valid) not in (1, len(scores))):
        raise ValueError(
            f"valid must have shape (F, N) or (B, F, N) of {tuple(scores.shape)}, got {tuple(valid.shape)}; use the grid of the clip"
        )
    return valid.to(device=scores.device, dtype=torch.bool).expand(scores.shape)


def smooth(grid: Tensor, frames: Tensor, bins: Tensor) -> Tensor:
    """Smooth ``(B, F, N)`` along bins, then frames, with the kernels of a recipe.

    Edges are mirrored with the edge cell repeated, as ``mode="reflect"`` of scipy.ndimage (not of numpy or torch) does.
    """
    return _correlate(_correlate(grid, bins, 1), frames, 2)


def _correlate(grid: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Correlate with an odd symmetric kernel along one axis."""
    radius, length = len(kernel) // 2, grid.shape[axis]
    if radius == 0:
        return grid
    position = torch.arange(-radius, length + radius, device=grid.device) % (2 * length)
    padded = grid.index_select(axis, torch.minimum(position, 2 * length - 1 - position))
    weights = kernel.tolist()
    total: Tensor = padded.narrow(axis, radius, length) * weights[radius]
    for offset in range(1, radius + 1):
        pair = padded.narrow(axis, radius - offset, length) + padded.narrow(axis, radius + offset, length)
        total = torch.add(total, pair, alpha=weights[radius + offset])
    return total
