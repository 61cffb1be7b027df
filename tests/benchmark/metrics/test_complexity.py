"""Complexity: closed forms and the library defects that ours must not share."""

import math

import numpy as np
import pytest

from xaibench.benchmark.metrics.complexity import entropy, gini


def one_of(cells: int) -> np.ndarray:
    heatmap = np.zeros((1, 1, cells), np.float32)
    heatmap[0, 0, 2] = -3
    return heatmap


def test_closed_forms():
    even = np.full((1, 4, 5), -2.0)
    assert gini(even)[0] == pytest.approx(0)
    assert entropy(even)[0] == pytest.approx(math.log(20))
    assert gini(one_of(10))[0] == pytest.approx(0.9)
    assert entropy(one_of(10))[0] == pytest.approx(0)
    exponential = np.random.default_rng(0).exponential(size=(1, 300, 300))
    assert gini(exponential)[0] == pytest.approx(0.5, abs=0.01)


def test_gini_is_the_mean_difference_between_two_cells():
    heatmap = np.random.default_rng(1).normal(size=(1, 6, 7))
    sizes = abs(heatmap).ravel()
    slow = np.abs(sizes[:, None] - sizes).mean() / (2 * sizes.mean())
    assert gini(heatmap)[0] == pytest.approx(slow)


def test_entropy_agrees_with_scipy():
    from scipy.stats import entropy as scipy_entropy

    heatmap = np.random.default_rng(1).normal(size=(3, 6, 7))
    np.testing.assert_allclose(entropy(heatmap), [scipy_entropy(abs(one).ravel()) for one in heatmap])


@pytest.mark.parametrize("metric", [gini, entropy])
def test_neither_scale_nor_neighbours_nor_the_callers_array_matter(metric):
    heatmap = np.random.default_rng(2).normal(size=(3, 6, 7)).astype(np.float32)
    heatmap.flags.writeable = False
    expected = metric(heatmap)
    loud = heatmap * np.array([1, 1e7, 1e-7], np.float32)[:, None, None]
    np.testing.assert_allclose(metric(loud), expected, rtol=1e-5)
    assert metric(heatmap[:1])[0] == expected[0]


@pytest.mark.parametrize("metric", [gini, entropy])
def test_a_zero_map_is_even_and_a_clip_without_cells_undefined(metric):
    zero, valid = np.zeros((2, 3, 4)), np.ones((2, 3, 4), bool)
    valid[1] = False
    scores = metric(zero, valid)
    assert scores[0] == pytest.approx(metric(np.ones((1, 3, 4)))[0])
    assert math.isnan(scores[1])


@pytest.mark.parametrize("metric", [gini, entropy])
def test_bad_input_is_refused(metric):
    with pytest.raises(ValueError, match="heatmap must be finite"):
        metric(np.full((1, 2, 2), np.nan))
    with pytest.raises(ValueError, match=r"heatmap must have the axes \(B, F, N\)"):
        metric(np.ones((2, 2)))
