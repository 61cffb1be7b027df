"""Does an explainer know what the detector uses? Heatmaps against the causal truth (``tasks/causal.py``), tile by tile.

A heatmap's tile is worth the mean of its valid cells, as given: explanations that add up to the log-odds add up inside a tile too, so
evidence for and against *spoof* cancels there as it does in the truth. The mean, and not the sum, since tiles differ by a few cells and a
map that says nothing must not be ranked by them. ``apply_polarity`` comes first, for the board's second column.

Undefined
    NaN where the clip is refused, and ``undefined_reason`` repeats why. An explanation that is the same in all tiles gets chance.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xaibench.benchmark.metrics.info import MetricInfo
from xaibench.benchmark.metrics.inputs import Maps, as_numpy, check_heatmap, check_shape, like
from xaibench.benchmark.metrics.ranking import average_precision_at, places_of, rank
from xaibench.tasks.causal import CausalTruth
from xaibench.tasks.masks import top_cells
from xaibench.tasks.swap import SwapGame

Floats = NDArray[np.float64]
OURS = "xaibench, docs/causal.md"
INFOS = (
    MetricInfo("causal_spearman", "Rank correlation with the causal truth", True, -1, 1, "0", OURS, "causal", cost="one sort"),
    MetricInfo(
        "causal_average_precision", "Average precision of the causal tiles", True, 0, 1, ".32 of 32 tiles, .37 of 16", OURS, "causal"
    ),
    MetricInfo(
        "causal_gap_closed",
        "Gap closed by the best tiles",
        True,
        -math.inf,
        math.inf,
        "causal_gap_closed_random",
        OURS,
        "causal",
        cost="one forward",
    ),
    MetricInfo(
        "causal_gap_closed_normalized",
        "Gap closed, from random to the reference's own",
        True,
        -math.inf,
        math.inf,
        "0",
        OURS,
        "causal",
        cost="one forward",
    ),
    MetricInfo(
        "causal_gap_closed_random", "Gap closed by random tiles", True, -math.inf, math.inf, "itself", OURS, "diagnostic", cost="none"
    ),
    MetricInfo(
        "causal_gap_closed_reference",
        "Gap closed by the truth's best tiles",
        True,
        -math.inf,
        math.inf,
        "causal_gap_closed_random",
        OURS,
        "diagnostic",
        cost="none",
    ),
)
"""Records of what ``score`` returns."""
LEAST_SPAN = 0.1
"""Share of the gap between random tiles and the truth's own best below which a share of it means nothing."""
NEED_GAME = frozenset({"causal_gap_closed", "causal_gap_closed_normalized"})


def tile_relevance(heatmap: Maps, cells: Any) -> Maps:
    """Average a heatmap over the cells of each tile.

    Args:
        heatmap: (B, F, N), real, finite.
        cells: Number of each cell's tile, (F, N) integers from 0; -1 where a cell counts nowhere (``TileGrid.cells``).

    Returns:
        (B, tiles) float64 of the heatmap's kind.

    Raises:
        TypeError: If cells are not integers.
        ValueError: If shapes differ, the heatmap is not finite, or a tile has no cell.
    """
    maps = check_heatmap(heatmap)
    numbers = as_numpy(cells, "cells")
    if numbers.dtype.kind != "i":
        raise TypeError(f"cells must be signed integers, got {numbers.dtype}; use TileGrid.cells")
    check_shape(numbers, maps.shape[1:], "cells")
    inside = numbers >= 0
    tiles = numbers[inside]
    counts = np.bincount(tiles)
    if not len(counts) or not counts.all():
        raise ValueError(
            f"cells must give every tile a cell, got {int((counts == 0).sum())} tiles without; use longer clips or fewer tiles"
        )
    sums = [np.bincount(tiles, weights=one[inside].astype(np.float64), minlength=len(counts)) for one in maps]
    return like(np.reshape(sums, (len(maps), len(counts))) / counts, heatmap)


def spearman(relevance: Maps, values: Maps) -> Maps:
    """Rank correlation of tile relevance with the Shapley values, (B, tiles) each, ties averaged; (B,) in [-1, 1], chance 0.

    A constant relevance scores 0, constant values leave it undefined (NaN).
    """
    own, truth = _rows(relevance, values)
    return like(np.array([_spearman(a, b) for a, b in zip(own, truth, strict=True)], np.float64), relevance)


def average_precision(relevance: Maps, values: Maps) -> Maps:
    """Average precision of the quarter of tiles with the largest Shapley values, (B, tiles) each; (B,) in (0, 1].

    Chance is ``chance_precision``, .324 of 32 tiles and .369 of 16; a constant gets its share, .25.

    Where fewer tiles than a quarter speak for *spoof*, only those are to be found. Tied relevance enters in one step, as in the
    localisation metric of that name; values that are NaN, or none of them positive, leave it undefined.
    """
    own, truth = _rows(relevance, values)
    scores = [_average_precision(a, b) for a, b in zip(own, truth, strict=True)]
    return like(np.array(scores, np.float64), relevance)


def chance_precision(tiles: int, wanted: int) -> float:
    """Return the expected average precision of a random order: ``(R-1)/(P-1) + H_P/P (P-R)/(P-1)`` for R wanted of P tiles.

    >>> round(chance_precision(32, 8), 3)
    0.324
    """
    harmonic = sum(1 / k for k in range(1, tiles + 1))
    return (wanted - 1) / (tiles - 1) + harmonic / tiles * (tiles - wanted) / (tiles - 1)


