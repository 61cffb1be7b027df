"""Mask recipes: each a named, versioned definition of where a vocoded clip differs from its real twin (formulas: ``tasks/masks.py``).

Sources: Grinberg et al. 2025 (arXiv:2506.03425), kernel 3 x 11, variance 3 x 5, 95 % quantile; what the paper leaves open is a field here.
"""

import difflib
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from xaibench.errors import UnknownNameError
from xaibench.types import content_hash

Domain = Literal["rel-linear", "rel-log", "abs-log", "abs-linear", "symmetric", "time", "planted"]
DOMAINS: tuple[Domain, ...] = ("rel-linear", "rel-log", "abs-log", "abs-linear", "symmetric", "time", "planted")


@dataclass(frozen=True)
class MaskRecipe:
    """One definition of the truth; a new definition gets a new name."""

    name: str
    domain: Domain
    floor: float = 0.0
    """Added to both magnitudes, as a share of the largest magnitude of both twins: 0.001 is -60 dB."""
    density: float = 0.05
    """Share of the valid cells that the mask holds."""
    kernel_frames: int = 3
    kernel_bins: int = 11
    variance_frames: float = 3.0
    variance_bins: float = 5.0
    swap_axes: bool = False
    """Read the paper's 3 x 11 as 3 bins x 11 frames (variance likewise)."""
    eps: float = 1e-8
    scale: float = 1.0
    """Factor on the magnitudes; matters for ``rel-log`` alone, which is singular where the scaled magnitude is 1."""

    def __post_init__(self) -> None:
        """Refuse values that define no mask."""
        if self.domain not in DOMAINS:
            raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, got {self.domain!r}; see docs/masks.md")
        if not 0 < self.density < 1:
            raise ValueError(f"density must be between 0 and 1, got {self.density}; use 0.05")
        for label, size in (("kernel_frames", self.kernel_frames), ("kernel_bins", self.kernel_bins)):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{label} must be odd and positive, got {size}; use 1 for no smoothing")
        for label, value in (
            ("variance_frames", self.variance_frames),
            ("variance_bins", self.variance_bins),
            ("eps", self.eps),
            ("scale", self.scale),
        ):
            if not value > 0:
                raise ValueError(f"{label} must be positive, got {value}; keep the default")
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor must be in [0, 1), got {self.floor}; use 0.001 for -60 dB")

    def content_hash(self) -> str:
        """Hash of all fields: two recipes with equal hashes give equal masks."""
        return content_hash(asdict(self))

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Return the normalised kernels along frames and along bins."""
        frames = _gaussian(self.kernel_frames, self.variance_frames)
        bins = _gaussian(self.kernel_bins, self.variance_bins)
        return (bins, frames) if self.swap_axes else (frames, bins)


_PAPER = MaskRecipe("grinberg-rel-linear-v1", "rel-linear")
_SYMMETRIC = MaskRecipe("symmetric-v1", "symmetric")
RECIPES: dict[str, MaskRecipe] = {
    r.name: r
    for r in (
        replace(_SYMMETRIC, name="sym-floor60-v1", floor=1e-3),
        _PAPER,
        replace(_PAPER, name="rel-linear-swapped-v1", swap_axes=True),
        replace(_PAPER, name="rel-linear-unsmoothed-v1", kernel_frames=1, kernel_bins=1),
        replace(_PAPER, name="rel-linear-floor60-v1", floor=1e-3),
        MaskRecipe("rel-log-v1", "rel-log"),
        MaskRecipe("rel-log-scaled-v1", "rel-log", scale=1 / 512),
        MaskRecipe("abs-log-v1", "abs-log"),
        MaskRecipe("abs-log-floor50-v1", "abs-log", floor=10**-2.5),
        MaskRecipe("abs-log-floor60-v1", "abs-log", floor=1e-3),
        MaskRecipe("abs-linear-v1", "abs-linear"),
        _SYMMETRIC,
        replace(_SYMMETRIC, name="sym-floor50-v1", floor=10**-2.5),
        replace(_SYMMETRIC, name="sym-floor70-v1", floor=10**-3.5),
    )
}
"""All named recipes of twins; the first two are official columns."""
TIME = MaskRecipe("time-v1", "time")
"""Frames that labels call fake, at every frequency: the truth of corpora without twins; only the time marginal may be scored against it."""
CLEAN = MaskRecipe("clean-pair-v1", "planted")
"""The mask of the pair before it was degraded (``tasks/degradation.py``), carried in ``Clip.planted``."""
PLANTED = MaskRecipe("planted-v1", "planted")
"""The region that a task planted (``Clip.planted``), whatever the twins' spectra say; what smooths and floors has no effect on it."""


def recipe(name: str | MaskRecipe) -> MaskRecipe:
    """Return the recipe of this name; a ``MaskRecipe`` passes untouched.

    Raises:
        UnknownNameError: If there is none; the message suggests close names.
    """
    if isinstance(name, MaskRecipe):
        return name
    special = {r.name: r for r in (TIME, PLANTED, CLEAN)}
    if name in special:
        return special[name]
    if name not in RECIPES:
        close = difflib.get_close_matches(name, [*RECIPES, *special], n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"available: {', '.join(RECIPES)}"
        raise UnknownNameError(f"recipe must be a named mask recipe, got {name!r}; {hint}")
    return RECIPES[name]


def _gaussian(size: int, variance: float) -> Tensor:
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-offsets.square() / (2 * variance))
    return weights / weights.sum()
