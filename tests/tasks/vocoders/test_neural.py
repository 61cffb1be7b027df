"""What all trained vocoders have in common: lengths, seeds, weights, training, resuming, cards."""

import builtins
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from xaibench.cli import app
from xaibench.errors import WeightsError
from xaibench.registry import VOCODERS
from xaibench.tasks.detectors.weights import write_safetensors
from xaibench.tasks.vocode import vocode
from xaibench.tasks.vocoders.neural import training, weights
from xaibench.tasks.vocoders.neural.features import HOP, Condition, levelled, log_mel, pitch, to_samples
from xaibench.tasks.vocoders.neural.job import network_of, train_vocoder, trainable
from xaibench.tasks.vocoders.neural.quality import assess
from xaibench.tasks.vocoders.neural.training import TrainingConfig, train
from xaibench.types import tensors_hash

NAMES = trainable()


def test_the_named_vocoders_can_be_trained() -> None:
    assert set(NAMES) >= {"vocos", "hn_nsf", "hifigan", "waveglow", "diffwave"}
    assert len({VOCODERS.get(name).kind for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_every_size_stay_under_eight_megabytes(name: str) -> None:
    for sizes in network_of(name).presets.values():
        assert sum(p.numel() for p in network_of(name)(sizes).parameters()) * 2 < 7.9e6  # two bytes each, and a header


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_has_its_recordings_length_and_depends_on_nothing_but_the_seed(name: str, untrained: Any, voice: torch.Tensor) -> None:
    vocoder = VOCODERS.get(name)(weights=str(untrained(name)))
    for samples in (2048, 2049, 5000, 5199):
        state = torch.manual_seed(samples).get_state()
        copy = vocoder.copy(voice[4000 : 4000 + samples])
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(1)
        assert torch.equal(copy, vocoder.copy(voice[4000 : 4000 + samples]))
        assert copy.shape == (samples,)
        assert torch.isfinite(copy).all()
    assert not vocoder.copy(torch.zeros(4000)).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_in_a_batch_is_the_copy_alone(name: str) -> None:
    run = training.start(TrainingConfig(name, "tiny"), network_of(name))
    mel = torch.randn(2, 80, 21, generator=torch.Generator().manual_seed(0))
    condition = Condition(mel, torch.full((2, 21), 120.0))

    def generated(*rows: int) -> torch.Tensor:
        seeded = [torch.Generator().manual_seed(row) for row in rows]
        with torch.no_grad():
            return run.network.eval().generate(Condition(*(c[list(rows)] for c in condition)), 4100, seeded)

    both = generated(0, 1)
    assert both.shape == (2, 4100)
    torch.testing.assert_close(both[1:], generated(1), rtol=1e-4, atol=1e-5)


FALLS = {"vocos": 0.6, "hn_nsf": 0.6, "hifigan": 0.7, "waveglow": 0.8, "diffwave": 0.9}


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_network_learns_one_utterance(name: str, speech: Any) -> None:
    one = training.Speech(speech.utterances[:2], {}, speech.samples_path, speech.pitch_path)
    losses: list[float] = []
    config = TrainingConfig(name, "tiny", 60, 2, frames=16, learning_rate=4e-3, warmup=5, adversarial_after=-1)
    train(config, network_of(name), one, report=lambda r: losses.append(r["loss"]))
    before, after = sum(losses[:3]) / 3, sum(losses[-5:]) / 5
    assert after < FALLS[name] * before


def test_a_run_that_was_stopped_goes_on_bit_for_bit(speech: Any, tmp_path: Path) -> None:
    config = TrainingConfig("vocos", "tiny", 6, 2, frames=12, adversarial_after=2, judge_channels=2)
    kind = network_of("vocos")
    whole = train(config, kind, speech, out=tmp_path / "whole")
    train(config, kind, speech, out=tmp_path / "parts", stop_after=4)
    with (tmp_path / "parts" / training.HISTORY).open("a") as stream:
        stream.write('{"step": 5, "loss": 1.0}\n')  # a step that was logged and not saved
    parts = train(config, kind, speech, out=tmp_path / "parts")
    assert all(torch.equal(whole.average[key], parts.average[key]) for key in whole.average)
    assert whole.judges is not None
    assert parts.judges is not None
    assert all(torch.equal(a, b) for a, b in zip(whole.judges.parameters(), parts.judges.parameters(), strict=True))
    assert (tmp_path / "whole" / training.HISTORY).read_text() == (tmp_path / "parts" / training.HISTORY).read_text()
    with pytest.raises(WeightsError, match="hold a checkpoint of this run"):
        train(TrainingConfig("vocos", "tiny", 7, 2, frames=12), kind, speech, out=tmp_path / "parts")


def test_judges_learn_and_their_opinion_reaches_the_generator(speech: Any) -> None:
    config = TrainingConfig("vocos", "tiny", 25, 2, frames=12, adversarial_after=0, judge_channels=2, learning_rate=2e-3, warmup=1)
    records: list[dict[str, Any]] = []
    run = train(config, network_of("vocos"), speech, report=records.append)
    assert records[-1]["judges"] < 0.8 * records[0]["judges"]
    assert run.judges is not None
    generated = torch.randn(1, 2400, requires_grad=True)
    run.judges.persuade(torch.randn(1, 2400), generated).backward()
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0


def test_features_of_a_crop_are_those_of_the_recording(speech: Any) -> None:
    utterance = speech.train[0]
    start, frames = 20, 30
    wave, f0 = speech.crop(utterance, start, frames)
    whole = log_mel(speech.waveform(utterance)[None])[0, :, start : start + frames + 1]
    torch.testing.assert_close(log_mel(wave[None])[0, :, 2:-2], whole)
    torch.testing.assert_close(f0, pitch(speech.waveform(utterance))[start : start + frames + 1])
    assert speech.crop(utterance, utterance.samples // HOP - 3, frames)[0].shape == wave.shape  # beyond the end


def test_frames_are_interpolated_at_their_samples() -> None:
    frames = torch.tensor([[0.0, 1.0, 3.0]])
    samples = to_samples(frames, 600)
    assert samples[0, [0, 100, 200, 300, 400, 599]].tolist() == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_no_speaker_is_trained_and_scored(speech: Any) -> None:
    assert {u.speaker for u in speech.train} & {u.speaker for u in speech.scored()} == set()
    assert len(speech.train) + len(speech.held_out) == 4


def test_the_command_trains_writes_a_card_and_vocodes(speech_folder: Path, tmp_path: Path) -> None:
    out, pairs = tmp_path / "out", tmp_path / "pairs"
    options = ["--steps", "3", "--batch-size", "1", "--config", "tiny", "--frames", "12", "--adversarial-after", "1"]
    runner = CliRunner()
    done = runner.invoke(app, ["train", "vocoder", "vocos", "--speech", str(speech_folder), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    card = json.loads((out / "vocos.json").read_text())
    assert card["steps"] == 3
    assert card["speech"]["recordings"] == 2
    assert len(card["speech"]["held_out_speakers"]) == 1
    assert card["file_bytes"] == (out / "vocos.safetensors").stat().st_size < 8e6
    assert card["scores"]["recordings"] == 2
    assert 1 < card["scores"]["log_mel_db"] < 60
    assert sum(t.numel() for t in load_file(out / "vocos.safetensors").values()) == card["parameters"]
    spec = f"vocos:weights={out / 'vocos.safetensors'}"
    done = runner.invoke(app, ["vocode", str(speech_folder), "--vocoder", spec, "--out", str(pairs), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert "4 pairs, 4 made now" in done.output


def test_copies_are_made_again_when_the_weights_change(speech_folder: Path, untrained: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    made = []
    for seed in (0, 0, 1):
        path.write_bytes(untrained("vocos", seed).read_bytes())
        made.append(vocode(speech_folder, [f"vocos:weights={path}"], tmp_path / "pairs", limit=2).made)
    assert made == [2, 0, 2]


def test_weights_are_refused_with_the_reason(untrained: Any, voice: torch.Tensor, tmp_path: Path) -> None:
    vocoder = VOCODERS.get("vocos")
    with pytest.raises(WeightsError, match=r"weights of hn_nsf must be given, since none ship, .* run `xaibench train vocoder hn_nsf"):
        VOCODERS.get("hn_nsf")().copy(voice)
    with pytest.raises(WeightsError, match="weights of vocos must be a file, got 'nowhere"):
        vocoder(weights="nowhere.safetensors").copy(voice)
    damaged, other = tmp_path / "damaged.safetensors", tmp_path / "other.safetensors"
    damaged.write_bytes(untrained("vocos").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="readable safetensors"):
        vocoder(weights=str(damaged)).copy(voice)
    write_safetensors(other, {"a": torch.zeros(1)}, {"vocoder": "griffin"})
    with pytest.raises(WeightsError, match=r"must be those of vocos, got other.safetensors of griffin"):
        vocoder(weights=str(other)).copy(voice)
    write_safetensors(other, {"a": torch.zeros(1)}, {"vocoder": "vocos", "sizes": '{"channels": 8, "layers": 1}'})
    with pytest.raises(WeightsError, match="must fit VocosNetwork key by key"):
        vocoder(weights=str(other)).copy(voice)
    write_safetensors(other, {"a": torch.zeros(1)}, {"vocoder": "vocos", "sizes": '{"wings": 2}'})
    with pytest.raises(WeightsError, match="must name the sizes of vocos"):
        vocoder(weights=str(other)).copy(voice)
    assert isinstance(weights.load(untrained("vocos"), "vocos", network_of("vocos"), "cpu"), network_of("vocos"))


def test_a_vocoder_that_cannot_be_trained_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocoder must be one that can be trained \(.*vocos.*\), got 'lpc'"):
        train_vocoder(TrainingConfig("lpc"), [tmp_path], out=tmp_path)


def test_scores_rank_copies_and_name_what_is_missing(voice: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pystoi", reason="pystoi is not installed")
    pytest.importorskip("pesq", reason="pesq is not installed")
    noise = torch.randn(len(voice), generator=torch.Generator().manual_seed(0)) * voice.std()
    same, near, far = (assess([(voice, copy)]) for copy in (voice, voice + 0.1 * noise, noise))
    assert same["log_mel_db"] == 0
    assert same["stoi"] == pytest.approx(1, abs=1e-4)
    assert same["pesq_wb"] > 4.5
    assert same["log_mel_db"] < near["log_mel_db"] < far["log_mel_db"]
    assert same["stoi"] > near["stoi"] > far["stoi"]
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name == "pystoi":
            raise ImportError("No module named 'pystoi'", name="pystoi")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pystoi", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    without = assess([(voice, voice)])
    assert without["stoi"] is None
    assert without["missing"] == {"stoi": "pystoi is not installed; pip install 'xaibench[vocoders]'"}


def test_distance_in_decibels_is_a_closed_form(voice: torch.Tensor) -> None:
    """A gain of 6 dB above one half of the signal's length, levelled, moves each mel cell by the gain minus the change of level."""
    loud = torch.cat([voice, voice * 2])
    level = 20 * torch.log10(levelled(loud)[: len(voice)].std() / levelled(voice).std())
    features = log_mel(levelled(loud)[None])[..., : len(voice) // HOP - 2] - log_mel(levelled(voice)[None])[..., : len(voice) // HOP - 2]
    moved = features[log_mel(levelled(voice)[None])[..., : len(voice) // HOP - 2] > -1.5] * 2 * 8.685889638
    torch.testing.assert_close(moved, level.expand_as(moved), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("path", sorted(weights.SHIPPED.glob("*.safetensors")), ids=lambda p: p.stem)
def test_shipped_weights_are_what_their_card_says_and_can_be_understood(path: Path, voice: torch.Tensor) -> None:
    pytest.importorskip("pystoi", reason="pystoi is not installed")
    card = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size == card["file_bytes"] < 8e6
    assert tensors_hash(load_file(path)) == card["weights_sha256"]
    scores = assess([(voice, VOCODERS.load(path.stem).copy(voice))])  # a synthetic voice, unlike those it was trained on
    assert scores["stoi"] > 0.75
    assert scores["log_mel_db"] < 8
