"""captum by class name: equal to captum itself, private randomness, and clear refusals."""

import random

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients

from xaibench.benchmark.check import check_explainer, example_clips
from xaibench.errors import NotApplicableError, UnknownNameError
from xaibench.explainers.baselines import baselines
from xaibench.explainers.captum_adapter import attribution_class, parse_options
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.spectrogram import STFTConfig

GRID = STFTConfig(128, 32)
SAMPLES = 2048
METHODS = [
    "Saliency", "InputXGradient", "IntegratedGradients", "DeepLift", "DeepLiftShap", "GradientShap", "GuidedBackprop", "Deconvolution",
    "FeatureAblation", "Occlusion", "ShapleyValueSampling", "Lime", pytest.param("KernelShap", marks=pytest.mark.slow),
]  # fmt: skip


def detector() -> SpectrogramCNN:
    net = SpectrogramCNN("random", config=SpectrogramCNNConfig((4, 6, 8, 8), 128, 32))
    net.input_samples = SAMPLES
    return net


def load(method: str, **options):
    return EXPLAINERS.load(f"captum:method={method}", stft=GRID, bands=3, segments=4, budget=40, **options)


@pytest.mark.parametrize("method", METHODS)
def test_every_class_keeps_the_contract(method):
    assert not check_explainer(load(method), detector(), samples=example_clips(SAMPLES))


def test_integrated_gradients_are_captums_own_with_options():
    clip, references = example_clips(SAMPLES)[:1], example_clips(SAMPLES, 4)[2:]
    wrapper = RawWrapper(detector(), GRID, SAMPLES)
    magnitude, phase = wrapper.split(clip)
    expected = IntegratedGradients(wrapper).attribute(
        magnitude, baselines("mean", wrapper, references), additional_forward_args=(phase,), n_steps=7, method="riemann_trapezoid"
    )
    ours = load("IntegratedGradients", options="n_steps=7;method=riemann_trapezoid").explain(clip, wrapper.detector, references=references)
    assert torch.allclose(ours, expected.float(), atol=1e-6 * float(expected.abs().max()))
    assert parse_options("a=1;b=(2, 3);c=text") == {"a": 1, "b": (2, 3), "c": "text"}


def test_tiles_are_switched_as_a_whole():
    clip = example_clips(SAMPLES)[:1]
    heatmap = load("FeatureAblation").explain(clip, detector(), references=clip.flip(1))
    assert len(heatmap.unique()) <= 12
    assert (heatmap[0, :22, :17] == heatmap[0, 0, 0]).all()


def test_randomness_stays_with_the_clip():
    clip, references = example_clips(SAMPLES)[:1], example_clips(SAMPLES, 4)[2:]
    explainer = load("GradientShap", options="stdevs=0.1")
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    maps = [explainer.explain(clip, detector(), references=references, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_unknown_classes_and_unusable_ones_are_refused():
    with pytest.raises(
        UnknownNameError, match="method must be a captum class that attributes to the input, got 'Salience'; did you mean Saliency"
    ):
        load("Salience")
    for name in ("LayerGradCam", "NeuronGradient", "NoiseTunnel", "FeaturePermutation", "LLMAttribution"):
        with pytest.raises(UnknownNameError, match=name):
            attribution_class(name)
    with pytest.raises(ValueError, match="options must be written name=value"):
        load("Saliency", options="abs")
    with pytest.raises(NotApplicableError, match=r"captum's Saliency must be able to explain spectrogram_cnn, got TypeError.*n_steps"):
        load("Saliency", options="n_steps=3").explain(example_clips(SAMPLES)[:1], detector())
