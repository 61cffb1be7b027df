"""By default no explainer asks a detector more than 512 times about a clip, counted by the harness, and black-box ones say how often."""

import pytest
import torch
from torch import Tensor

from xaibench.benchmark.check import example_clips
from xaibench.benchmark.observe import Meter
from xaibench.errors import DataError, MissingExtraError, WeightsError
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, magnitude
from xaibench.types import Detector

BUDGET = 512
STATED = {"occlusion": "257", "rise": "256", "lime": "512", "kernel_shap": "512", "partition_shap": "512"}
CAPTUM = [
    "captum:FeatureAblation",
    *(pytest.param(f"captum:{n}", marks=pytest.mark.slow) for n in ("ShapleyValueSampling", "Lime", "KernelShap")),
]


class Bands(Detector):
    """Cheap, not linear, and different in every band."""

    name = "bands"
    input_samples = 16_000
    grid = DEFAULT_STFT

    def forward(self, waveform: Tensor) -> Tensor:
        level = magnitude(waveform, DEFAULT_STFT).mean(2)
        return torch.tanh(level @ torch.linspace(-1, 2, DEFAULT_STFT.bins))


def forwards(spec: str) -> int:
    try:
        explainer = EXPLAINERS.load(spec)
    except (MissingExtraError, WeightsError, DataError) as error:
        pytest.skip(str(error))
    detector, clips = Bands(), example_clips(16_000, 6)
    usable, reason = explainer.applicable(detector)
    if not usable:
        pytest.skip(reason)
    references = clips[2:3] if explainer.oracle else clips[2:].repeat(5, 1) if "references" in explainer.needs else None
    with Meter(detector) as meter:
        explainer.explain(clips[:1], detector, references=references, generator=[torch.Generator().manual_seed(0)])
    return meter.cost.forwards


def test_forwards(any_explainer: str):
    if any_explainer in STATED:
        return  # counted below
    assert forwards(any_explainer) <= BUDGET


@pytest.mark.parametrize("name", STATED)
def test_black_boxes_state_their_budget_and_use_it(name: str):
    count = forwards(name)
    assert count > int(STATED[name]) // 2
    assert count <= int(STATED[name])
    assert STATED[name] in (EXPLAINERS.get(name).__doc__ or "")


@pytest.mark.parametrize("spec", CAPTUM)
def test_captums_black_boxes(spec: str):
    assert 1 < forwards(spec) <= BUDGET
