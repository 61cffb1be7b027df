"""The hf detector answers as transformers does, finds the spoof label or says that it cannot, and keeps the contract."""

import json
from pathlib import Path

import pytest
import torch

from xaibench.benchmark.check import check_detector, example_clips
from xaibench.errors import MissingExtraError, WeightsError
from xaibench.registry import DETECTORS
from xaibench.tasks.detectors.hf_labels import spoof_labels

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
CONVOLUTIONS = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 8), "num_feat_extract_layers": 2}
SPEECH = {**SIZES, **CONVOLUTIONS, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 6}


def save(folder: Path, model_type: str = "wav2vec2", labels: tuple[str, ...] = ("bonafide", "spoof"), **settings) -> Path:
    """Save an untrained classifier and its feature extractor as transformers does."""
    transformers = pytest.importorskip("transformers", reason="pip install 'xaibench[hf]' to run this test")
    sizes = SIZES | {"num_mel_bins": 32, "max_length": 100} if model_type == "audio-spectrogram-transformer" else SPEECH
    config = transformers.AutoConfig.for_model(model_type, **{**sizes, **settings})
    config.id2label, config.label2id = dict(enumerate(labels)), {name: number for number, name in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForAudioClassification.from_config(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    if model_type == "audio-spectrogram-transformer":
        transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=100).save_pretrained(folder)
    else:
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", ["wav2vec2", "hubert", "wavlm", "audio-spectrogram-transformer"])
def test_it_answers_as_transformers_does_and_keeps_the_contract(tmp_path: Path, model_type: str):
    folder, clips = save(tmp_path, model_type, labels=("bonafide", "tts", "vc")), example_clips(16_000)
    detector = DETECTORS.load("hf", weights=str(folder))
    import transformers

    model = transformers.AutoModelForAudioClassification.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor([clip.numpy() for clip in clips], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs, output_hidden_states=True)
        odds = theirs.logits.softmax(1)
        torch.testing.assert_close(detector(clips), (odds[:, 1:].sum(1) / odds[:, 0]).log(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(detector.hidden_states(clips), torch.stack(theirs.hidden_states[1:]), rtol=1e-3, atol=1e-3)
    assert detector.config.spoof == (1, 2)
    assert not check_detector(detector, samples=clips)
    other = save(tmp_path / "other", model_type, labels=("spoof", "tts", "real"))
    assert DETECTORS.load("hf", weights=str(other)).fingerprint() != detector.fingerprint()


LABELS = [
    (("bonafide", "spoof"), "", (1,), 1),
    (("Fake", "Real"), "", (0,), 1),
    (("bona-fide", "class_b"), "", (1,), 1),
    (("LABEL_0", "AI generated"), "", (1,), 1),
    (("real", "tts", "vc"), "", (1, 2), 1),
    (("LABEL_0", "LABEL_1"), "LABEL_0", (0,), 1),
    (("a", "b", "c"), "c+a", (0, 2), 1),
    (("human",), "", (0,), -1),
    (("deepfake",), "", (0,), 1),
    (("LABEL_0",), "LABEL_0", (0,), 1),
]


@pytest.mark.parametrize(("labels", "given", "spoof", "sign"), LABELS)
def test_labels_that_leave_no_doubt(labels, given, spoof, sign):
    assert spoof_labels(dict(enumerate(labels)), given) == (spoof, sign)


@pytest.mark.parametrize(
    "labels", [("LABEL_0", "LABEL_1"), ("not fake", "other"), ("fake", "spoof"), ("real", "fake", "music"), ("score",)]
)
def test_labels_that_leave_doubt_are_refused(labels):
    with pytest.raises(WeightsError, match=r"labels must tell which one means spoof, got .*; say so with spoof=LABEL"):
        spoof_labels(dict(enumerate(labels)))


@pytest.mark.parametrize("given", ["fake", "a+b", "a+fake"])
def test_given_labels_must_exist_and_leave_some(given):
    with pytest.raises(WeightsError, match=r"spoof must name some of the labels \(a, b\) and not all, got"):
        spoof_labels({0: "a", 1: "b"}, given)


def test_one_output_is_the_log_odds_of_its_label(tmp_path: Path):
    clips = example_clips(16_000)
    human = DETECTORS.load("hf", weights=str(save(tmp_path, labels=("human",))))
    with torch.no_grad():
        assert torch.equal(DETECTORS.load("hf", weights=str(tmp_path), spoof="human")(clips), -human(clips))


def test_folders_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch):
    with pytest.raises(WeightsError, match=r"weights of hf must be a folder with config.json, got ''; use hf:weights=DIR,spoof=LABEL"):
        DETECTORS.load("hf")
    folder = save(tmp_path / "model")
    extractor = folder / "preprocessor_config.json"
    settings = json.loads(extractor.read_text())
    extractor.write_text(json.dumps(settings | {"sampling_rate": 8_000}))
    with pytest.raises(WeightsError, match="sampling_rate must be 16000, got 8000 in model"):
        DETECTORS.load("hf", weights=str(folder))
    extractor.unlink()
    with pytest.raises(WeightsError, match=r"must lie beside a readable preprocessor_config.json, got model"):
        DETECTORS.load("hf", weights=str(folder))
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("classifier.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"must fit the classifier key by key, got model with 1 missing keys: classifier.weight"):
        DETECTORS.load("hf", weights=str(folder))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="must be a readable audio classifier, got model"):
        DETECTORS.load("hf", weights=str(folder))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"detector hf needs transformers; run: pip install 'xaibench\[hf\]'"):
        DETECTORS.load("hf", weights=str(folder))
