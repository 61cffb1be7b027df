"""Causal truth: what does this detector use? Shapley values of exchanging tiles of a vocoded clip for its real twin's.

The game's players are tiles of time and frequency. A coalition S is heard as the real recording with the vocoded clip's tiles in S, and
is worth the detector's spoof log-odds. A tile's value is what it adds to the log-odds, averaged over all orders in which tiles can be
exchanged (Shapley 1953; sampling: ``tasks/shapley.py``). Positive: the vocoded tile makes the clip more *spoof* than the real one.

    sum of values = gap = f(spoof) - f(twin)

Both ends are natural inputs, but what lies between must be too: a clip is *refused* where the twins' gap is small, or where too many
mixtures score beyond both twins, because then the seams speak and not the tiles. A null control exchanges tiles for a copy of the same
clip with other phases.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaibench.tasks.cache import atomic_write, cache_dir
from xaibench.tasks.shapley import sample
from xaibench.tasks.swap import BATCH, SwapGame, phase_randomized
from xaibench.tasks.tiles import TileGrid
from xaibench.types import Clip, Detector, content_hash, tensors_hash

VERSION = "1"
"""Raised whenever equal configurations would give other values, so that no cached truth outlives its definition."""
NULL_LIMIT = 0.05
"""Share of the gap by which the null control may move the log-odds."""


@dataclass(frozen=True)
class CausalConfig:
    """How the truth is measured, and when it is refused; its hash is part of every result that rests on it."""

    grid: TileGrid = field(default_factory=TileGrid)
    permutation_pairs: int = 16
    """Orders and their reverses; each costs about two forwards per tile."""
    seed: int = 0
    smallest_gap: float = 2.0
    """Log-odds between the twins below which the detector does not tell them apart."""
    margin: float = 0.1
    """Share of the gap by which the range between the twins is widened."""
    largest_share_outside: float = 0.2
    """Share of the coalitions that may leave the widened range."""

    def __post_init__(self) -> None:
        """Refuse budgets and limits that measure nothing."""
        if self.permutation_pairs < 1:
            raise ValueError(f"permutation_pairs must be at least 1, got {self.permutation_pairs}; use 16")
        if not self.smallest_gap > 0:
            raise ValueError(f"smallest_gap must be positive, got {self.smallest_gap}; use 2.0")
        if not (self.margin >= 0 and 0 <= self.largest_share_outside <= 1):
            got = f"{self.margin} and {self.largest_share_outside}"
            raise ValueError(f"margin must be at least 0 and largest_share_outside in [0, 1], got {got}; use 0.1 and 0.2")

    def content_hash(self) -> str:
        """Hash of the definition and of all fields."""
        return content_hash({"causal": VERSION, **asdict(self)})


@dataclass(frozen=True)
class CausalTruth:
    """What one detector uses in one clip, with its error; NaN where nothing was measured."""

    values: Tensor
    """(bands, segments) float64 log-odds, positive where the vocoded tile speaks for *spoof*; they sum to ``gap``."""
    standard_error: Tensor
    """(bands, segments) float64, over antithetic pairs of permutations."""
    split_half: float
    """Spearman correlation between the values of two halves of the permutations; at least .9 for a truth to score against."""
    spoof_log_odds: float
    bonafide_log_odds: float
    share_outside: float
    """Share of the coalitions that leave the range between the twins, widened by the margin."""
    null_shifts: Tensor
    """(bands, segments) null control: change of log-odds when the vocoded clip's tile alone gets random phases, as a share of the gap."""
    closed_at_random: Tensor
    """(tiles + 1,) share of the gap closed by exchanging k random tiles of the vocoded clip, mean over the permutations."""
    closed_by_values: Tensor
    """(tiles + 1,) the same for the k tiles of largest value: the reference's own."""
    forwards: int
    """Clips that the detector heard."""
    reason: str = ""
    """Why the clip is refused; empty where it counts."""

    @property
    def gap(self) -> float:
        """Log-odds of the vocoded clip minus its twin's."""
        return self.spoof_log_odds - self.bonafide_log_odds

    @property
    def refused(self) -> bool:
        """Whether no explainer may be scored against this clip."""
        return bool(self.reason)

    @property
    def null_shift(self) -> float:
        """Mean size of the null control over tiles, as a share of the gap."""
        return float(self.null_shifts.abs().mean())

    @property
    def null_passed(self) -> bool:
        """Whether exchanging a tile for its own magnitudes moves the log-odds by less than 5 % of the gap, on average."""
        return self.null_shift < NULL_LIMIT

    def heatmap(self, grid: TileGrid, samples: int, valid_samples: int | None = None) -> Tensor:
        """Paint each tile's value into its cells, (F, N) float32; 0 where tiling to length reaches."""
        cells = grid.cells(samples, valid_samples)
        return torch.where(cells >= 0, self.values.reshape(-1)[cells.clamp(min=0)], 0.0).float()


def causal_truth(clip: Clip, detector: Detector, config: CausalConfig | None = None, *, batch: int = BATCH) -> CausalTruth:
    """Return the causal truth of one clip, from the cache where this content was measured before.

    The key covers the samples of both twins, the detector's configuration and weights, and the definition; a file that cannot be read
    counts as missing and is replaced.

    Args:
        clip: Aligned, level-matched twins.
        detector: In ``eval()`` mode.
        config: Tiles, budget, limits.
        batch: Clips per forward.

    Raises:
        ValueError: If the detector is in training mode or answers with NaN or infinity.
        DataError: If the cache cannot be written.
    """
    config = config or CausalConfig()
    path = cache_path(clip, detector, config)
    known = _read(path, config.grid)
    if known is not None:
        return known
    truth = measure(clip, detector, config, batch=batch)
    atomic_write(path, to_json(truth).encode())
    return truth


