"""Sanity: randomisation reaches every parameter, and similarity knows its chance level."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from xaibench.benchmark.metrics.sanity import cross_vocoder_similarity, entropy_rise, maximum_sensitivity, randomized, repeatability
from xaibench.types import Detector


class Varied(Detector):
    """Holds the parameters that libraries forget: bare ones, weight norm, a scalar."""

    name = "varied"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 4, 9))
        self.bare = nn.Parameter(torch.randn(4))
        self.scalar = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, waveform):
        return self.scalar * (self.layer(waveform[:, None]).relu().mean(-1) @ self.bare)


def test_every_parameter_is_drawn_anew_and_the_detector_stays():
    detector = Varied().eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    scrambled = randomized(detector)
    for (name, old), new in zip(detector.named_parameters(), scrambled.parameters(), strict=True):
        assert not torch.equal(old, new), name
    assert torch.equal(scrambled.window, detector.window)
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
    clips = torch.randn(5, 100)
    assert not torch.allclose(detector(clips), scrambled(clips))
    assert torch.equal(randomized(detector)(clips), scrambled(clips))
    assert not torch.equal(randomized(detector, seed=1)(clips), scrambled(clips))


def test_entropy_rise_by_hand():
    sharp, flat = np.repeat([0.0, 1.0], [96, 4]).reshape(10, 10), np.arange(100.0).reshape(10, 10)
    trained = -(0.96 * math.log(0.96) + 0.04 * math.log(0.04))
    assert entropy_rise(sharp, flat) == pytest.approx((math.log(100) - trained) / trained)
    assert entropy_rise(flat, flat) == 0
    assert math.isnan(entropy_rise(np.zeros((3, 3)), flat[:3, :3]))


def test_cells_beyond_the_clip_do_not_count_in_the_rise_of_entropy():
    rng = np.random.default_rng(0)
    maps, cells = rng.normal(size=(2, 20, 30)), np.arange(30) < np.full((20, 1), 18)
    padded = np.where(cells, maps, 100 * rng.normal(size=(2, 20, 30)))
    assert entropy_rise(padded[0], padded[1], cells) == entropy_rise(maps[0][:, :18], maps[1][:, :18]) != entropy_rise(*padded)
    assert entropy_rise(torch.tensor(padded[0]), torch.tensor(padded[1]), torch.tensor(cells)) == entropy_rise(*padded, cells)
    assert math.isnan(entropy_rise(*padded, np.zeros_like(cells)))


def test_cross_vocoder_similarity_is_the_mean_pairwise_dice():
    maps = np.zeros((3, 10, 10))
    maps[0].flat[:5], maps[1].flat[:5], maps[2].flat[2:7] = 1, 2, 3
    assert cross_vocoder_similarity(maps) == pytest.approx((1 + 0.6 + 0.6) / 3)
    noise = np.random.default_rng(0).normal(size=(4, 100, 100))
    assert cross_vocoder_similarity(noise) == pytest.approx(0.05, abs=0.02)
    assert cross_vocoder_similarity(torch.ones(2, 50, 50)) == 1  # equal maps break ties alike


def test_repeatability_is_one_without_chance():
    maps = np.random.default_rng(0).normal(size=(3, 30, 30))
    assert repeatability(np.stack([maps[0]] * 3)) == pytest.approx(1)
    assert repeatability(maps) == pytest.approx(0, abs=0.1)


def test_maximum_sensitivity_takes_the_worst_copy():
    heatmap = torch.ones(2, 3, 4)
    heatmap[1] = 0
    perturbed = torch.stack([heatmap * 1.1, heatmap * 0.5])
    found = maximum_sensitivity(heatmap, perturbed)
    assert found[0] == pytest.approx(0.5)
    assert math.isnan(found[1])


@pytest.mark.filterwarnings("ignore:Input Tensor .* required_grads")
def test_maximum_sensitivity_is_captums_for_the_same_perturbations():
    from captum.attr import InputXGradient
    from captum.metrics import sensitivity_max

    torch.manual_seed(0)
    detector = Varied().eval().double()
    explain = InputXGradient(detector).attribute
    clips, changes = torch.randn(3, 100).double(), 0.02 * torch.randn(5, 3, 100).double()
    repeated = changes.transpose(0, 1).flatten(0, 1)  # captum holds all copies of the first clip, then of the second
    theirs = sensitivity_max(explain, clips, perturb_func=lambda copies: copies + repeated, n_perturb_samples=5)
    ours = maximum_sensitivity(explain(clips)[:, None], torch.stack([explain(clips + change)[:, None] for change in changes]))
    torch.testing.assert_close(ours, theirs)
    assert (ours > 0).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="heatmaps must hold at least 2 maps, got 1"):
        repeatability(np.ones((1, 3, 3)))
    with pytest.raises(ValueError, match=r"randomized_heatmap must have heatmap's shape \(3, 4\), got \(4, 3\); transpose"):
        entropy_rise(np.ones((3, 4)), np.ones((4, 3)))
    with pytest.raises(TypeError, match="valid must be boolean, got float64"):
        entropy_rise(np.ones((3, 4)), np.ones((3, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="density must be between 0 and 1, got 5"):
        cross_vocoder_similarity(np.ones((2, 3, 3)), density=5)
    with pytest.raises(ValueError, match=r"perturbed must have shape \(R, 1, 2, 3\)"):
        maximum_sensitivity(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
