"""Every registered explainer and detector, third-party plugins included, keeps the contract."""

import pytest

from xaibench.benchmark.check import check_detector, check_explainer, example_clips, require
from xaibench.errors import DataError, MissingExtraError, NotApplicableError, WeightsError
from xaibench.registry import DETECTORS, EXPLAINERS
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.types import CLIP_SAMPLES

DETECTOR = SpectrogramCNN("random", config=SpectrogramCNNConfig())
UNTRAINED = {"aasist": {"weights": "random"}, "aasist_l": {"weights": "random"}}
"""Options that replace weights which are not shipped."""
CHEAP = {"integrated_gradients": {"n_steps": 3}, "gradient_shap": {"n_samples": 3}, "oracle_ig": {"n_steps": 3}}
"""Options that keep the method and save time."""


def load(registry, name: str, **options):
    """Load a plugin, or skip with the reason."""
    try:
        return registry.load(name, **options)
    except (MissingExtraError, WeightsError, DataError) as error:
        pytest.skip(str(error))


def test_explainer(any_explainer: str):
    explainer = load(EXPLAINERS, any_explainer, **CHEAP.get(any_explainer, {}))
    try:
        require(check_explainer(explainer, DETECTOR, samples=example_clips(CLIP_SAMPLES)), any_explainer)
    except NotApplicableError as error:
        pytest.skip(str(error))


def test_detector(any_detector: str):
    detector = load(DETECTORS, any_detector, **UNTRAINED.get(any_detector, {}))
    samples = example_clips(16_000) if any_detector in UNTRAINED else None
    require(check_detector(detector, samples=samples), any_detector)


def test_the_plugin_offers_the_same_checks(assert_explainer, assert_detector):
    assert_explainer("input_x_gradient", DETECTOR)
    assert_detector(DETECTOR)
