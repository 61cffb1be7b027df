"""What a plugin may do wrong, and how the run ends: its own units fail, everybody else's results are complete."""

import os
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from toys import Toy, ToyTask, toy_run

from xaibench.benchmark.explain import checked
from xaibench.benchmark.results import Results
from xaibench.benchmark.units import Problem
from xaibench.errors import NothingMeasuredError, PluginError, UnitsFailedError

SMALL = ToyTask(utterances=1)


class Exiting(Toy):
    name = "exiting"

    def explain(self, waveform, detector, *, references=None, generator=None):
        sys.exit(3)


@dataclass(frozen=True)
class Loud(Toy):
    name = "loud"

    def explain(self, waveform, detector, *, references=None, generator=None):
        raise RuntimeError("\x1b[2Jred \u202egpj.exe\ud800 end\nsecond line")


def statuses(results, label):
    frame = results.frame[results.frame.explainer == label]
    return {(row.status, row.why) for row in frame.itertuples()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_explainer_that_exits_fails_alone_and_the_run_says_that_nothing_was_measured(tmp_path, jobs):
    with pytest.raises(NothingMeasuredError, match=r"got exiting with none \(SystemExit: 3\)") as caught:
        toy_run(tmp_path / "run", Exiting(), Toy(), task=SMALL, faithfulness=False, jobs=jobs)
    assert caught.value.exit_code == 5
    results = Results.read(tmp_path / "run")  # complete all the same
    assert statuses(results, "exiting") == {("error", "SystemExit: 3")}
    assert {status for status, _ in statuses(results, "toy_explainer")} == {"ok"}


def test_only_the_explainers_asked_for_are_counted(tmp_path, monkeypatch):
    from xaibench.explainers.controls.trivial import Energy

    def fail(self, waveform, detector, **_):
        raise RuntimeError("a control fails")

    with monkeypatch.context() as patched:
        patched.setattr(Energy, "explain", fail)
        toy_run(tmp_path / "own", Toy(), task=SMALL, faithfulness=False, max_failures=0)
        with pytest.raises(NothingMeasuredError, match=r"got energy with none \(RuntimeError: a control fails\)"):
            toy_run(tmp_path / "controls", task=SMALL, faithfulness=False)
    task = ToyTask(utterances=2)
    failed = toy_run(tmp_path / "some", Toy(fault="raises"), task=task, faithfulness=False).summary.n_by_status["error"]
    toy_run(tmp_path / "some", Toy(fault="raises"), task=task, faithfulness=False, max_failures=failed)
    with pytest.raises(UnitsFailedError, match=f"at most {failed - 1} explanations may fail, got {failed}"):
        toy_run(tmp_path / "some", Toy(fault="raises"), task=task, faithfulness=False, max_failures=failed - 1)


def test_an_explainer_that_does_not_apply_is_an_answer_beside_one_that_does(tmp_path):
    refusing = Toy(fault="refuses")
    toy_run(tmp_path / "both", refusing, Toy(), task=SMALL, faithfulness=False, max_failures=0)
    with pytest.raises(NothingMeasuredError, match=r"NotApplicableError: it has no layers"):
        toy_run(tmp_path / "alone", refusing, task=SMALL, faithfulness=False)


@pytest.mark.parametrize("option", [{"timeout_s": 0.0}, {"max_failures": -1}])
def test_limits_out_of_range_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match="must be"):
        toy_run(tmp_path / "run", Toy(), **option)


def test_lazy_tensors_are_stored_as_they_read():
    lazy = torch.complex(torch.zeros(1, 2, 3), torch.ones(1, 2, 3)).conj().imag
    assert lazy.is_neg()
    found = checked(lazy, (1, 2, 3))
    assert found.numpy().tolist() == [[-1.0] * 3] * 2
    shared = torch.zeros(1, 2, 3)
    kept = checked(shared, (1, 2, 3))
    shared += 1  # a plugin that reuses its buffer
    assert float(kept.sum()) == 0


@pytest.mark.parametrize("method", ["bind", "config", "state_hash"])
def test_a_plugin_that_fails_before_the_run_is_named(tmp_path, method):
    def fail(self, *_):
        raise SystemExit("cannot")

    broken = type("Broken", (Toy,), {method: fail})()
    with pytest.raises(PluginError, match=r"got SystemExit from toy_explainer: cannot; mend"):
        toy_run(tmp_path / "run", broken, task=SMALL)
    assert not (tmp_path / "run").exists()


def test_a_plugin_that_changes_the_folder_does_not_move_the_run(tmp_path, monkeypatch):
    class Wandering(Toy):
        def bind(self, task):
            os.chdir("/")
            return self

        def explain(self, waveform, detector, *, references=None, generator=None):
            os.chdir(tmp_path)
            return super().explain(waveform, detector, generator=generator)

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(NothingMeasuredError, match="got a changed working directory"):
        toy_run("run", Wandering(), task=SMALL, faithfulness=False)
    assert (tmp_path / "here" / "run" / "DONE").exists()


def test_words_of_plugins_cannot_draw(tmp_path):
    with pytest.raises(NothingMeasuredError) as caught:
        toy_run(tmp_path / "run", Loud(), task=SMALL, faithfulness=False)
    assert "(RuntimeError: [2Jred gpj.exe end)" in str(caught.value)
    assert statuses(Results.read(tmp_path / "run"), "loud") == {("error", "RuntimeError: [2Jred gpj.exe end")}
    assert len(Problem(kind="x", message="y" * 9999).message) == 500


