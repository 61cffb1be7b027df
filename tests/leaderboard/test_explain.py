import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from xaibench.errors import AudioError, NotApplicableError, RunError
from xaibench.leaderboard.explain import explain_files
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude
from xaibench.types import Detector, Explainer

GENERATOR = torch.Generator().manual_seed(0)
NOISE = 0.1 * torch.randn(16_000 * 12, generator=GENERATOR)


class LoudIsSpoof(Detector):
    """Log-odds follow the level."""

    name = "loud_is_spoof"

    def forward(self, waveform: Tensor) -> Tensor:
        return 40 * waveform.square().mean(-1).sqrt() - 4


@dataclass(frozen=True)
class Energy(Explainer):
    """Magnitude of the clip."""

    stft: STFTConfig = DEFAULT_STFT

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Sequence[torch.Generator] | torch.Generator | None = None) -> Tensor:  # fmt: skip  # noqa: E501
        return magnitude(waveform, self.stft)


@dataclass(frozen=True)
class Oracle(Energy):
    """Claims to need the twin."""

    oracle = True


Energy.name, Oracle.name = "energy_toy", "oracle_toy"


def record(path: Path, waveform: Tensor) -> Path:
    soundfile.write(path, waveform.numpy(), 16_000)
    return path


@pytest.fixture(autouse=True)
def _no_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the embedded corpus out: the toy needs none of it."""
    from xaibench.errors import DataError

    def refuse(*args: object, **options: object) -> None:
        raise DataError("no corpus here; none needed")

    monkeypatch.setattr("xaibench.load", refuse)


def test_analyst_gets_verdict_words_sounds_and_json(tmp_path: Path) -> None:
    quiet = 0.2 * NOISE[:64_600].clone()
    at = torch.arange(20_000, 30_000)
    quiet[at] += 0.5 * torch.hann_window(len(at)) * torch.sin(2 * torch.pi * 3000 * at / 16_000)
    page = explain_files([record(tmp_path / "a.wav", quiet)], Energy(), LoudIsSpoof(), tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "leans to spoof" in text
    assert "A heatmap is no proof." in text
    assert "xaibench run --explainer energy_toy" in text
    (file,) = json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))["files"]
    place = file["windows"][0]["evidence"][0]
    assert place["from_s"] <= 1.5 <= place["to_s"]
    assert place["from_hz"] <= 3000 <= place["to_hz"]
    assert place["to_hz"] - place["from_hz"] < 1500
    only, rest = (tmp_path / "out" / file["windows"][0]["sounds"][1][part]["file"] for part in ("only", "rest"))
    loud = [soundfile.read(path, dtype="float32")[0][21_000:29_000] for path in (only, rest)]
    assert (loud[0] ** 2).mean() > (loud[1] ** 2).mean()


def test_bad_files_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no audio", encoding="utf-8")
    good = record(tmp_path / "<b>good.flac", NOISE[:30_000])
    text = explain_files([tmp_path / "bad.wav", tmp_path / "none.wav", good], Energy(), LoudIsSpoof(), tmp_path / "out").read_text("utf-8")
    assert text.count("Not explained:") == 2
    assert "&lt;b&gt;good.flac" in text
    assert "<b>good" not in text
    assert "it is shorter than the detector" in text


def test_progress_and_bad_files_are_told_while_the_job_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no audio", encoding="utf-8")
    files = [record(tmp_path / "long.wav", NOISE), tmp_path / "bad.wav", record(tmp_path / "short.wav", NOISE[:30_000])]
    heard: list[tuple[int, int] | str] = []
    explain_files(files, Energy(), LoudIsSpoof(), tmp_path / "out", progress=lambda *at: heard.append(at), tell=heard.append)
    said = heard.pop(-2)
    assert heard == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert "bad.wav" in str(said)


@pytest.mark.parametrize(
    ("waveform", "note"),
    [
        (torch.zeros(64_600), "the recording is silent"),
        ((30 * NOISE[:64_600]).clamp(-1, 1), "the recording is clipped"),
        (NOISE[:64_600], ""),
    ],
)
def test_silent_and_clipped_recordings_are_noted(tmp_path: Path, waveform: Tensor, note: str) -> None:
    page = explain_files([record(tmp_path / "a.wav", waveform)], Energy(), LoudIsSpoof(), tmp_path / "out").read_text(encoding="utf-8")
    assert [text for text in ("the recording is silent", "the recording is clipped") if text in page] == ([note] if note else [])


def test_trust_says_how_the_explainer_stood_in_the_run(tmp_path: Path, toy_run: Path) -> None:
    for name, standing in (("specsegdiff", "It beats every control."), ("energy", "It is a control.")):
        out = tmp_path / name
        (out / "in").mkdir(parents=True)
        explainer = type("Named", (Energy,), {"name": name})()
        explain_files([record(out / "in" / "a.wav", NOISE[:64_600])], explainer, LoudIsSpoof(), out, run=toy_run)
        trust = json.loads((out / "explanation.json").read_text(encoding="utf-8"))["trust"]
        assert trust.startswith("On toy, where the evidence is known, it scores ")
        assert trust.endswith(standing)


def test_trust_admits_that_too_little_was_measured(tmp_path: Path, toy_run: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    summary["rows"] = [{**r, "tier": None, "beats_best_control": None, "note": "not enough clips: 6 of 20"} for r in summary["rows"]]
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    explainer = type("Named", (Energy,), {"name": "saliency"})()
    text = explain_files([record(tmp_path / "a.wav", NOISE[:64_600])], explainer, LoudIsSpoof(), tmp_path / "out", run=run).read_text(
        "utf-8"
    )
    assert "Whether it beats the controls was not tested: not enough clips: 6 of 20." in text


def test_run_that_cannot_be_read_stops_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"must hold manifest\.json"):
        explain_files([record(tmp_path / "a.wav", NOISE[:64_600])], Energy(), LoudIsSpoof(), tmp_path / "out", run=tmp_path)
    assert not (tmp_path / "out").exists()


def test_nothing_readable_is_an_error_and_still_a_page(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"1 more files failed"):
        explain_files([tmp_path / "no.wav", tmp_path / "nor.wav"], Energy(), LoudIsSpoof(), tmp_path / "out")
    assert (tmp_path / "out" / "index.html").is_file()


def test_long_recordings_are_judged_whole_and_explained_where_most_spoof(tmp_path: Path) -> None:
    long = torch.cat([NOISE, NOISE, 5 * NOISE[:64_600], NOISE])
    done: list[tuple[int, int]] = []
    explain_files([record(tmp_path / "long.wav", long)], Energy(), LoudIsSpoof(), tmp_path / "out", progress=lambda *at: done.append(at))
    (file,) = json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))["files"]
    windows = file["windows"]
    assert len(windows) == len(done) == 10
    assert windows[-1]["start_s"] + windows[-1]["seconds"] == pytest.approx(len(long) / 16_000)
    assert sum(bool(w["pictures"]) for w in windows) == 6
    loudest = max(windows, key=lambda w: w["log_odds"])
    assert loudest["pictures"]
    assert loudest["start_s"] <= 26 <= loudest["start_s"] + 4.04


def test_folder_is_searched_and_an_empty_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    with pytest.raises(AudioError, match="got the folder"):
        explain_files([tmp_path / "in"], Energy(), LoudIsSpoof(), tmp_path / "out")
    record(tmp_path / "in" / "deep" / "a.WAV", NOISE[:20_000])
    assert "a.WAV" in explain_files([tmp_path / "in"], Energy(), LoudIsSpoof(), tmp_path / "out").read_text(encoding="utf-8")


def test_oracles_cannot_explain_a_recording_without_twin(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="explainer must not be an oracle"):
        explain_files([tmp_path / "a.wav"], Oracle(), LoudIsSpoof(), tmp_path / "out")


def test_page_is_repeatable_and_quotes_the_leaderboard(tmp_path: Path, toy_run: Path) -> None:
    clip = record(tmp_path / "a.wav", NOISE[:64_600])
    texts = [explain_files([clip], Energy(), LoudIsSpoof(), tmp_path / str(i), run=toy_run).read_bytes() for i in range(2)]
    assert texts[0] == texts[1]
    assert b"has no row &#39;energy_toy&#39;" in texts[0]


def test_command_tells_bad_files_on_stderr_and_quotes_the_run(tmp_path: Path, toy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from xaibench.cli import app

    toys = {"detector": LoudIsSpoof(), "explainer": type("Named", (Energy,), {"name": "energy"})()}
    monkeypatch.setattr("xaibench.registry.Registry.load", lambda registry, spec, **options: toys[registry.kind])
    (tmp_path / "bad.wav").write_text("no audio", encoding="utf-8")
    files = [str(tmp_path / "bad.wav"), str(record(tmp_path / "a.wav", NOISE[:64_600]))]
    done = CliRunner().invoke(app, ["explain", *files, "--run", str(toy_run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "not explained: path must be a readable audio file" in done.stderr
    assert done.stdout.strip() == (tmp_path / "out" / "index.html").as_uri()
    assert "It is a control." in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