def measure(clip: Clip, detector: Detector, config: CausalConfig | None = None, *, batch: int = BATCH) -> CausalTruth:
    """Measure the causal truth of one clip; ``causal_truth`` is the same with a cache.

    Raises:
        ValueError: If the detector is in training mode or answers with NaN or infinity.
    """
    config = config or CausalConfig()
    grid = config.grid
    if not grid.fits(len(clip.spoof), clip.valid_samples):
        return _unmeasured(grid, f"the clip has {clip.valid_samples} samples, too few for {grid.tiles} tiles")
    game = SwapGame.of_twins(clip, detector, grid, batch)
    empty, full = game(torch.tensor([[False], [True]]).expand(-1, grid.tiles)).tolist()
    if not full - empty >= config.smallest_gap:
        apart = f"the vocoded clip scores {full - empty:.2f} log-odds above its twin, less than {config.smallest_gap:g}"
        return _unmeasured(grid, f"{apart}: the detector does not tell them apart", empty, full, game.forwards)
    estimate = sample(game, grid.tiles, pairs=config.permutation_pairs, seed=config.seed, ends=(empty, full))
    shape, gap = (grid.bands, grid.segments), full - empty
    own = game(_all_but_best(estimate.values))
    shifts, n_null = _null_control(clip, detector, grid, full, batch)
    outside = _share_outside(estimate.coalition_values, empty, full, config.margin * gap)
    crossed = outside > config.largest_share_outside
    reason = f"{outside:.0%} of the mixtures score beyond both twins, more than {config.largest_share_outside:.0%}: the seams speak"
    return CausalTruth(
        values=estimate.values.reshape(shape),
        standard_error=estimate.standard_error.reshape(shape),
        split_half=estimate.split_half,
        spoof_log_odds=full,
        bonafide_log_odds=empty,
        share_outside=outside,
        null_shifts=shifts.reshape(shape) / gap,
        closed_at_random=(full - estimate.by_size.flip(0)) / gap,
        closed_by_values=(full - torch.cat([own.new_tensor([full]), own, own.new_tensor([empty])])) / gap,
        forwards=game.forwards + n_null,
        reason=reason if crossed else "",
    )


def _all_but_best(values: Tensor) -> Tensor:
    """List the coalitions that lack the 1, 2 ... P - 1 tiles of largest value, (P - 1, P) bool."""
    places = torch.argsort(torch.argsort(values, descending=True, stable=True))
    return places[None, :] >= torch.arange(1, len(values))[:, None]


def _null_control(clip: Clip, detector: Detector, grid: TileGrid, whole: float, batch: int) -> tuple[Tensor, int]:
    """Exchange each tile alone for a copy with random phases; return the changes of log-odds (tiles,) and the forwards."""
    copy = phase_randomized(clip.spoof, grid.stft, clip.valid_samples)
    game = SwapGame(clip.spoof, copy - clip.spoof, detector, grid, clip.valid_samples, batch)
    return game(torch.eye(grid.tiles, dtype=torch.bool)) - whole, game.forwards


def _share_outside(values: Tensor, empty: float, full: float, slack: float) -> float:
    """Share of the coalitions that leave the range between the ends by more than ``slack``; 0 where there are none."""
    outside = (values < empty - slack) | (values > full + slack)
    return float(outside.double().mean()) if len(values) else 0.0


def _unmeasured(grid: TileGrid, reason: str, empty: float = math.nan, full: float = math.nan, forwards: int = 0) -> CausalTruth:
    nothing = torch.full((grid.bands, grid.segments), math.nan, dtype=torch.float64)
    curve = torch.full((grid.tiles + 1,), math.nan, dtype=torch.float64)
    return CausalTruth(nothing, nothing, math.nan, full, empty, math.nan, nothing, curve, curve, forwards, reason)


def cache_path(clip: Clip, detector: Detector, config: CausalConfig) -> Path:
    """Return the file of the cache that belongs to this content; it need not exist."""
    heard = {"twins": tensors_hash({"bonafide": clip.bonafide, "spoof": clip.spoof}), "valid_samples": clip.valid_samples}
    key = content_hash({**heard, "detector": detector.fingerprint(), "config": config.content_hash()})
    return cache_dir() / "causal" / key[:2] / f"{key}.json"


def to_json(truth: CausalTruth) -> str:
    """Write a truth as one line of JSON; NaN becomes null, and every bit of a number survives."""
    values = {f.name: getattr(truth, f.name) for f in fields(truth)}
    return json.dumps({k: _plain(v.tolist() if isinstance(v, Tensor) else v) for k, v in values.items()}, allow_nan=False)


def from_json(text: str) -> CausalTruth:
    """Read what ``to_json`` wrote.

    Raises:
        ValueError: If it is not that.
    """
    read = json.loads(text)
    names = {f.name: f.type for f in fields(CausalTruth)}
    if not isinstance(read, dict) or read.keys() != names.keys():
        raise ValueError(f"text must hold the fields of a causal truth, got {str(read)[:60]!r}; measure it again")
    number = {k: _number(v) for k, v in read.items()}
    filled: dict[str, Any] = {k: torch.tensor(v, dtype=torch.float64) if names[k] is Tensor else v for k, v in number.items()}
    return CausalTruth(**filled)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(v) for v in value]
    return math.nan if value is None else value


def _read(path: Path, grid: TileGrid) -> CausalTruth | None:
    try:
        truth = from_json(path.read_text())
    except (OSError, ValueError, TypeError):
        return None
    return truth if truth.values.shape == (grid.bands, grid.segments) else None
