"""Shapley values of a game: what each player adds, averaged over all orders in which players can join (Shapley 1953).

A game gives every coalition a number. Sampled by antithetic pairs, an order and its reverse (Mitchell et al. 2022, arXiv:2104.12199,
section 3), which cancels the sampling error of all interactions of two players. Every order hands out the whole gap, so the values
always sum to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Game = Callable[[Tensor], Tensor]
"""Takes coalitions (C, P) bool and returns their values (C,) float64."""

LARGEST_EXACT = 16
HALVINGS = 64
"""Random ways of cutting the permutation pairs in half over which the split-half correlation is averaged."""


@dataclass(frozen=True)
class Estimate:
    """Shapley values with their sampling error."""

    values: Tensor
    """(P,) float64, summing to the value of all players minus that of none."""
    standard_error: Tensor
    """(P,) float64, over the antithetic pairs; NaN for a single pair."""
    split_half: float
    """Spearman correlation between the values of two halves of the pairs, mean over halvings; NaN where it is not defined."""
    by_size: Tensor
    """(P + 1,) mean value of the coalitions that random orders form, by their size."""
    coalition_values: Tensor
    """(C,) values of the distinct coalitions asked, but for none and all."""


def sample(game: Game, players: int, *, pairs: int, seed: int, ends: tuple[float, float]) -> Estimate:
    """Estimate Shapley values from ``2 * pairs`` random orders, each followed by its reverse.

    Args:
        game: Asked once, for all distinct coalitions but the two ends.
        players: Number of players P.
        pairs: Antithetic pairs of orders.
        seed: Of the orders; nothing else is random.
        ends: Value of nobody and of everybody.

    Raises:
        ValueError: If there is no player or no pair.
    """
    if players < 1 or pairs < 1:
        raise ValueError(f"players and pairs must be at least 1, got {players} and {pairs}; use for example 32 and 16")
    orders = antithetic_orders(players, pairs, seed)  # (2R, P)
    coalitions, places = _prefixes(orders)
    found = game(coalitions).double().cpu() if len(coalitions) else torch.empty(0, dtype=torch.float64)
    steps = torch.full((2 * pairs, players + 1), ends[0], dtype=torch.float64)
    steps[:, -1] = ends[1]
    steps[:, 1:-1] = found[places]
    gains = torch.empty(2 * pairs, players, dtype=torch.float64).scatter_(1, orders, steps.diff(dim=1))
    by_pair = (gains[0::2] + gains[1::2]) / 2  # (R, P)
    error = by_pair.std(0) / math.sqrt(pairs) if pairs > 1 else torch.full((players,), math.nan, dtype=torch.float64)
    return Estimate(by_pair.mean(0), error, split_half(by_pair, seed), steps.mean(0), found)


def antithetic_orders(players: int, pairs: int, seed: int) -> Tensor:
    """Draw ``pairs`` random orders, each followed by its reverse, (2 * pairs, P) int64."""
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(players, generator=generator) for _ in range(pairs)])
    return torch.stack([orders, orders.flip(1)], 1).reshape(2 * pairs, players)


def _prefixes(orders: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct coalitions (C, P) that the orders form on their way, and the number of each, (2R, P - 1)."""
    rows, players = orders.shape
    joined = torch.zeros(rows, players, players, dtype=torch.bool)
    joined.scatter_(2, orders[:, :, None], True)
    grown = joined.cumsum(1)[:, :-1].bool().reshape(-1, players)  # (2R (P - 1), P)
    coalitions, numbers = torch.unique(grown, dim=0, return_inverse=True)
    return coalitions, numbers.reshape(rows, players - 1)


def exact(game: Game, players: int) -> Tensor:
    """Compute Shapley values from all ``2 ** P`` coalitions, (P,) float64.

    Raises:
        ValueError: If there are more than 16 players, or none.
    """
    if not 1 <= players <= LARGEST_EXACT:
        raise ValueError(f"players must be in 1..{LARGEST_EXACT}, got {players}; sample larger games")
    numbers = torch.arange(2**players)
    inside = (numbers[:, None] >> torch.arange(players) & 1).bool()  # (2 ** P, P)
    values = game(inside).double().cpu()
    size = inside.sum(1)
    weights = torch.tensor([1 / (players * math.comb(players - 1, s)) for s in range(players)], dtype=torch.float64)
    shares = []
    for player in range(players):
        without = numbers[~inside[:, player]]
        shares.append((weights[size[without]] * (values[without + (1 << player)] - values[without])).sum())
    return torch.stack(shares)


def split_half(by_pair: Tensor, seed: int = 0) -> float:
    """Correlate the ranking of players between random halves of the pairs, (R, P) in; mean Spearman over 64 halvings, NaN if undefined.

    The values reported rest on all pairs, twice as many as either half, and agree better than this.
    """
    pairs = len(by_pair)
    if pairs < 2:
        return math.nan
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(HALVINGS):
        order = torch.randperm(pairs, generator=generator)
        found.append(spearman(by_pair[order[: pairs // 2]].mean(0), by_pair[order[pairs // 2 :]].mean(0)))
    return sum(found) / HALVINGS


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two rows (P,), ties with average ranks; NaN where either is constant."""
    a, b = (_centered_ranks(row) for row in (one, other))
    spread = float(a @ a) * float(b @ b)
    return float(a @ b) / math.sqrt(spread) if spread > 0 else math.nan


def _centered_ranks(values: Tensor) -> Tensor:
    return torch.sign(values[:, None] - values[None, :]).double().sum(1)