def gap_closed(relevance: Any, truth: CausalTruth, game: SwapGame, count: int | None = None) -> float:
    """Share of the twins' gap that exchanging the ``count`` most relevant tiles for the real recording's closes.

    Args:
        relevance: (tiles,), finite.
        truth: Of the same clip and detector.
        game: ``SwapGame.of_twins`` of the same clip, detector and grid; asked for one forward.
        count: Number of tiles, a quarter by default.

    Returns:
        1 where the clip then scores as its twin, 0 where nothing changes, beyond both where the detector overshoots; what random tiles
        close for a constant relevance, NaN for a refused clip. Ties are cut in a fixed shuffled order.

    Raises:
        ValueError: If the count or the number of tiles does not fit.
    """
    row = check_heatmap(relevance, "relevance", ndim=1)
    count = quarter(row.size) if count is None else count
    if row.size != truth.values.numel() or not 1 <= count <= row.size:
        raise ValueError(f"relevance and count must fit {truth.values.numel()} tiles, got {row.size} and {count}; use the truth's grid")
    if truth.refused:
        return math.nan
    ranking = rank(row.astype(np.float64))
    if len(ranking.starts) == 1:
        return float(truth.closed_at_random[count])
    kept = torch.ones(1, row.size, dtype=torch.bool)
    kept[0, torch.from_numpy(ranking.order[:count].copy())] = False
    return (truth.spoof_log_odds - float(game(kept))) / truth.gap


def quarter(tiles: int) -> int:
    """Number of tiles in the top quarter, at least one."""
    return max(1, tiles // 4)


def score(heatmap: Any, truth: CausalTruth, cells: Any, game: SwapGame | None = None) -> dict[str, float]:
    """Score one clip against its causal truth.

    Args:
        heatmap: (F, N), real, finite, larger for *spoof*.
        truth: Of the same clip and detector.
        cells: Tile numbers, (F, N), from ``TileGrid.cells``.
        game: ``SwapGame.of_twins``, for the share of the gap closed by the best quarter of tiles; without it that share is left out.

    Returns:
        Score by name (see ``INFOS``); all NaN where the clip is refused.

    Raises:
        TypeError: If cells are not integers.
        ValueError: If shapes differ or the heatmap is not finite.
    """
    one = check_heatmap(heatmap, ndim=2)
    relevance = tile_relevance(one[None].astype(np.float64), cells)
    if truth.refused:
        return {record.name: math.nan for record in INFOS if game is not None or record.name not in NEED_GAME}
    values = truth.values.reshape(1, -1).numpy()
    top = quarter(values.size)
    lowest, highest = float(truth.closed_at_random[top]), float(truth.closed_by_values[top])
    scores = {
        "causal_spearman": float(spearman(relevance, values)[0]),
        "causal_average_precision": float(average_precision(relevance, values)[0]),
        "causal_gap_closed_random": lowest,
        "causal_gap_closed_reference": highest,
    }
    if game is not None:
        closed = gap_closed(relevance[0], truth, game, top)
        scores["causal_gap_closed"] = closed
        scores["causal_gap_closed_normalized"] = (closed - lowest) / (highest - lowest) if highest - lowest >= LEAST_SPAN else math.nan
    return scores


def undefined_reason(metric: str, truth: CausalTruth) -> str:
    """Say why a score of ``score`` is NaN; empty where it is defined."""
    if truth.refused:
        return truth.reason
    top = quarter(truth.values.numel())
    if metric == "causal_spearman" and bool((truth.values == truth.values.reshape(-1)[0]).all()):
        return "all tiles have the same value, so there is no order to agree with"
    if metric == "causal_gap_closed_normalized" and not truth.closed_by_values[top] - truth.closed_at_random[top] >= LEAST_SPAN:
        return "the truth's best tiles close no more of the gap than random ones, by a tenth at least, so there is nothing to measure in"
    return ""


def _rows(relevance: Any, values: Any) -> tuple[Floats, Floats]:
    own = check_heatmap(relevance, "relevance", ndim=2).astype(np.float64)
    truth = as_numpy(values, "values").astype(np.float64)
    if truth.shape != own.shape:
        raise ValueError(f"values must have relevance's shape {own.shape}, got {truth.shape}; flatten bands and segments")
    return own, truth


def _spearman(own: Floats, truth: Floats) -> float:
    if not np.isfinite(truth).all():
        return math.nan
    a, b = _centered_ranks(own), _centered_ranks(truth)
    if not b.any():
        return math.nan
    return float(a @ b / math.sqrt((a @ a) * (b @ b))) if a.any() else 0.0


def _centered_ranks(row: Floats) -> Floats:
    ranking = rank(row)
    places = np.empty(len(row))
    places[ranking.order] = (len(row) - 1) / 2 - ranking.average_places()
    return places


def _average_precision(own: Floats, truth: Floats) -> float:
    if not np.isfinite(truth).all():
        return math.nan
    best, _ = top_cells(torch.from_numpy(truth)[None, :, None], quarter(len(truth)))
    ranking = rank(own)
    return average_precision_at(ranking, places_of(ranking, best[0, :, 0].numpy() & (truth > 0)))
