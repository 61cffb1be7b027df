"""Scores against the causal truth: other libraries as oracles, hand-made tiles, and a planted patch that a good map must name."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from xaibench.benchmark.metrics import causal
from xaibench.tasks.causal import CausalConfig, CausalTruth, measure
from xaibench.tasks.spectrogram import STFTConfig, stft
from xaibench.tasks.swap import SwapGame
from xaibench.tasks.tiles import TileGrid
from xaibench.types import Clip, Detector, Pair

SAMPLES = 2048
STFT = STFTConfig(64, 16)
GRID = TileGrid(8, 4, stft=STFT)
CELLS = GRID.cells(SAMPLES)


class Patch(Detector):
    """Log-odds from the energy of one patch."""

    name = "patch"

    def forward(self, waveform):
        return 3 * torch.log10(stft(waveform, STFT)[:, 9:16, 40:60].abs().square().mean((1, 2)) + 1e-6)


@pytest.fixture(scope="module")
def clip():
    time = torch.arange(SAMPLES)
    tones = sum(torch.sin(2 * torch.pi * bin_ * time / 64 + bin_) for bin_ in range(10, 15))
    gate = ((time >= 640) & (time < 960)).float()
    background = 0.01 * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(7))
    return Clip(Pair("p", "u", "s", "v", "b", "s"), background, background + 0.1 * gate * tones, SAMPLES)


@pytest.fixture(scope="module")
def detector():
    return Patch().eval()


@pytest.fixture(scope="module")
def truth(clip, detector):
    return measure(clip, detector, CausalConfig(GRID))


@pytest.fixture
def game(clip, detector):
    return SwapGame.of_twins(clip, detector, GRID)


def refused(truth, reason="no gap"):
    nothing = torch.full((8, 4), math.nan, dtype=torch.float64)
    curve = torch.full((33,), math.nan, dtype=torch.float64)
    return CausalTruth(nothing, nothing, math.nan, 1.0, 0.0, math.nan, nothing, curve, curve, 2, reason)


def patch_map():
    heatmap = torch.zeros(STFT.bins, STFT.frames(SAMPLES))
    heatmap[9:16, 40:60] = 1
    return heatmap


def test_a_tile_is_worth_the_mean_of_its_valid_cells():
    heatmap = torch.tensor([[[1.0, 2, 3, 4], [5, -6, 7, 100]]])
    cells = torch.tensor([[0, 0, 1, -1], [2, 2, 3, -1]])
    assert causal.tile_relevance(heatmap, cells).tolist() == [[1.5, 3.0, -0.5, 7.0]]
    assert isinstance(causal.tile_relevance(heatmap.numpy(), cells.numpy()), np.ndarray)


def test_a_constant_map_stays_constant_though_tiles_differ_in_size():
    relevance = causal.tile_relevance(torch.full((2, 33, 129), 0.1), CELLS)
    assert relevance.shape == (2, 32)
    assert len(relevance.unique()) == 1


def test_tile_relevance_is_linear_and_leaves_its_input_alone():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 33, 129, generator=g, dtype=torch.float64) for _ in range(2))
    kept = a.clone()
    mixed = causal.tile_relevance(3 * a - b, CELLS)
    torch.testing.assert_close(mixed, 3 * causal.tile_relevance(a, CELLS) - causal.tile_relevance(b, CELLS))
    assert torch.equal(a, kept)


def test_rank_scores_agree_with_other_libraries():
    g = np.random.default_rng(0)
    relevance, values = g.integers(0, 9, (5, 32)).astype(float), g.normal(size=(5, 32))
    for i, (own, truth) in enumerate(zip(relevance, values, strict=True)):
        assert causal.spearman(relevance, values)[i] == pytest.approx(spearmanr(own, truth).statistic, abs=1e-12)
        top = truth >= np.sort(truth)[-8]
        assert causal.average_precision(relevance, values)[i] == pytest.approx(average_precision_score(top, own), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_perfect_and_reversed_maps_take_the_ends(truth, scale):
    values = truth.values.reshape(1, -1)
    assert causal.spearman(scale * values, values).item() == pytest.approx(1)
    assert causal.spearman(-scale * values, values).item() == pytest.approx(-1)
    assert causal.average_precision(scale * values, values).item() == 1


def test_a_constant_map_gets_chance(truth, game):
    scores = causal.score(torch.ones(33, 129), truth, CELLS, game)
    assert scores["causal_spearman"] == 0
    assert scores["causal_average_precision"] == pytest.approx(min(8, int((truth.values > 0).sum())) / 32)
    assert scores["causal_gap_closed"] == scores["causal_gap_closed_random"]
    assert scores["causal_gap_closed_normalized"] == 0


def test_random_maps_score_at_chance_on_average():
    g = torch.Generator().manual_seed(0)
    relevance = torch.randn(500, 32, generator=g)
    values = torch.randn(500, 32, generator=g)
    assert abs(float(causal.spearman(relevance, values).mean())) < 0.03
    assert float(causal.average_precision(relevance, values).mean()) == pytest.approx(0.313, abs=0.03)  # small samples lift it over .25


def test_the_planted_patch_beats_its_mirror_image(truth, game):
    good, bad = patch_map(), patch_map().flip(0, 1)
    right, wrong = (causal.score(m, truth, CELLS, game) for m in (good, bad))
    assert right["causal_spearman"] > wrong["causal_spearman"]
    assert right["causal_gap_closed"] > 0.9
    assert right["causal_gap_closed_normalized"] > 0.9
    assert wrong["causal_gap_closed"] < 0.1
    assert right["causal_gap_closed_random"] == wrong["causal_gap_closed_random"] < 0.6


def test_the_truths_own_map_closes_what_the_truth_says(truth, game):
    for count in (1, 2, 8, 31, 32):
        closed = causal.gap_closed(truth.values.reshape(-1), truth, game, count)
        assert closed == pytest.approx(float(truth.closed_by_values[count]), abs=1e-4)
    assert causal.score(truth.heatmap(GRID, SAMPLES).double(), truth, CELLS, game)["causal_gap_closed_normalized"] == pytest.approx(1)


def test_closing_the_gap_is_the_naive_swap(clip, detector, truth, game):
    spectra = stft(torch.stack([clip.spoof, clip.bonafide]), STFT)
    relevance = torch.randn(32, generator=torch.Generator().manual_seed(1))
    swapped = torch.isin(CELLS, relevance.topk(8).indices)
    window = torch.hann_window(64)
    mixture = torch.istft(torch.where(swapped, spectra[1], spectra[0]), 64, 16, window=window, center=True, length=SAMPLES)
    ends = detector(torch.stack([clip.spoof, clip.bonafide]))
    naive = float((ends[0] - detector(mixture[None])[0]) / (ends[0] - ends[1]))
    assert causal.gap_closed(relevance, truth, game) == pytest.approx(naive, abs=1e-4)
    assert game.forwards == 1


def test_a_refused_clip_has_no_score_and_says_why(truth, game):
    scores = causal.score(patch_map(), refused(truth), CELLS, game)
    assert set(scores) == {record.name for record in causal.INFOS}
    assert all(math.isnan(value) for value in scores.values())
    assert {causal.undefined_reason(name, refused(truth)) for name in scores} == {"no gap"}
    assert set(causal.score(patch_map(), refused(truth), CELLS)) == set(scores) - causal.NEED_GAME
    assert game.forwards == 0


def test_every_score_has_its_record(truth, game):
    names = {record.name for record in causal.INFOS}
    assert set(causal.score(patch_map(), truth, CELLS, game)) == names
    assert set(causal.score(patch_map(), truth, CELLS)) == names - causal.NEED_GAME
    assert [causal.undefined_reason(name, truth) for name in names] == [""] * len(names)


def test_values_without_order_leave_the_correlation_open(truth):
    flat = CausalTruth(**{**vars(truth), "values": torch.ones(8, 4, dtype=torch.float64), "closed_by_values": truth.closed_at_random})
    assert math.isnan(causal.score(patch_map(), flat, CELLS)["causal_spearman"])
    assert "same value" in causal.undefined_reason("causal_spearman", flat)
    assert "no more of the gap" in causal.undefined_reason("causal_gap_closed_normalized", flat)


def test_impossible_input_is_one_sentence(truth, game):
    broken = patch_map()
    broken[3, 4] = math.nan
    with pytest.raises(ValueError, match="transpose the last two axes"):
        causal.tile_relevance(torch.zeros(1, 129, 33), CELLS)
    with pytest.raises(TypeError, match="cells must be signed integers, got float32"):
        causal.tile_relevance(torch.zeros(1, 33, 129), CELLS.float())
    with pytest.raises(ValueError, match="got 1 tiles without"):
        causal.tile_relevance(torch.zeros(1, 1, 2), torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match="finite, got 1 NaN"):
        causal.score(broken, truth, CELLS)
    with pytest.raises(ValueError, match=r"values must have relevance's shape \(1, 32\), got \(1, 8\)"):
        causal.spearman(torch.zeros(1, 32), torch.zeros(1, 8))
    with pytest.raises(ValueError, match="relevance and count must fit 32 tiles, got 31 and 8"):
        causal.gap_closed(torch.zeros(31), truth, game, 8)
    with pytest.raises(ValueError, match="got 32 and 0"):
        causal.gap_closed(torch.zeros(32), truth, game, 0)
