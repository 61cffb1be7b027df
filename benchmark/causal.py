"""The causal stage: stored heatmaps against the causal truth of their clip (``tasks/causal.py``), in each domain that the protocol names.

The truth of a clip is measured once, before its first heatmap is scored, and kept in the cache by content. What it is worth (split-half
correlation, null control, share of mixtures out of range) is written beside every score of the clip; a refused clip has no score, and the
reason stands in its place.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from torch import Tensor

from xaibench.benchmark.metrics import causal as pure
from xaibench.benchmark.suite import Causal
from xaibench.benchmark.summary import CausalRow
from xaibench.benchmark.units import Score
from xaibench.errors import UnknownNameError
from xaibench.tasks.causal import CausalConfig, CausalTruth, causal_truth
from xaibench.tasks.spectrogram import STFTConfig
from xaibench.tasks.swap import SwapGame
from xaibench.tasks.tiles import TileGrid
from xaibench.types import Clip, Detector

QUALITY = ("causal_split_half", "causal_null_shift", "causal_share_outside")
"""What is said of the truth itself; equal for all heatmaps of a clip."""
REFERENCE = "oracle_mask"
"""The oracle whose map is, against each truth, that truth's own reference."""
LEAST_SPLIT_HALF = 0.9


def domain(name: str, stft: STFTConfig) -> TileGrid:
    """Return the tiles of a named domain: what of the real twin is swapped in.

    Args:
        name: ``twin_tiles`` (8 bands x 4 segments of the complex STFT) or ``twin_segments`` (16 cross-faded segments of the waveform).
        stft: The task's grid.

    Raises:
        UnknownNameError: If there is none of this name.
    """
    grids = {"twin_tiles": TileGrid(stft=stft), "twin_segments": TileGrid(1, 16, "time", stft=stft)}
    if name not in grids:
        raise UnknownNameError(f"domain must be one of {', '.join(grids)}, got {name!r}; use twin_tiles")
    return grids[name]


def config(name: str, pairs: int, gap: float, stft: STFTConfig) -> CausalConfig:
    """Return how the truth of a domain is measured."""
    return CausalConfig(grid=domain(name, stft), permutation_pairs=pairs, smallest_gap=max(gap, 1e-6))


@dataclass(frozen=True)
class Reference:
    """The causal truth of one clip in one domain, ready to score heatmaps against."""

    truth: CausalTruth
    cells: Tensor
    game: SwapGame | None
    """None where the clip is refused."""
    own: Tensor
    """(F, N), the truth's own map."""

    @classmethod
    def of(cls, clip: Clip, detector: Detector, settings: CausalConfig, limits: Causal) -> "Reference":
        """Measure the truth of a clip, or read it from the cache; what is not worth scoring against is refused."""
        truth, grid, samples = worthy(causal_truth(clip, detector, settings), limits), settings.grid, len(clip.spoof)
        game = None if truth.refused else SwapGame.of_twins(clip, detector, grid)
        own = truth.heatmap(grid, samples, clip.valid_samples).nan_to_num()
        return cls(truth, grid.cells(samples, clip.valid_samples), game, own)

    def score(self, heatmap: Tensor) -> dict[str, Any]:
        """Score one map (F, N): values and reasons as a record holds them."""
        if self.truth.refused:
            raw = {record.name: math.nan for record in pure.INFOS}
        else:
            raw = pure.score(heatmap, self.truth, self.cells, self.game)
        quality = (self.truth.split_half, self.truth.null_shift, self.truth.share_outside)
        raw |= dict(zip(QUALITY, quality, strict=True))
        why = {n: pure.undefined_reason(n, self.truth) or "not measured" for n, value in raw.items() if not math.isfinite(value)}
        return {"values": {n: value if math.isfinite(value) else None for n, value in raw.items()}, "why": why}


def worthy(truth: CausalTruth, limits: Causal) -> CausalTruth:
    """Refuse a truth that its own checks do not support: halves that disagree, or a null control that moves too much."""
    if truth.refused:
        return truth
    if truth.split_half < limits.least_split_half:
        return replace(truth, reason=f"unsteady: two halves of the permutations agree to less than {limits.least_split_half:g}")
    if not truth.null_shift < limits.null_limit:
        return replace(truth, reason=f"null control: phases alone move the log-odds by {limits.null_limit:.0%} of the gap or more")
    return truth


def quality(scores: Iterable[Score], domains: Sequence[str]) -> tuple[CausalRow, ...]:
    """Sum up what the truths of a task are worth.

    Args:
        scores: One record of the causal stage for each clip and domain, whichever explainer's.
        domains: Domains that the protocol asked for.
    """
    found = []
    by_domain: dict[str, list[Score]] = {name: [] for name in domains}
    for score in scores:
        by_domain.setdefault(score.occluder, []).append(score)
    for name, records in by_domain.items():
        refused = Counter(r.why["causal_spearman"] for r in records if "causal_gap_closed_random" in r.why)
        kept = [r for r in records if "causal_gap_closed_random" not in r.why]
        halves = [v for r in kept if (v := r.values.get("causal_split_half")) is not None]
        shifts = [v for r in kept if (v := r.values.get("causal_null_shift")) is not None]
        found.append(
            CausalRow(
                domain=name,
                n_clips=len(records),
                n_refused=sum(refused.values()),
                reasons=dict(sorted(refused.items())),
                split_half=median(halves) if halves else None,
                n_unsteady=sum(half < LEAST_SPLIT_HALF for half in halves),
                null_shift=fmean(shifts) if shifts else None,
                n_null_failed=sum(shift >= 0.05 for shift in shifts),
            )
        )
    return tuple(found)
