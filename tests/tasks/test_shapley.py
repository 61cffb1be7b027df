"""Shapley values: closed forms, all permutations by hand, and errors that are as large as they say."""

import itertools
import math

import pytest
import scipy.stats
import torch

from xaibench.tasks.shapley import antithetic_orders, exact, sample, spearman, split_half

WEIGHTS = torch.tensor([3.0, -1.0, 0.5, 0.0, 2.0, 0.5], dtype=torch.float64)
PLAYERS = len(WEIGHTS)


def additive(coalitions):
    return coalitions.double() @ WEIGHTS


def square(coalitions):
    return additive(coalitions) ** 2


def tangled(coalitions):
    """Interactions of all orders; players 2 and 5 are alike, player 3 does nothing."""
    return 4 * torch.tanh(additive(coalitions)) + torch.sin(3 * additive(coalitions)) * coalitions[:, 0]


def estimate(game, pairs=16, seed=0):
    everyone = torch.tensor([[False] * PLAYERS, [True] * PLAYERS])
    ends = tuple(game(everyone).tolist())
    return sample(game, PLAYERS, pairs=pairs, seed=seed, ends=ends)


def by_all_permutations(game):
    total = [0.0] * PLAYERS
    for order in itertools.permutations(range(PLAYERS)):
        inside = torch.zeros(1, PLAYERS, dtype=torch.bool)
        before = game(inside).item()
        for player in order:
            inside[0, player] = True
            after = game(inside).item()
            total[player] += after - before
            before = after
    return torch.tensor(total, dtype=torch.float64) / math.factorial(PLAYERS)


def test_an_additive_game_gives_each_player_its_own_from_one_pair_of_orders():
    found = estimate(additive, pairs=2)
    torch.testing.assert_close(found.values, WEIGHTS, rtol=0, atol=1e-12)
    assert float(found.standard_error.max()) < 1e-12
    assert found.split_half == pytest.approx(1)


def test_reversed_orders_cancel_the_error_of_pairwise_interactions():
    torch.testing.assert_close(estimate(square, pairs=1).values, WEIGHTS * WEIGHTS.sum(), rtol=0, atol=1e-12)


def test_the_glove_game_has_its_textbook_values():
    """One left glove, two right ones; a pair is worth 1."""

    def gloves(coalitions):
        return (coalitions[:, 0] & coalitions[:, 1:].any(1)).double()

    torch.testing.assert_close(exact(gloves, 3), torch.tensor([4, 1, 1], dtype=torch.float64) / 6)


def test_exact_values_are_those_of_all_permutations():
    values = exact(tangled, PLAYERS)
    torch.testing.assert_close(values, by_all_permutations(tangled), rtol=0, atol=1e-10)
    assert values[3] == 0
    assert float(values[2]) == pytest.approx(float(values[5]), abs=1e-12)


def test_sampled_values_are_right_and_their_standard_errors_too():
    truth = exact(tangled, PLAYERS)
    scores = []
    for seed in range(40):
        found = estimate(tangled, seed=seed)
        assert float(found.values.sum()) == pytest.approx(float(tangled(torch.ones(1, PLAYERS).bool())), abs=1e-9)
        assert found.values[3] == 0
        moved = found.standard_error > 1e-9
        scores.append(((found.values - truth) / found.standard_error)[moved])
    deviations = torch.cat(scores)
    assert abs(float(deviations.mean())) < 0.2
    assert 0.7 < float(deviations.square().mean()) < 1.6


def test_more_pairs_come_closer():
    truth = exact(tangled, PLAYERS)
    few, many = (torch.stack([estimate(tangled, pairs, seed).values - truth for seed in range(12)]).square().mean() for pairs in (2, 32))
    assert many < few / 8


def test_orders_come_in_reversed_pairs_and_depend_on_the_seed_alone():
    orders = antithetic_orders(7, 5, seed=3)
    assert torch.equal(orders[0::2], orders[1::2].flip(1))
    assert all(sorted(row) == list(range(7)) for row in orders.tolist())
    assert torch.equal(orders, antithetic_orders(7, 5, seed=3))
    assert not torch.equal(orders, antithetic_orders(7, 5, seed=4))


def test_no_coalition_is_asked_twice_and_the_ends_not_at_all():
    asked = []

    def counting(coalitions):
        asked.extend(tuple(row) for row in coalitions.tolist())
        return tangled(coalitions)

    found = sample(counting, PLAYERS, pairs=16, seed=0, ends=(0.0, 1.0))
    assert len(asked) == len(set(asked)) == len(found.coalition_values)
    assert not {tuple([False] * PLAYERS), tuple([True] * PLAYERS)} & set(asked)
    assert (float(found.by_size[0]), float(found.by_size[-1])) == (0.0, 1.0)


def test_a_lone_player_takes_the_gap():
    found = sample(lambda coalitions: pytest.fail("nothing to ask"), 1, pairs=2, seed=0, ends=(1.0, 4.0))
    assert found.values.tolist() == [3.0]
    assert math.isnan(found.split_half)


def test_one_pair_has_no_error_and_no_halves():
    found = estimate(tangled, pairs=1)
    assert bool(found.standard_error.isnan().all())
    assert math.isnan(found.split_half)


def test_split_half_tells_signal_from_noise():
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(16, 32, generator=g, dtype=torch.float64)
    assert abs(split_half(noise)) < 0.35
    assert split_half(noise + 20 * torch.arange(32)) > 0.99


def test_rank_correlation_is_scipys():
    g = torch.Generator().manual_seed(1)
    one, other = (torch.randint(0, 5, (40,), generator=g).double() for _ in range(2))
    assert spearman(one, other) == pytest.approx(scipy.stats.spearmanr(one.numpy(), other.numpy()).statistic, abs=1e-12)
    assert math.isnan(spearman(one, torch.zeros(40)))


def test_impossible_games_are_refused():
    with pytest.raises(ValueError, match=r"players must be in 1\.\.16, got 17"):
        exact(additive, 17)
    with pytest.raises(ValueError, match="pairs must be at least 1, got 6 and 0"):
        estimate(additive, pairs=0)
