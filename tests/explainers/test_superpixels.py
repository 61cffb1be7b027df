"""Superpixels and what is played with them: LIME against scikit-learn, Kernel and Partition SHAP against exact Shapley values."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from xaibench.benchmark.check import check_explainer
from xaibench.explainers.lime import ridge_regression
from xaibench.explainers.superpixels import Game, superpixels
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import STFTConfig, magnitude, stft
from xaibench.types import Detector

GRID = STFTConfig(64, 16)
SAMPLES = 2048
SMALL = {"bands": 2, "segments": 3, "stft": GRID}


class Places(Detector):
    """Three places that work together, and one that speaks against them."""

    name = "places"
    input_samples = SAMPLES

    def forward(self, waveform: Tensor) -> Tensor:
        level = magnitude(waveform, GRID)
        first, second, third = level[:, 4:12, 10:30].mean((1, 2)), level[:, 20:28, 60:80].mean((1, 2)), level[:, 4:12, 95:120].mean((1, 2))
        return 20 * torch.tanh(2 * first * second) + 3 * second - 2 * third


def noise(clips: int = 1) -> Tensor:
    return 0.3 * torch.randn(clips, SAMPLES, generator=torch.Generator().manual_seed(0))


def game(bands: int = 2, segments: int = 3) -> Game:
    clip = noise()[0]
    spectrum = stft(clip[None], GRID)
    return Game(Places(), clip, spectrum, superpixels(spectrum[0].abs(), bands, segments), -60.0, 16, GRID)


def exact(play: Game) -> Tensor:
    """Return Shapley values over all orders, coalition by coalition."""
    coalitions = torch.cartesian_prod(*[torch.tensor([False, True])] * play.players)
    with torch.no_grad():
        value = dict(zip(map(tuple, coalitions.tolist()), play(coalitions).tolist(), strict=True))
    total = torch.zeros(play.players, dtype=torch.float64)
    orders = list(permutations(range(play.players)))
    for order in orders:
        heard = [False] * play.players
        for player in order:
            before = value[tuple(heard)]
            heard[player] = True
            total[player] += value[tuple(heard)] - before
    return (total / len(orders)).float()


def test_superpixels_follow_a_loud_patch_and_cover_the_grid():
    level = torch.full((60, 80), 0.01)
    level[13:28, 11:37] = 1.0
    patches = superpixels(level, 4, 4, compactness=0.2)
    assert patches.shape == level.shape
    assert sorted(patches.unique().tolist()) == list(range(int(patches.max()) + 1))
    mixed = sum(
        int(min((inside := level[patches == p] > 0.5).sum(), (~inside).sum())) for p in patches.unique()
    )  # cells on the wrong side of the loud patch's edge
    tiles = superpixels(level, 4, 4, compactness=1e6)
    by_tile = sum(int(min((inside := level[tiles == p] > 0.5).sum(), (~inside).sum())) for p in tiles.unique())
    assert mixed < by_tile / 3
    rows, columns = torch.meshgrid(torch.arange(60) * 4 // 60, torch.arange(80) * 4 // 80, indexing="ij")
    assert torch.equal(tiles, rows * 4 + columns)


def test_hiding_nothing_leaves_the_clip_and_hiding_all_the_floor():
    play = game()
    with torch.no_grad():
        whole, none = play(torch.tensor([[True] * 6, [False] * 6]))
        assert torch.allclose(whole, Places()(play.clip[None])[0], atol=1e-4)
    assert abs(float(none)) < 0.2


def test_lime_is_scikit_learns_weighted_ridge():
    sklearn = pytest.importorskip("sklearn.linear_model")
    random = torch.Generator().manual_seed(0)
    inputs, targets, weights = (torch.rand(*s, generator=random, dtype=torch.float64) for s in ((50, 7), (50,), (50,)))
    expected = sklearn.Ridge(alpha=0.7).fit(inputs.numpy(), targets.numpy(), sample_weight=weights.numpy()).coef_
    assert torch.allclose(ridge_regression(inputs, targets, weights, 0.7), torch.from_numpy(expected), atol=1e-10)


def test_lime_points_at_the_places_that_the_detector_uses():
    heatmap = EXPLAINERS.load("lime", stft=GRID, bands=4, segments=4, compactness=100.0).explain(noise(), Places())[0]
    assert heatmap[20:28, 60:80].mean() > 3 * heatmap[20:28, :30].abs().mean()
    assert heatmap[4:12, 100:118].mean() < 0


@pytest.mark.parametrize("name", ["kernel_shap", "partition_shap"])
def test_shap_shares_add_up(name):
    pytest.importorskip("shap", reason="shap is an extra: pip install 'xaibench[shap]'")
    play = game(3, 4)
    with torch.no_grad():
        gain = play(torch.tensor([[True], [False]]).expand(2, play.players)).diff().neg()
        shares = EXPLAINERS.load(name, bands=3, segments=4, stft=GRID).shares(play, torch.Generator().manual_seed(0))
    assert torch.allclose(shares.sum(), gain[0], atol=1e-3)


def test_kernel_shap_is_exact_where_the_budget_covers_all_coalitions():
    pytest.importorskip("shap", reason="shap is an extra: pip install 'xaibench[shap]'")
    play = game()
    with torch.no_grad():
        shares = EXPLAINERS.load("kernel_shap", **SMALL).shares(play, torch.Generator().manual_seed(0))
    assert torch.allclose(shares, exact(play), atol=1e-3)


def test_partition_shap_is_near_shapley_values_and_finds_the_place():
    pytest.importorskip("shap", reason="shap is an extra: pip install 'xaibench[shap]'")
    play = game()
    with torch.no_grad():
        shares = EXPLAINERS.load("partition_shap", context="none", **SMALL).shares(play, torch.Generator().manual_seed(0))
    values = exact(play)
    assert torch.corrcoef(torch.stack([shares, values]))[0, 1] > 0.9
    assert shares.argmax() == values.argmax()


@pytest.mark.parametrize("name", ["lime", "kernel_shap", "partition_shap"])
def test_the_contract(name):
    if name != "lime":
        pytest.importorskip("shap", reason="shap is an extra: pip install 'xaibench[shap]'")
    assert not check_explainer(EXPLAINERS.load(name, budget=40, **SMALL), Places(), samples=noise(2))


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match=r"budget must be at least one forward per superpixel and two \(66\), got 60"):
        EXPLAINERS.load("lime:budget=60")
    with pytest.raises(ValueError, match="compactness positive"):
        EXPLAINERS.load("lime:compactness=0")
    with pytest.raises(ValueError, match="width must be positive"):
        EXPLAINERS.load("lime:width=0")
