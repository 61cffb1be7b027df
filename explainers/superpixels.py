"""Superpixels of a spectrogram, and the game that black-box explainers play with them: who is heard, and what does the detector say?

Simple linear iterative clustering (Achanta et al. 2012, doi:10.1109/TPAMI.2012.120) of log-magnitude, frequency and time: patches follow
harmonics and pauses where tiles cut through them. Each cell chooses among the nine patches around its own tile, so that a patch stays where
it began; patches need not be connected. A patch that is not heard is turned down to a floor under the clip's loudest cell.
"""

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, inverse, stft
from xaibench.types import Detector, Explainer, Generators, clip_generators

ROUNDS = 5
"""Rounds of clustering; patches hardly move after the third."""
AUDIBLE = 1e-3
"""Level under the loudest cell (-60 dB) below which all cells count as equally quiet."""


@dataclass(frozen=True)
class SuperpixelExplainer(Explainer):
    """Shares log-odds out among superpixels; subclasses say how. Works with any detector, gradients or not."""

    polarity = "signed"
    needs = frozenset({"logits"})
    bands: int = 8
    segments: int = 8
    """Superpixels at most, in frequency and in time."""
    compactness: float = 0.5
    """Weight of place beside level; a large one gives rectangular tiles."""
    floor_db: float = -60.0
    """Level of a hidden cell under the loudest cell of the clip; cells that are quieter stay as they are."""
    budget: int = 512
    """Most forward passes per clip."""
    chunk_size: int = field(default=16, metadata={"result": False})
    """Clips that the detector hears at once; changes memory and speed, not the result."""
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse grids without a patch and budgets that determine nothing."""
        if min(self.bands, self.segments, self.chunk_size) < 1 or self.compactness <= 0:
            got = f"{self.bands}, {self.segments}, {self.chunk_size} and {self.compactness}"
            raise ValueError(f"bands, segments and chunk_size must be at least 1 and compactness positive, got {got}; use 8, 8, 16 and 0.5")
        if self.budget < self.bands * self.segments + 2:
            least = self.bands * self.segments + 2
            raise ValueError(
                f"budget must be at least one forward per superpixel and two ({least}), got {self.budget}; use for example 512"
            )

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the share of each cell's superpixel in the log-odds, (B, F, N)."""
        with torch.no_grad():
            return torch.stack(
                [self._one(clip, detector, g) for clip, g in zip(waveform, clip_generators(generator, len(waveform)), strict=True)]
            )

    def _one(self, clip: Tensor, detector: Detector, generator: torch.Generator) -> Tensor:
        spectrum = stft(clip[None], self.stft)
        patches = superpixels(spectrum[0].abs(), self.bands, self.segments, self.compactness)
        game = Game(detector, clip, spectrum, patches, self.floor_db, self.chunk_size, self.stft)
        return self.shares(game, generator).to(clip)[patches]

    @abstractmethod
    def shares(self, game: "Game", generator: torch.Generator) -> Tensor:
        """Return what each player adds to the log-odds, ``(M,)``, within ``budget`` calls of the game."""


@dataclass(frozen=True)
class Game:
    """A clip whose superpixels can be hidden; a call answers for coalitions."""

    detector: Detector
    clip: Tensor
    """(T,)."""
    spectrum: Tensor
    """(1, F, N) complex."""
    patches: Tensor
    """Number of each cell's superpixel, (F, N)."""
    floor_db: float
    chunk_size: int
    stft: STFTConfig

    @property
    def players(self) -> int:
        """Number of superpixels M."""
        return int(self.patches.max()) + 1

    def __call__(self, heard: Tensor) -> Tensor:
        """Return the log-odds, ``(S,)``, with those superpixels alone that are true in ``heard``, ``(S, M)`` bool."""
        level = self.spectrum.abs()
        floor = level.amax() * 10 ** (self.floor_db / 20)
        hidden = self.spectrum * (floor / level.clamp(min=torch.finfo(level.dtype).tiny)).clamp(max=1.0)
        answers = []
        for part in torch.split(heard.to(self.patches.device), self.chunk_size):
            mixed = torch.where(part[:, self.patches], self.spectrum, hidden)
            answers.append(self.detector.spoof_logit(inverse(mixed, len(self.clip), self.stft)))
        return torch.cat(answers)

    def centers(self) -> Tensor:
        """Return mean frequency, time (both in tiles' units of 0 to 1) and level of each player, ``(M, 3)``, on the CPU."""
        return patch_means(features(self.spectrum[0].abs()), self.patches.flatten(), self.players).cpu()


def features(magnitude: Tensor) -> Tensor:
    """Return frequency and time from 0 to 1 and smoothed log-magnitude in its own standard deviations, ``(F * N, 3)``."""
    bins, frames = magnitude.shape
    peak = magnitude.amax().clamp(min=torch.finfo(magnitude.dtype).tiny)
    level = torch.log(magnitude / peak + AUDIBLE)
    level = functional.avg_pool2d(level[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
    level = (level - level.mean()) / level.std().clamp(min=1e-6)
    high = torch.linspace(0, 1, bins, device=magnitude.device)[:, None].expand(bins, frames)
    late = torch.linspace(0, 1, frames, device=magnitude.device)[None].expand(bins, frames)
    return torch.stack([high, late, level], dim=-1).flatten(0, 1)


def patch_means(values: Tensor, patch: Tensor, count: int) -> Tensor:
    """Return the mean of ``values`` ``(K, D)`` by patch ``(K,)``, ``(count, D)``, summed in double precision."""
    total = torch.zeros(count, values.shape[1], dtype=torch.float64, device=values.device).index_add_(0, patch, values.double())
    size = torch.bincount(patch, minlength=count).clamp(min=1)
    return (total / size[:, None]).to(values.dtype)


def superpixels(magnitude: Tensor, bands: int, segments: int, compactness: float = 0.5) -> Tensor:
    """Return the number of each cell's superpixel, ``(F, N)`` int64 without gaps.

    Args:
        magnitude: Linear magnitude, ``(F, N)``.
        bands: Rows of superpixels to begin with.
        segments: Columns of superpixels to begin with.
        compactness: Weight of the distance in tiles beside that of log-magnitudes in standard deviations.
    """
    bins, frames = magnitude.shape
    row = (torch.arange(bins, device=magnitude.device) * bands // bins)[:, None].expand(bins, frames).flatten()
    column = (torch.arange(frames, device=magnitude.device) * segments // frames)[None].expand(bins, frames).flatten()
    scale = torch.tensor([compactness * bands, compactness * segments, 1.0], device=magnitude.device)
    points = features(magnitude) * scale
    patch: Tensor = row * segments + column
    steps = [(i, j) for i in (0, -1, 1) for j in (0, -1, 1)]  # the own tile first: it wins ties
    near = torch.stack([(row + i).clamp(0, bands - 1) * segments + (column + j).clamp(0, segments - 1) for i, j in steps], dim=1)
    for _ in range(ROUNDS):
        centers = patch_means(points, patch, bands * segments)
        distance = torch.stack([(points - centers[choice]).square().sum(1) for choice in near.unbind(1)], dim=1)
        patch = near.gather(1, distance.argmin(dim=1, keepdim=True))[:, 0]
    numbered: Tensor = torch.unique(patch, return_inverse=True)[1]
    return numbered.view(bins, frames)
