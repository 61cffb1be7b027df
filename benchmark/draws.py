"""Bootstrap draws of clusters: the same for every column and call, kept where they are few and made block by block where they are many."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DRAWS_PER_BLOCK = 2_000
MOST_KEPT = 10_000 * 2048
"""Draws by clusters that are kept between calls, 80 MB."""


@lru_cache(maxsize=32)
def _draws(clusters: int, n_draws: int, seed: int) -> NDArray[np.float32]:
    """Count how often each cluster is drawn, (n_draws, K); float32 holds the counts exactly."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, clusters]))
    counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=n_draws).astype(np.float32)
    counts.flags.writeable = False
    return counts


def draw_blocks(clusters: int, n_draws: int, seed: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the draws block by block; where all of them would take much memory they are made anew each time, and are the same."""
    if clusters * n_draws <= MOST_KEPT:
        kept = _draws(clusters, n_draws, seed)
        yield from ((start, kept[start : start + DRAWS_PER_BLOCK]) for start in range(0, n_draws, DRAWS_PER_BLOCK))
        return
    rng = np.random.default_rng(np.random.SeedSequence([seed, clusters]))
    rows = max(1, min(DRAWS_PER_BLOCK, MOST_KEPT // (8 * clusters)))
    for start in range(0, n_draws, rows):
        counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=min(rows, n_draws - start))
        yield start, counts.astype(np.float32)
