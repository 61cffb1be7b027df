"""The raw-waveform detector: an ear for sound and not for level, exact folding, filters as stated, a file that brings its sizes."""

import json

import pytest
import torch

from xaibench.benchmark.check import check_detector, example_clips
from xaibench.errors import WeightsError
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.detectors.waveform_cnn import WaveformCNN, WaveformCNNConfig, filter_bank
from xaibench.tasks.detectors.weights import write_safetensors
from xaibench.types import CLIP_SAMPLES


def test_it_keeps_the_contract_of_detectors_in_fewer_than_200_000_parameters():
    detector = WaveformCNN("random")
    assert check_detector(detector) == []
    assert sum(p.numel() for p in detector.parameters()) < 200_000


def test_level_is_not_heard_and_silence_is_finite():
    detector, clips = WaveformCNN("random"), example_clips(CLIP_SAMPLES)
    with torch.no_grad():
        torch.testing.assert_close(detector(clips * 0.3), detector(clips * 3), rtol=0, atol=2e-3)
        assert detector(torch.zeros(1, CLIP_SAMPLES)).isfinite().all()


def test_each_filter_begins_at_its_frequency_with_unit_norm():
    bank = filter_bank(128, 512)
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(256))
    peaks = torch.fft.rfft(bank, 8192).abs().argmax(dim=1) * 16_000 / 8192
    expected = 8000 * (torch.arange(128) + 0.5) / 128
    assert float((peaks[3:125] - expected[3:125]).abs().max()) < 10
    assert float((peaks[131:253] - expected[3:125]).abs().max()) < 10


def test_folding_batch_normalization_keeps_the_answer():
    detector, clips = WaveformCNN("random"), example_clips(16_000)
    with torch.no_grad():
        for _ in range(3):
            detector.train()(clips)
        for norm in detector.normalizations:
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
        folded = detector.eval().folded()
        torch.testing.assert_close(folded(clips), detector(clips), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert folded.folded() is folded


def test_a_file_brings_its_own_sizes(tmp_path):
    config = WaveformCNNConfig(filters=8, filter_samples=64, channels=(2, 4, 4, 6))
    small = WaveformCNN("random", config=config)
    stored = {"filters": 8, "filter_samples": 64, "channels": [2, 4, 4, 6]}
    write_safetensors(tmp_path / "small.safetensors", small.state_dict(), {"config": json.dumps(stored)})
    assert WaveformCNN(tmp_path / "small.safetensors").fingerprint() == small.fingerprint()
    write_safetensors(tmp_path / "bad.safetensors", small.state_dict(), {"config": '{"channels": 3}'})
    with pytest.raises(WeightsError, match="weights must store a readable configuration"):
        WaveformCNN(tmp_path / "bad.safetensors")


def test_a_level_for_all_clips_keeps_gradients_where_the_evidence_is():
    clip = example_clips(16_000)[:1]
    quiet, loud = clip.clone(), clip.clone()
    quiet[:, 12_000:] *= 0.1
    for family, config in ((WaveformCNN, WaveformCNNConfig(level=0.015)), (SpectrogramCNN, SpectrogramCNNConfig(level=0.015))):
        heard = [family("random", config=config).features(x)[..., :20] for x in (quiet, loud)]
        torch.testing.assert_close(*heard, rtol=0, atol=1e-5)  # what the end is like does not change the beginning
        own = [family("random").features(x)[..., :20] for x in (quiet, loud)]
        assert float((own[0] - own[1]).abs().mean()) > 0.01
