"""The embedded detector: shipped weights that are what their card says, an ear for sound and not for level, exact folding."""

import json

import pytest
import torch

from xaibench.benchmark.check import example_clips
from xaibench.errors import WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.detectors.weights import SHIPPED, shipped, write_safetensors
from xaibench.types import CLIP_SAMPLES


@pytest.mark.parametrize("name", shipped("spectrogram_cnn"))
def test_shipped_weights_are_small_and_are_those_of_their_card(name: str):
    detector = DETECTORS.load("spectrogram_cnn", weights=name)
    card = json.loads((SHIPPED / f"spectrogram_cnn-{name}.json").read_text())
    assert card["fingerprint"] == detector.fingerprint()
    assert card["task"] == name
    assert card["parameters"] == sum(p.numel() for p in detector.parameters()) < 200_000
    assert card["quality"]["test"]["seen"]["auc"] > card["average_spectrum_control"]["test"]["seen"]["auc"]


def test_the_default_hears_its_vocoders_and_does_not_call_silence_spoof():
    assert "minivoc" in shipped("spectrogram_cnn")
    card = json.loads((SHIPPED / "spectrogram_cnn-minivoc.json").read_text())
    assert card["quality"]["test"]["seen"]["eer"] < 0.05
    assert card["quality"]["test"]["unseen"]["auc"] > 0.9
    with torch.no_grad():
        silence = DETECTORS.load("spectrogram_cnn")(torch.zeros(1, CLIP_SAMPLES)).item()
    assert silence == pytest.approx(card["log_odds"]["silence"], abs=1e-3)
    assert abs(silence) < 0.1 * (card["log_odds"]["spoof"] - card["log_odds"]["bonafide"])


def test_level_is_not_heard_and_silence_is_finite():
    detector, clips = SpectrogramCNN("random"), example_clips(CLIP_SAMPLES)
    with torch.no_grad():
        torch.testing.assert_close(detector(clips * 0.3), detector(clips * 3), rtol=0, atol=2e-3)
        assert detector(torch.zeros(1, CLIP_SAMPLES)).isfinite().all()


def test_folding_batch_normalization_keeps_the_answer():
    detector, clips = SpectrogramCNN("random"), example_clips(16_000)
    with torch.no_grad():
        for _ in range(3):
            detector.train()(clips)
        for norm in detector.normalizations:
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
        folded = detector.eval().folded()
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(clips), detector(clips), rtol=1e-4, atol=1e-4)
    assert folded.folded() is folded


def test_a_file_brings_its_own_sizes(tmp_path):
    small = SpectrogramCNN("random", config=SpectrogramCNNConfig(channels=(4, 6), window_samples=512, hop_samples=128))
    metadata = {"config": '{"channels": [4, 6], "window_samples": 512, "hop_samples": 128}'}
    write_safetensors(tmp_path / "small.safetensors", small.state_dict(), metadata)
    assert SpectrogramCNN(tmp_path / "small.safetensors").fingerprint() == small.fingerprint()
    write_safetensors(tmp_path / "bad.safetensors", small.state_dict(), {"config": '{"depth": 3}'})
    with pytest.raises(WeightsError, match="weights must store a readable configuration"):
        SpectrogramCNN(tmp_path / "bad.safetensors")


def test_unknown_names_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"must be a file or a shipped name \(minivoc.*\), got 'minivox'"):
        DETECTORS.load("spectrogram_cnn", weights="minivox")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(WeightsError, match=r"weights must be a readable safetensors file, got torn\.safetensors"):
        SpectrogramCNN(tmp_path / "torn.safetensors")
