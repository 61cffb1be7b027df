"""Vocoders of torchaudio and transformers, of random weights and tiny sizes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchaudio.models import WaveRNN as Model

from xaibench.errors import WeightsError
from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.neural.wavernn import normalised_mel, sizes

SIZES = {"n_classes": 32, "n_res_block": 2, "n_rnn": 12, "n_fc": 10, "kernel_size": 3, "n_freq": 20, "n_hidden": 9, "n_output": 16}


@pytest.fixture
def wavernn() -> Model:
    torch.manual_seed(0)
    return Model([5, 5, 11], hop_length=275, **SIZES)


def test_the_sizes_of_a_wavernn_are_read_from_its_shapes(wavernn: Model) -> None:
    assert sizes(wavernn.state_dict()) == SIZES | {"upsample_scales": [5, 5, 11], "hop_length": 275}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_wavernn_copies_with_weights_of_either_format(wavernn: Model, voice: Tensor, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    save_file(wavernn.state_dict(), path) if suffix == ".safetensors" else torch.save(wavernn.state_dict(), path)
    vocoder = VOCODERS.load(f"wavernn:weights={path}")
    state = torch.get_rng_state()
    copy = vocoder.copy(voice[:2100])
    assert torch.equal(torch.get_rng_state(), state)
    assert copy.shape == (2100,)
    assert torch.equal(copy, vocoder.copy(voice[:2100]))
    assert not torch.equal(copy, VOCODERS.load(f"wavernn:weights={path},seed=1").copy(voice[:2100]))


def test_wavernn_hears_the_mel_bands_that_torchaudio_makes(voice: Tensor) -> None:
    from torchaudio.transforms import MelSpectrogram

    make = MelSpectrogram(22_050, 2048, 1100, 275, 40.0, n_mels=20, power=1.0, norm="slaney", mel_scale="slaney")
    decibels = 20 * torch.log10(make(voice).clamp(min=1e-5))
    torch.testing.assert_close(normalised_mel(voice, 22_050, 275, 20), ((decibels + 100) / 100).clamp(0, 1), rtol=0, atol=1e-5)


def test_wavernn_refuses_other_weights(voice: Tensor, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="weights of wavernn must be a file, got ''"):
        VOCODERS.load("wavernn").copy(voice)
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"state dict of torchaudio.models.WaveRNN"):
        VOCODERS.load(f"wavernn:weights={tmp_path / 'w.safetensors'}").copy(voice)


def _saved(kind: str, folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    if kind == "speecht5_hifigan":
        config = transformers.SpeechT5HifiGanConfig(upsample_initial_channel=16, resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]])
        transformers.SpeechT5HifiGan(config).save_pretrained(folder)
    else:
        small = {"kernel_predictor_num_blocks": 1, "model_hidden_channels": 64}
        config = transformers.UnivNetConfig(resblock_dilation_sizes=[[1], [1], [1]], **small)
        transformers.UnivNetModel(config).save_pretrained(folder)
        transformers.UnivNetFeatureExtractor().save_pretrained(folder)


@pytest.mark.parametrize("kind", ["speecht5_hifigan", "univnet"])
def test_a_hugging_face_vocoder_copies_from_its_folder(kind: str, voice: Tensor, tmp_path: Path) -> None:
    _saved(kind, tmp_path)
    vocoder = VOCODERS.load(f"huggingface:folder={tmp_path}")
    for samples in (2048, 5001):
        copy = vocoder.copy(voice[:samples])
        assert copy.shape == (samples,)
        assert torch.isfinite(copy).all()
        assert torch.equal(copy, vocoder.copy(voice[:samples]))
    assert not torch.equal(vocoder.copy(voice[:4000]), vocoder.copy(voice[4000:8000]))
    assert len(vocoder.state_hash()) == 64


def test_a_folder_of_something_else_is_refused(voice: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(WeightsError, match=r"folder must hold config\.json and model\.safetensors"):
        VOCODERS.load(f"huggingface:folder={tmp_path}").copy(voice)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="folder must hold one of speecht5_hifigan, univnet, got 'bert'"):
        VOCODERS.load(f"huggingface:folder={tmp_path}").copy(voice)


def test_a_model_of_another_hop_is_refused(voice: Tensor, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.SpeechT5HifiGanConfig(
        upsample_initial_channel=16, upsample_rates=[4, 4, 4, 2], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]]
    )
    transformers.SpeechT5HifiGan(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="extractor's hop, 256 samples, got 128"):
        VOCODERS.load(f"huggingface:folder={tmp_path}").copy(voice)