def failing(error):
    def fail(*_):
        raise error

    return fail


def test_a_torn_heatmap_is_explained_again_before_it_is_scored(tmp_path, monkeypatch):
    from xaibench.benchmark.session import Session

    whole = toy_run(tmp_path / "whole", Toy(), task=SMALL, faithfulness=False)
    with monkeypatch.context() as patched:
        patched.setattr(Session, "score", failing(MemoryError("power cut")))
        with pytest.raises(MemoryError):
            toy_run(tmp_path / "run", Toy(), task=SMALL, faithfulness=False)
    for blob in (tmp_path / "run" / "heatmaps").iterdir():
        blob.write_bytes(blob.read_bytes()[:-30])
    again = toy_run(tmp_path / "run", Toy(), task=SMALL, faithfulness=False)
    assert (again.path / "units.parquet").read_bytes() == (whole.path / "units.parquet").read_bytes()
    assert again.heatmap(again.frame.heatmap_sha256.iloc[0]).shape == (129, 33)


def test_scorings_that_the_machine_spoiled_are_made_again_and_others_on_request(tmp_path, monkeypatch):
    from xaibench.benchmark import score
    from xaibench.errors import RunError

    for error, options in ((RunError("disk is gone"), {}), (ValueError("odd map"), {"retry_errors": True})):
        out = tmp_path / type(error).__name__
        with monkeypatch.context() as patched:
            patched.setattr(score.ClipScorer, "_localize", failing(error))
            spoiled = toy_run(out, Toy(), task=SMALL, faithfulness=False)
        assert set(spoiled.frame.metric) == {"forwards", "backwards"}
        if options:
            assert set(toy_run(out, Toy(), task=SMALL, faithfulness=False).frame.metric) == {"forwards", "backwards"}
        mended = toy_run(out, Toy(), task=SMALL, faithfulness=False, **options)
        assert (mended.frame.status == "ok").all()
        assert "auroc" in set(mended.frame.metric)


def test_more_time_is_a_reason_to_try_again(tmp_path):
    task = ToyTask(utterances=2)
    slow = Toy(pause_s=0.4)
    with pytest.raises(NothingMeasuredError, match=r"TimeoutError: took longer than 0\.1 s"):
        toy_run(tmp_path / "run", slow, task=task, faithfulness=False, timeout_s=0.1)
    with pytest.raises(NothingMeasuredError):
        toy_run(tmp_path / "run", slow, task=task, faithfulness=False, timeout_s=0.1)
    assert set(Results.read(tmp_path / "run").timings.attempt) == {1}
    quick = toy_run(tmp_path / "run", Toy(), task=task, faithfulness=False, timeout_s=60)
    assert set(quick.summary.n_by_status) == {"ok"}


def test_the_command_line_passes_the_limits_on(monkeypatch):
    from typer.testing import CliRunner

    from xaibench.benchmark import run as module
    from xaibench.cli import app

    seen = []

    def capture(**options):
        seen.append((options["timeout_s"], options["max_failures"]))
        raise RuntimeError("enough")

    monkeypatch.setattr(module, "run", capture)
    for words in ([], ["--timeout", "7", "--max-failures", "2"]):
        CliRunner().invoke(app, ["run", "-e", "energy", *words])
    assert seen == [(600.0, None), (7.0, 2)]


class Leaking(Toy):
    """Keeps 40 MB of every clip."""

    name = "leaking"
    kept: ClassVar[list] = []

    def explain(self, waveform, detector, *, references=None, generator=None):
        self.kept.append(torch.ones(10_000_000))
        return super().explain(waveform, detector, generator=generator)


class Greedy(Toy):
    """Asks for more than there is."""

    name = "greedy"

    def explain(self, waveform, detector, *, references=None, generator=None):
        return bytearray(1 << 31) and super().explain(waveform, detector, generator=generator)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited on Linux alone")
def test_memory_has_a_limit_and_a_leak_ends_with_its_worker(tmp_path):
    with pytest.raises(NothingMeasuredError, match=r"got greedy with none \(MemoryError: needed more than 200 MB\)"):
        toy_run(tmp_path / "run", Leaking(), Greedy(), Toy(), task=ToyTask(utterances=2), faithfulness=False, memory_mb=200)
    results = Results.read(tmp_path / "run")
    assert statuses(results, "greedy") == {("error", "MemoryError: needed more than 200 MB")}
    assert statuses(results, "leaking") == {("ok", "")}  # its worker was replaced before the leak could reach the limit
    assert statuses(results, "toy_explainer") == {("ok", "")}
    assert Leaking.kept == []  # nothing of it in this process
    with pytest.raises(NothingMeasuredError, match="got leaking with none"):
        toy_run(tmp_path / "small", Leaking(), task=SMALL, faithfulness=False, memory_mb=30)
    with pytest.raises(ValueError, match="memory_mb must be at least 1, got 0"):
        toy_run(tmp_path / "none", Toy(), memory_mb=0)


def test_a_steady_leak_fails_when_it_reaches_the_limit_and_not_before(tmp_path):
    """Six clips of 40 MB in one worker pass a limit of 150 MB three times; the worker after that starts afresh."""
    results = toy_run(tmp_path / "run", Leaking(), task=ToyTask(utterances=2), faithfulness=False, memory_mb=150)
    found = results.frame[(results.frame.explainer == "leaking") & (results.frame.metric == "forwards")]
    assert sorted(found.status) == ["error"] + ["ok"] * 5
    assert set(results.frame[results.frame.explainer == "energy"].status) == {"ok"}
