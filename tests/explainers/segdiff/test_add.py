"""ADDSegDiff reads a detector's layers as they are, leaves the detector alone, and is refused on a detector it was not trained for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import xaibench
from xaibench.benchmark.check import check_explainer, example_clips, require
from xaibench.errors import WeightsError
from xaibench.explainers.segdiff import features
from xaibench.explainers.segdiff.add import AddSegDiff
from xaibench.explainers.segdiff.job import listener
from xaibench.explainers.segdiff.network import CONFIGS, SegDiffNetwork, parameters
from xaibench.explainers.segdiff.weights import SHIPPED, ModelConfig, load, preset, shipped, write
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.types import Detector

METHODS = ("addsegdiff", "addsegdiff_random")
SAMPLES = 16_200
XLSR = tuple((1024, 1) for _ in features.PAPER_LAYERS)


class Layered(Detector):
    """A stack of six hidden layers of which the k-th is the frame mean plus k."""

    name = "layered"

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform.mean(-1)

    def hidden_states(self, waveform: Tensor) -> Tensor:
        frames = waveform[:, : waveform.shape[1] // 320 * 320].reshape(len(waveform), -1, 320).mean(-1, keepdim=True)
        return torch.stack([frames.expand(-1, -1, 5) + k for k in range(6)])


class Linear(Detector):
    """Nothing to read."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 1)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.out(waveform[:, :2])[:, 0]


