"""Every registered explainer and detector, third-party plugins included, keeps the contract."""

import pytest

from xaibench.benchmark.check import check_detector, check_explainer, example_clips, require
from xaibench.errors import DataError, MissingExtraError, NotApplicableError, WeightsError
from xaibench.registry import DETECTORS, EXPLAINERS
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.detectors.wav2vec2_aasist import TINY

DETECTOR = SpectrogramCNN("random", config=SpectrogramCNNConfig())
SAMPLES = 16_000
"""One second, a quarter of the usual clip: the contract does not depend on the length."""
UNTRAINED = {
    "aasist": {"weights": "random"},
    "aasist_l": {"weights": "random"},
    "wav2vec2_aasist": {"weights": "random", "config": TINY},
    "wav2vec2_aasist_tiny": {"weights": "random"},
}
"""Options that replace weights which are not shipped."""
CHEAP = {
    "gradient_shap": {"n_samples": 3},
    "integrated_gradients": {"n_steps": 3},
    **{name: {"bands": 3, "segments": 2, "budget": 16} for name in ("kernel_shap", "lime", "partition_shap")},
    "occlusion": {"bands": 3, "segments": 2},
    "oracle_ig": {"n_steps": 3},
    "rise": {"n_masks": 6},
}
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
        require(check_explainer(explainer, DETECTOR, samples=example_clips(SAMPLES)), any_explainer)
    except NotApplicableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["wav2vec2_aasist_tiny", "aasist_l"])
def test_explainer_on_other_detectors(any_explainer: str, detector: str):
    explained = load(DETECTORS, detector, weights="random")
    explainer = load(EXPLAINERS, any_explainer, **CHEAP.get(any_explainer, {}))
    try:
        require(check_explainer(explainer, explained, samples=example_clips(SAMPLES)), any_explainer)
    except NotApplicableError as error:
        pytest.skip(str(error))


def test_detector(any_detector: str):
    detector = load(DETECTORS, any_detector, **UNTRAINED.get(any_detector, {}))
    samples = example_clips(SAMPLES) if any_detector in UNTRAINED else None
    require(check_detector(detector, samples=samples), any_detector)


def test_the_plugin_offers_the_same_checks(assert_explainer, assert_detector):
    assert_explainer("input_x_gradient", DETECTOR)
    assert_detector(DETECTOR)
