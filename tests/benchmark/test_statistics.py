"""Statistics: coverage by simulation, agreement with scipy, and rules that hold for any table."""

import math

import numpy as np
import pytest

from xaibench.benchmark.statistics import (
    cluster_bootstrap,
    cluster_bootstraps,
    detectable_difference,
    holm,
    leave_one_out_spread,
    minimum_detectable_difference,
    paired_difference,
    share_interval,
    tiers,
)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def clips_in(clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Label clips of clusters that hold 1 to 6 of them."""
    return np.repeat(np.arange(clusters), rng.integers(1, 7, clusters))


@pytest.mark.parametrize("clusters", [10, 40, 80])
@pytest.mark.parametrize("shape", ["normal", "beta"])
def test_the_interval_covers_the_mean_in_95_of_100_studies(clusters, shape, rng):
    labels = clips_in(clusters, rng)
    size, truth = (clusters, 2000), {"normal": 0.0, "beta": 0.25}[shape]
    shared = rng.normal(size=size) if shape == "normal" else rng.beta(2, 6, size=size)
    values = shared[labels] + 0.5 * shared.std() * rng.normal(size=(len(labels), 2000))
    intervals = cluster_bootstraps(values, labels.tolist(), n_draws=2000)
    coverage = np.mean([i.low <= truth <= i.high for i in intervals])
    assert 0.93 <= coverage <= 0.97
    below, above = (np.mean([side(i) for i in intervals]) for side in (lambda i: truth < i.low, lambda i: truth > i.high))
    assert max(below, above) < 0.04  # misses lie on both sides


def test_a_plain_percentile_interval_would_fail_the_same_simulation(rng):
    means = rng.normal(size=(2000, 10))
    drawn = np.stack([means[:, rng.integers(0, 10, 10)].mean(1) for _ in range(1000)], 1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.93


def test_coarse_scores_keep_finite_intervals_and_coverage(rng):
    hits = (rng.random((10, 1000)) < 0.3).astype(float)  # pointing game on 10 clips
    intervals = cluster_bootstraps(hits, list(range(10)), n_draws=1000)
    assert np.mean([i.low <= 0.3 <= i.high for i in intervals]) > 0.93
    assert np.mean([i.high - i.low for i in intervals]) < 1.2


@pytest.mark.parametrize("clusters", [10, 40, 80])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_the_interval_of_hits_covers_their_share(clusters, share, rng):
    labels = clips_in(clusters, rng)
    chance = rng.beta(6 * share, 6 * (1 - share), size=(clusters, 2000))[labels]  # clips of a cluster resemble one another
    hits = (rng.random(chance.shape) < chance).astype(float)
    intervals = [share_interval(i) for i in cluster_bootstraps(hits, labels.tolist(), n_draws=100)]
    assert 0.93 <= np.mean([i.low <= share <= i.high for i in intervals]) <= 0.97
    assert all(0 <= i.low <= i.mean <= i.high <= 1 for i in intervals)


def test_48_hits_of_48_are_no_certainty():
    alone = share_interval(cluster_bootstrap([1.0] * 48, list(range(48))))
    square = 1.959964**2
    assert (alone.low, alone.high) == pytest.approx((48 / (48 + square), 1.0))
    assert alone.method == "Wilson over clusters"
    crowded = share_interval(cluster_bootstrap([1.0] * 48, [i // 6 for i in range(48)]))
    assert crowded.low < alone.low  # eight witnesses know less than 48
    none = share_interval(cluster_bootstrap([0.0] * 48, list(range(48))), scale=100)
    assert (none.low, none.high) == pytest.approx((0.0, 100 * square / (48 + square)))


def test_the_interval_of_hits_is_wilsons_where_clips_are_independent(rng):
    from scipy.stats import binomtest

    hits = (np.arange(2000) % 10 < 3).astype(float)
    found = share_interval(cluster_bootstrap(hits, list(range(2000)), n_draws=100))
    expected = binomtest(600, 2000).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-4)


def test_clips_are_averaged_within_clusters_and_clusters_weigh_alike():
    interval = cluster_bootstrap([0, 0, 0, 0, 1, 3], ["a", "a", "a", "a", "b", "c"])
    assert interval.mean == pytest.approx(4 / 3)
    assert (interval.n, interval.n_clusters, interval.n_undefined) == (6, 3, 0)
    assert interval.standard_error == pytest.approx(np.std([0, 1, 3], ddof=1) / 3**0.5)
    assert interval.method == "Student's t over clusters"


def test_few_clusters_give_students_interval_and_one_gives_none():
    from scipy.stats import t

    interval = cluster_bootstrap([1.0, 2.0, 6.0], "abc")
    expected = t.interval(0.95, 2, loc=3, scale=np.std([1, 2, 6], ddof=1) / 3**0.5)
    assert (interval.low, interval.high) == pytest.approx(expected)
    alone = cluster_bootstrap([1.0, 2.0], "aa")
    assert alone.mean == 1.5
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
    assert math.isnan(cluster_bootstrap([], []).mean)


def test_undefined_clips_are_counted_and_leave_the_mean():
    interval = cluster_bootstrap([math.nan, 1.0, math.nan, 2.0], ["a", "a", "b", "c"])
    assert interval.mean == 1.5
    assert (interval.n, interval.n_clusters, interval.n_undefined) == (2, 2, 2)


def test_columns_do_not_influence_each_other(rng):
    labels = clips_in(12, rng).tolist()
    values = rng.normal(size=(len(labels), 5))
    values[rng.random(values.shape) < 0.2] = math.nan
    values[[i for i, label in enumerate(labels) if label == 3], 1] = math.nan  # a whole cluster
    values[:, 4] = math.nan
    together = cluster_bootstraps(values, labels)
    assert together[4].n_clusters == 0
    assert together[1].n_clusters < 12
    for i, column in enumerate(values.T):
        alone = cluster_bootstrap(column, labels)
        assert (alone.n, alone.n_clusters, alone.n_undefined) == (together[i].n, together[i].n_clusters, together[i].n_undefined)
        np.testing.assert_allclose([alone.low, alone.mean, alone.high], [together[i].low, together[i].mean, together[i].high])


def test_equal_seeds_give_equal_bits_and_labels_and_order_do_not_matter(rng):
    values, labels = rng.normal(size=30), (np.arange(30) // 3).tolist()
    first = cluster_bootstrap(values, labels)
    assert cluster_bootstrap(values, labels) == first
    assert cluster_bootstrap(values, labels, seed=1) != first
    shuffled = rng.permutation(30)
    again = cluster_bootstrap(values[shuffled], [labels[i] for i in shuffled])
    assert (again.low, again.high) == pytest.approx((first.low, first.high))


@pytest.mark.parametrize("value", [0.0, 0.3, 1e9])
def test_equal_clusters_give_an_interval_without_width(value):
    interval = cluster_bootstrap([value] * 20, list(range(20)))
    assert interval.low == interval.mean == interval.high == pytest.approx(value)


def test_scaling_and_shifting_scores_scales_and_shifts_the_interval(rng):
    values, labels = rng.normal(size=40), (np.arange(40) // 2).tolist()
    plain, moved = cluster_bootstrap(values, labels), cluster_bootstrap(1e-6 * values + 5, labels)
    assert (moved.low, moved.high) == pytest.approx((1e-6 * plain.low + 5, 1e-6 * plain.high + 5), abs=1e-12)


def test_paired_p_is_that_of_scipy_on_cluster_means(rng):
    from scipy.stats import ttest_rel

    labels = (np.arange(60) // 3).tolist()
    a = rng.normal(size=60)
    b = a + 0.2 + 0.3 * rng.normal(size=60)
    found = paired_difference(a, b, labels)
    means = [x.reshape(20, 3).mean(1) for x in (a, b)]
    assert found.p == pytest.approx(ttest_rel(*means).pvalue)
    assert found.low < found.mean < found.high < 0
    assert paired_difference(b, a, labels).mean == pytest.approx(-found.mean)


def test_pairing_removes_what_clips_share(rng):
    difficulty = 10 * rng.normal(size=40)
    a, b = difficulty + 0.1 * rng.normal(size=40), difficulty + 0.3
    assert paired_difference(a, b, list(range(40))).p < 1e-6


def test_identical_rows_differ_by_nothing_and_constant_differences_for_sure():
    values = np.linspace(0, 1, 10)
    assert paired_difference(values, values, list(range(10))).p == 1
    assert paired_difference(values + 1, values, list(range(10))).p == 0


def test_false_alarms_of_paired_comparisons_keep_their_rate(rng):
    p = [paired_difference(*rng.normal(size=(2, 24)), (np.arange(24) // 2).tolist(), n_draws=100).p for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.085


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, math.nan, 0.005]), [0.03, 0.06, 0.06, math.nan, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert len(holm([])) == 0


def separated_rows(rng):
    clips = rng.normal(size=40)
    means = {"a": 3.0, "b": 2.95, "c": 1.0, "d": 0.98, "e": -1.0}
    return {name: mean + clips + 0.3 * rng.normal(size=40) for name, mean in means.items()}


def test_tiers_group_what_cannot_be_told_apart_and_ignore_the_order_of_rows(rng):
    rows = separated_rows(rng)
    expected = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3}
    assert tiers(rows, list(range(40))) == expected
    assert tiers(dict(reversed(rows.items())), list(range(40))) == expected
    lower = tiers({name: -values for name, values in rows.items()}, list(range(40)), higher_is_better=False)
    assert lower == expected


def test_no_two_rows_of_a_tier_are_told_apart(rng):
    labels = (np.arange(60) // 2).tolist()
    rows = {f"row{i}": 0.15 * i + (0.1 + 0.1 * (i % 3)) * rng.normal(size=60) for i in range(8)}
    found = tiers(rows, labels)
    names = sorted(rows)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    adjusted = holm([paired_difference(rows[a], rows[b], labels, n_draws=100).p for a, b in pairs])
    for (a, b), p in zip(pairs, adjusted, strict=True):
        assert p >= 0.05 or found[a] != found[b]
    assert len(set(found.values())) > 1


def test_a_row_without_scores_has_no_tier():
    values = np.linspace(0, 1, 10)
    assert tiers({"a": values, "b": np.full(10, math.nan)}, list(range(10))) == {"a": 1, "b": None}
    assert tiers({}, []) == {}


def test_minimum_detectable_difference_is_found_with_the_promised_power(rng):
    found = paired_difference(rng.normal(size=30), np.zeros(30), list(range(30)))
    smallest = minimum_detectable_difference(found)
    assert math.isnan(detectable_difference([1.0, 2.0], "aa"))
    spread = found.standard_error * 30**0.5
    p = [paired_difference(smallest + spread * rng.normal(size=30), np.zeros(30), list(range(30)), n_draws=100).p for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.8, abs=0.06)


def test_leaving_one_vocoder_out_shows_which_one_decides():
    spread = leave_one_out_spread([1, 1, 9, 1], list("abcd"), ["x", "y", "z", "y"])
    assert spread == {"x": 11 / 3, "y": 5, "z": 1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cluster_bootstrap([1, 2], ["a"]), r"clusters must hold one label per value \(2\), got 1"),
        (lambda: cluster_bootstrap([1, math.inf], "ab"), "values must be finite or NaN, got infinity"),
        (lambda: cluster_bootstrap([1, 2], "ab", level=95), "level must be between 0 and 1, got 95"),
        (lambda: cluster_bootstrap([1, 2], "ab", n_draws=1), "n_draws must be at least 100, got 1"),
        (lambda: paired_difference([1, 2], [1], "ab"), r"b must have a's shape \(2,\), got \(1,\)"),
        (lambda: holm([0.5, 1.5]), r"p must be in \[0, 1\], got 0.5 to 1.5"),
        (lambda: leave_one_out_spread([1], "a", "bc"), "groups must hold one label per value"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_draws_that_are_too_many_to_keep_are_the_same(monkeypatch):
    from xaibench.benchmark import draws, statistics

    values = np.random.default_rng(0).normal(size=(60, 3))
    values[3, 1] = np.nan
    kept = statistics.cluster_bootstraps(values, list(range(60)), n_draws=500)
    monkeypatch.setattr(draws, "MOST_KEPT", 8 * 60 * 7)  # seven draws at a time
    monkeypatch.setattr(draws, "_draws", None)
    made = statistics.cluster_bootstraps(values, list(range(60)), n_draws=500)
    for a, b in zip(kept, made, strict=True):
        assert (a.low, a.high) == pytest.approx((b.low, b.high), rel=1e-9)


def test_cluster_means_of_many_clusters_need_no_matrix_of_clusters_by_clips():
    import tracemalloc

    from xaibench.benchmark.statistics import cluster_means

    tracemalloc.start()
    means, counts = cluster_means(np.ones((20_000, 2)), [f"u{i}" for i in range(20_000)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert means.shape == (20_000, 2)
    assert counts.sum(0).tolist() == [20_000, 20_000]
    assert peak < 20e6