def cnn(seed: int = 0) -> SpectrogramCNN:
    return SpectrogramCNN("random", seed, SpectrogramCNNConfig(channels=(4, 6, 8, 8)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random tiny networks for ``cnn()``, one per method."""
    torch.manual_seed(0)
    paths = {}
    for method in METHODS:
        model = preset(method, "tiny", **listener(method, cnn()).preset)
        network = SegDiffNetwork(model.network)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
        paths[method] = str(tmp_path_factory.mktemp(method) / "random.safetensors")
        write(Path(paths[method]), model, network.state_dict(), {})
    return paths


def test_layers_are_the_papers_and_spread_over_other_depths() -> None:
    assert features.spread(24) == (0, 4, 9, 14, 19, 23)
    assert features.spread(12) == (0, 2, 4, 7, 9, 11)
    assert features.spread(6) == (0, 1, 2, 3, 4, 5)
    assert features.spread(2) == (0, 1)
    assert features.spread(1) == (0,)


def test_hidden_states_become_sequences_of_the_right_layers() -> None:
    waveform = torch.randn(2, SAMPLES)
    maps = features.read(Layered(), waveform)
    assert [m.shape for m in maps] == [(2, 5, 1, 50)] * 6
    expected = waveform[1, 320:640].mean()
    for k, layer in enumerate(maps):
        torch.testing.assert_close(layer[1, :, 0, 1], (expected + k).expand(5))


def test_feature_maps_are_those_of_the_convolutions() -> None:
    detector, waveform = cnn(), torch.randn(2, SAMPLES)
    maps = features.read(detector, waveform)
    first = detector.convolutions[0](detector.features(waveform))
    torch.testing.assert_close(maps[0], first)
    assert [m.shape[1] for m in maps] == [4, 6, 8, 8]
    assert all(not module._forward_hooks for module in detector.modules())
    assert not features.readable(Linear())
    assert features.readable(Layered())
    with pytest.raises(ValueError, match="detector must have hidden states or 2-D convolutions"):
        features.read(Linear(), waveform)


def test_a_blank_copy_has_learned_nothing_and_depends_on_the_architecture_alone() -> None:
    first, second = cnn(0), cnn(1)
    blank = features.randomised(first)
    assert blank.fingerprint() == features.randomised(second).fingerprint() != first.fingerprint()
    assert features.randomised(first, seed=1).fingerprint() != blank.fingerprint()
    changed = [not torch.equal(a, b) for a, b in zip(first.parameters(), blank.parameters(), strict=True)]
    assert all(changed)
    assert first.fingerprint() == cnn(0).fingerprint()


def test_encoder_standardises_resizes_and_pads() -> None:
    torch.manual_seed(0)
    encoder = features.FeatureEncoder(((3, 1), (2, 9)), hidden=8, bands=6, planes=2)
    maps = (5 + 3 * torch.randn(4, 3, 1, 7), 0.01 * torch.randn(4, 2, 9, 5) - 2)
    encoder.standardise([maps])
    for i, values in enumerate(maps):
        scaled = (values - encoder.get_buffer(f"mean_{i}")[:, None, None]) * encoder.get_buffer(f"scale_{i}")[:, None, None]
        assert float(scaled.mean().abs()) < 1e-4
        assert float(scaled.std()) == pytest.approx(1, abs=0.02)
    out = encoder(maps, (11, 16), 13)
    assert out.shape == (4, encoder.channels, 11, 16) == (4, 3, 11, 16)
    assert bool((out[..., 13:] == 0).all())
    assert float(out[..., 12].detach().abs().min()) > 0
    with pytest.raises(ValueError, match=r"features must have widths and heights \(\(3, 1\), \(2, 9\)\)"):
        encoder(maps[:1], (11, 16), 13)


def test_the_paper_network_has_the_published_size_beside_its_feature_layers() -> None:
    with torch.device("meta"):
        network = SegDiffNetwork(preset("addsegdiff", "paper", ("sym-floor60-v1",), features=XLSR).network)
        plain = SegDiffNetwork(replace(CONFIGS["paper"], rrdb_blocks=1, image_channels=6))
    assert network.features is not None
    assert network.features.channels == 6
    layers = parameters(network.features)
    assert layers == 6 * (1024 * 512 + 512 + 512 * 320 + 320)
    assert parameters(network) - layers == parameters(plain)
    assert parameters(plain) / 1e6 == pytest.approx(118.50, abs=0.005)


def test_configurations_survive_their_file() -> None:
    model = preset("addsegdiff", "small", features=((8, 257), (24, 1)), detector="abc")
    assert ModelConfig.from_json(model.to_json()) == model
    assert (model.front.channels, model.network.image_channels) == (("frequency",), 1)
    with pytest.raises(ValueError, match="features must be given for addsegdiff and addsegdiff_random alone"):
        preset("addsegdiff", "tiny")
    with pytest.raises(ValueError, match="features must be given for"):
        preset("specsegdiff", "tiny", features=XLSR)


@pytest.mark.parametrize("method", METHODS)
def test_the_contract_holds(method: str, weights: dict[str, str]) -> None:
    explainer = xaibench.load("explainer", method, weights=weights[method])
    require(check_explainer(explainer, cnn(), samples=example_clips(SAMPLES)), method)


def test_only_the_detector_tells_the_clips_apart(weights: dict[str, str]) -> None:
    waveform = torch.randn(1, SAMPLES)
    learned, blank = (xaibench.load("explainer", m, weights=weights[m]) for m in METHODS)
    other = cnn(1)
    first, second = (learned.explain(waveform, detector) for detector in (cnn(0), other))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(blank.explain(waveform, cnn(0)), blank.explain(waveform, other))
    assert learned.applicable(cnn(0)) == (True, "")
    usable, reason = learned.applicable(other)
    assert not usable
    assert "trained on another detector" in reason
    assert blank.applicable(other)[0]
    assert not learned.applicable(Linear())[0]


def test_missing_detectors_and_weights_say_what_to_do(weights: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="detector must be given to addsegdiff, got None"):
        AddSegDiff(weights=weights["addsegdiff"]).draw(torch.zeros(1, SAMPLES))
    usable, reason = AddSegDiff(weights="nowhere").applicable(cnn())
    assert not usable
    assert "xaibench train addsegdiff" in reason
    with pytest.raises(WeightsError, match="addsegdiff must be trained with a detector"):
        AddSegDiff().fit([])
    with pytest.raises(ValueError, match="start must be noise for addsegdiff"):
        AddSegDiff(start="one_shot")


@pytest.mark.parametrize("task", sorted({name.split("-")[0] for name in shipped("addsegdiff")}))
def test_what_ships_for_a_task_reads_its_detector_and_its_blank_copy(task: str) -> None:
    detector = xaibench.load("detector", xaibench.load("task", task).default_detector)
    for method in METHODS:
        explainer = xaibench.load("explainer", method).bind(task)
        assert explainer.weights == task
        assert explainer.applicable(detector) == (True, "")
        require(check_explainer(explainer, detector, samples=example_clips(SAMPLES)), method)


@pytest.mark.parametrize("name", shipped("addsegdiff"))
def test_the_claim_and_its_control_had_the_same_training(name: str) -> None:
    cards = [json.loads((SHIPPED / f"{method}-{name}.json").read_text()) for method in METHODS]
    for key in ("steps", "examples", "data_fingerprint", "parameters", "task"):
        assert cards[0][key] == cards[1][key], key
    recipes = [
        {**{k: v for k, v in card["training"].items() if k not in ("model", "augmentation")}, **card["training"]["augmentation"]}
        for card in cards
    ]
    shared = recipes[0].keys() & recipes[1].keys()  # cards name the options that there were when they were written
    assert {k: recipes[0][k] for k in shared} == {k: recipes[1][k] for k in shared}
    fingerprints = [card["detector"]["fingerprint"] for card in cards]
    assert fingerprints[0] != fingerprints[1]
    assert [load(method, name).config.detector for method in METHODS] == fingerprints
