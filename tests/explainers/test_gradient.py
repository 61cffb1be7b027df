"""Gradient explainers against closed forms on a linear detector, and against captum's own classes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from xaibench.benchmark.check import example_clips
from xaibench.explainers.baselines import SILENCE
from xaibench.explainers.gradient_shap import draw, expected_gradients
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.tasks.detectors.aasist import AASISTL
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.spectrogram import STFTConfig, log_magnitude
from xaibench.types import Detector

GRID = STFTConfig(256, 64)
SAMPLES = 4000


class Linear(Detector):
    """Weighted sum of samples. In log-magnitude, each cell adds ``c exp(M)``: every path integral has a closed form."""

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform @ torch.linspace(-1, 3, waveform.shape[-1])


@pytest.fixture(name="clips")
def _clips() -> Tensor:
    return example_clips(SAMPLES)


@pytest.fixture(name="references")
def _references() -> Tensor:
    return example_clips(SAMPLES, 6)[2:]


def slope(clips: Tensor) -> Tensor:
    """Return the gradient of the linear detector by log-magnitude, cell by cell ``c exp(M)``."""
    wrapper = RawWrapper(Linear(), GRID, SAMPLES)
    magnitude, phase = wrapper.split(clips)
    magnitude.requires_grad_(True)
    return torch.autograd.grad(wrapper(magnitude, phase).sum(), magnitude)[0]


def explain(name: str, clips: Tensor, detector: Detector | None = None, references: Tensor | None = None, **options) -> Tensor:
    return EXPLAINERS.load(name, stft=GRID, **options).explain(clips, detector or Linear(), references=references)


def test_saliency_is_the_absolute_gradient(clips):
    assert torch.equal(explain("saliency", clips), slope(clips).abs())


def test_input_x_gradient_shares_out_the_log_odds_of_a_linear_detector(clips):
    heatmap = explain("input_x_gradient", clips)
    torch.testing.assert_close(heatmap.sum((1, 2)), Linear()(clips), rtol=1e-4, atol=1e-3)
    by_logarithm = explain("input_x_gradient", clips, domain="log_magnitude")
    torch.testing.assert_close(by_logarithm, log_magnitude(clips, GRID) * heatmap)


@pytest.mark.parametrize(("baseline", "level"), [("silence", SILENCE), ("zero_logmag", 0.0)])
def test_integrated_gradients_match_the_closed_form_of_a_linear_detector(clips, baseline, level):
    heatmap = explain("integrated_gradients", clips, baseline=baseline, n_steps=40)
    expected = slope(clips) * (1 - torch.exp(level - log_magnitude(clips, GRID)))
    torch.testing.assert_close(heatmap, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_gradient_shap_converges_to_the_mean_of_the_closed_forms_over_references(clips, references):
    heatmap = explain("gradient_shap", clips, references=references, n_samples=400, chunk_size=50)
    levels = log_magnitude(references, GRID)
    paths = torch.stack([slope(clips) * (1 - torch.exp(level - log_magnitude(clips, GRID))) for level in levels])
    expected = paths.mean(0)
    assert ((heatmap - expected).norm() / expected.norm()).item() < 0.05


def test_gradient_shap_equals_captum_for_equal_draws(clips, monkeypatch):
    from captum.attr import GradientShap

    detector = SpectrogramCNN("random", config=SpectrogramCNNConfig())
    wrapper = RawWrapper(detector, GRID, SAMPLES)
    end, phase = wrapper.split(clips[:1])
    start, alphas = torch.zeros_like(end), torch.linspace(0.05, 0.95, 6)
    monkeypatch.setattr(np.random, "uniform", lambda *_: alphas.numpy())
    theirs = GradientShap(wrapper).attribute(end, start, n_samples=6, stdevs=0.0, additional_forward_args=(phase,))
    ours = expected_gradients(wrapper, end[0], phase[0], start, torch.zeros(6, dtype=torch.int64), alphas, 4)
    torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5 * ours.abs().max().item())


def test_draws_visit_every_baseline_and_every_part_of_the_path():
    chosen, alphas = draw(4, 10, torch.Generator().manual_seed(0))
    assert sorted(torch.bincount(chosen, minlength=4).tolist()) == [2, 2, 3, 3]
    assert sorted((alphas * 10).int().tolist()) == list(range(10))


def test_completeness_residual_is_what_the_heatmap_misses(clips, references):
    explainer = EXPLAINERS.load("integrated_gradients", stft=GRID, n_steps=40, baseline="references")
    heatmap = explainer.explain(clips, Linear(), references=references)
    scale = Linear()(clips).abs().max().item()
    assert explainer.completeness_residual(heatmap, clips, Linear(), references).abs().max().item() < 1e-3 * scale
    missing = explainer.completeness_residual(heatmap * 0, clips, Linear(), references)
    torch.testing.assert_close(missing, -heatmap.sum((1, 2)), rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("name", ["integrated_gradients", "gradient_shap"])
def test_chunks_change_memory_and_not_the_result(clips, references, name):
    detector = SpectrogramCNN("random", config=SpectrogramCNNConfig())
    few, many = (explain(name, clips[:1], detector, references, chunk_size=n) for n in (3, 20))
    torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["saliency", "input_x_gradient", "integrated_gradients", "gradient_shap"])
def test_a_raw_waveform_detector_with_graph_attention_is_explained_under_no_grad(name):
    detector, clips = AASISTL("random"), example_clips(16_000)
    few = {"integrated_gradients": {"n_steps": 2}, "gradient_shap": {"n_samples": 2}}.get(name, {})
    with torch.no_grad():
        heatmap = EXPLAINERS.load(name, **few).explain(clips[:1], detector, references=clips)
    assert heatmap.shape == (1, 513, 63)
    assert heatmap.isfinite().all()
    assert heatmap.any()
    assert all(p.grad is None and p.requires_grad for p in detector.parameters())


def test_bad_options_and_references_are_refused(clips, references):
    with pytest.raises(ValueError, match="baseline must be one of references, mean, silence, zero_logmag, got 'zero'"):
        EXPLAINERS.load("gradient_shap", baseline="zero")
    with pytest.raises(ValueError, match="domain must be one of"):
        EXPLAINERS.load("input_x_gradient", domain="waveform")
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        EXPLAINERS.load("integrated_gradients", n_steps=0)
    with pytest.raises(ValueError, match=r"references must be recordings .* got none"):
        explain("gradient_shap", clips)
    with pytest.raises(ValueError, match=r"references must be .* got shape \(4, 3999\)"):
        explain("integrated_gradients", clips, references=references[:, 1:], baseline="mean")
