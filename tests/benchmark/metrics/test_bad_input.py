"""Whatever is handed to a metric, it gives a score in its range, NaN where the docstring says so, or one sentence: never a wrong number."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.benchmark.metrics import causal, confidence, localization, sanity
from xaibench.benchmark.metrics.complexity import entropy, gini
from xaibench.benchmark.metrics.info import info
from xaibench.benchmark.metrics.probe import Probe
from xaibench.benchmark.statistics import cluster_bootstrap, share_interval
from xaibench.tasks.spectrogram import STFTConfig
from xaibench.types import Detector

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e-45, 3e38, -3e38])
GRID = STFTConfig(16, 4)
SAMPLES = 40
SHAPE = (GRID.bins, GRID.frames(SAMPLES))
DOORS = {
    "gini": gini,
    "entropy": entropy,
    "dice": lambda maps: localization.dice(maps, np.ones(np.shape(maps), bool)),
    "marginal": lambda maps: localization.marginal(maps, "time"),
    "false_alarm_area": localization.false_alarm_area,
    "tile_relevance": lambda maps: causal.tile_relevance(maps, np.zeros((3, 4), int)),
    "similarity": sanity.cross_vocoder_similarity,
    "repeatability": sanity.repeatability,
}


class Mean(Detector):
    """Log-odds from the level."""

    name = "mean"

    def forward(self, waveform):
        return 5 * waveform.abs().mean(-1) - 1


@st.composite
def grids(draw, shape=None):
    shape = shape or draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    return np.array(draw(st.lists(VALUES, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])), np.float32).reshape(shape)


def broken(kind):
    """Two maps of 3 x 4 cells that no metric may accept."""
    maps = np.ones((2, 3, 4))
    if kind in ("nan", "inf"):
        maps[1, 2, 3] = float(kind)
    changed = {"complex": maps.astype(complex), "text": maps.astype(str), "flat": maps.reshape(2, 12), "list": maps.tolist()}
    return changed.get(kind, maps)


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("kind", ["nan", "inf", "complex", "text", "flat", "list"])
def test_every_door_refuses_what_is_no_heatmap_in_one_sentence(name, kind):
    with pytest.raises((TypeError, ValueError), match=r"must .*, got .*; ") as caught:
        DOORS[name](broken(kind))
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(grids(), st.booleans())
def test_complexity_stays_in_range_and_leaves_its_input_alone(one, as_tensor):
    maps = one[None].copy()
    for metric, record in ((gini, info("gini")), (entropy, info("entropy"))):
        given_ = torch.from_numpy(maps.copy()) if as_tensor else maps.copy()
        value = float(metric(given_)[0])
        assert record.low - 1e-9 <= value <= min(record.high, math.log(one.size) + 1 if record.name == "entropy" else 1) + 1e-9
        assert np.array_equal(np.asarray(given_), maps)
        assert math.isnan(float(metric(maps, np.zeros(maps.shape, bool))[0]))


@settings(max_examples=30, deadline=None)
@given(grids(SHAPE), st.lists(st.booleans(), min_size=SHAPE[0] * SHAPE[1], max_size=SHAPE[0] * SHAPE[1]))
def test_curves_are_finite_whatever_the_map_and_the_valid_cells(heatmap, valid):
    waveform = torch.sin(torch.arange(SAMPLES) / 3.0)
    probe = Probe(waveform, Mean().eval(), valid=np.array(valid).reshape(SHAPE), stft=GRID)
    curves = probe.curves(heatmap, steps=3, budgets=(0.5,), soft=True)
    for curve in (curves.deletion, curves.insertion, curves.random_deletion, curves.masked_in, np.array(curves.soft)):
        assert np.isfinite(curve).all()
    if not any(valid):
        assert np.allclose(curves.deletion, curves.original)  # nothing may be taken away


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_confidence_stays_in_the_range_of_its_record(original, kept, removed):
    found = confidence.confidence(*(torch.tensor([x], dtype=torch.float64) for x in (original, kept, removed)))
    for name, value in found.items():
        assert info(name).low <= float(value) <= info(name).high, name


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=8, max_size=8), st.lists(st.floats(-9, 9), min_size=8, max_size=8))
def test_scores_of_tiles_stay_in_range(relevance, values):
    own, truth = np.array([relevance], np.float32), np.array([values])
    rank, precision = float(causal.spearman(own, truth)[0]), float(causal.average_precision(own, truth)[0])
    assert math.isnan(rank) == (len(set(values)) == 1)
    assert math.isnan(rank) or abs(rank) <= 1 + 1e-9
    assert math.isnan(precision) == (max(values) <= 0)
    assert math.isnan(precision) or 0 < precision <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=1, max_size=12), st.integers(1, 5))
def test_intervals_of_hits_hold_their_mean_inside_zero_and_one(hits, per_cluster):
    interval = share_interval(cluster_bootstrap(hits, [i // per_cluster for i in range(len(hits))], n_draws=100))
    assert interval.n + interval.n_undefined == len(hits)
    if interval.n_clusters >= 2:
        assert 0 <= interval.low <= interval.mean <= interval.high <= 1
        assert interval.high > interval.low
    else:
        assert math.isnan(interval.low)
