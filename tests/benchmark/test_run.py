"""A run survives its explainers, its user and its machine, and gives the same bytes whatever happened on the way."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from toys import SUITE, Toy, ToyDetector, ToyTask, toy_run

from xaibench.benchmark.folder import RunFolder
from xaibench.benchmark.journal import Journal
from xaibench.benchmark.results import Results
from xaibench.benchmark.run import run
from xaibench.errors import NothingMeasuredError, RunError, UnitsFailedError, UnknownNameError

BYTES = ("units.parquet", "curves.parquet", "summary.json")
FAULTS = {"raises": "error", "nan": "invalid", "shape": "invalid", "double": "invalid", "vandal": "invalid"}


def contents(path):
    return {name: (path / name).read_bytes() for name in BYTES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    return toy_run(tmp_path_factory.mktemp("whole") / "run", Toy())


def outcomes(results, label):
    """Status and reason of an explainer by clip."""
    frame = results.frame
    rows = frame[(frame.explainer == label) & (frame.metric == "generalized_dice") & (frame.polarity == "declared")]
    return {row.pair: (row.status, row.why) for row in rows.itertuples()}


def script(body):
    """Python that knows the toy world, run in a process of its own."""
    source = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom toys import *\nfrom pathlib import Path\n"
    return [sys.executable, "-c", source + textwrap.dedent(body)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_explainer_fails_alone(tmp_path, whole, fault):
    before = torch.get_rng_state()
    results = toy_run(tmp_path / "run", Toy(), Toy(fault=fault), faithfulness=False)
    assert torch.equal(torch.get_rng_state(), before)
    found = outcomes(results, f"toy_explainer:fault={fault}")
    statuses = [status for status, _ in found.values()]
    assert statuses.count(FAULTS[fault]) == sum(why != "" for _, why in found.values()) > 0
    assert statuses.count("ok") > 0
    assert set(outcomes(results, "toy_explainer").values()) == {("ok", "")}
    pick = ["explainer", "pair", "recipe", "polarity", "metric"]
    same = whole.frame[(whole.frame.explainer == "toy_explainer") & (whole.frame.occluder == "")].set_index(pick).value
    mine = results.frame[results.frame.explainer == "toy_explainer"].set_index(pick).value
    assert mine.equals(same)  # neither the neighbour's vandalism nor its draws reached this one
    messages = {why for _, why in found.values() if why}
    expected = {
        "raises": "ZeroDivisionError: toy failure",
        "nan": "heatmap must be finite, got 2 cells",
        "shape": "heatmap must have shape (1, 129, 33), got (1, 128, 33)",
        "double": "heatmap must be float32, got float64",
        "vandal": "explainer must leave the detector as it found it, got a changed parameter slope",
    }
    assert all(expected[fault] in message and "\n" not in message for message in messages)


def test_failed_explanations_take_the_lowest_control_clip_by_clip(tmp_path):
    results = toy_run(tmp_path / "run", Toy(fault="raises"), faithfulness=False)
    frame = results.frame[(results.frame.metric == "generalized_dice") & (results.frame.polarity == "declared")]
    frame = frame.pivot(index="pair", columns="explainer", values="value")
    label = "toy_explainer:fault=raises"
    lowest = frame[["random", "constant", "energy"]].min(axis=1)
    imputed = frame[label].fillna(lowest)
    (row,) = [
        r for r in results.summary.rows if (r.explainer, r.metric, r.polarity, r.slice) == (label, "generalized_dice", "declared", "all")
    ]
    by_utterance = imputed.groupby(imputed.index.str[:3]).mean()
    assert row.n_failed == frame[label].isna().sum() > 0
    assert (row.n, row.n_total, row.interval_by, row.clusters_utterance, row.clusters_speaker) == (12, 12, "utterance", 4, 2)
    assert row.mean == pytest.approx(by_utterance.mean(), abs=1e-9)
    assert f"{row.n_failed} failed explanations take the lowest control" in row.note
    assert results.summary.n_by_status["error"] == row.n_failed


def test_an_explainer_that_does_not_apply_says_why_and_is_not_a_failure(tmp_path):
    results = toy_run(tmp_path / "run", Toy(), Toy(fault="refuses"), faithfulness=False, max_failures=0)
    assert set(outcomes(results, "toy_explainer:fault=refuses").values()) == {("not_applicable", "NotApplicableError: it has no layers")}
    rows = [r for r in results.summary.rows if r.explainer == "toy_explainer:fault=refuses"]
    assert {(r.mean, r.n, r.n_failed, r.tier, r.beats_best_control) for r in rows} == {(None, 0, 0, None, None)}
    assert all("not applicable" in r.note and "it has no layers" in r.note for r in rows)


def test_an_explainer_that_calls_itself_an_oracle_gets_no_twin_and_no_mercy(tmp_path):
    handed = []

    class Pretender(Toy):
        control = True
        oracle = True

        def explain(self, waveform, detector, *, references=None, generator=None):
            handed.append(references)
            return super().explain(waveform, detector, generator=generator)

    results = toy_run(tmp_path / "run", Pretender(), task=ToyTask(utterances=2), faithfulness=False)
    assert handed == [None] * 6
    assert {(r.control, r.oracle) for r in results.summary.rows if r.explainer == "toy_explainer"} == {(False, False)}
    assert {(r.control, r.oracle) for r in results.summary.rows if r.explainer == "oracle_mask"} == {(True, True)}


def test_a_recording_that_cannot_be_read_fails_its_own_units(tmp_path, whole):
    results = toy_run(tmp_path / "run", Toy(), task=ToyTask(broken="u02-beta"))
    found = outcomes(results, "toy_explainer")
    assert found.pop("u02-beta") == ("error", "OSError: toy recording is gone")
    assert set(found.values()) == {("ok", "")}
    assert results.summary.detectors[0].n_gated <= 11


def test_two_workers_give_the_bytes_of_one(tmp_path, whole):
    assert contents(toy_run(tmp_path / "two", Toy(), jobs=2).path) == contents(whole.path)


def test_a_worker_that_dies_costs_one_unit(tmp_path):
    results = toy_run(tmp_path / "run", Toy(fault="dies"), task=ToyTask(utterances=2), jobs=2, faithfulness=False)
    found = outcomes(results, "toy_explainer:fault=dies")
    assert {status for status, _ in found.values()} == {"ok", "error"}
    assert all("ended by SIGKILL" in why for status, why in found.values() if status == "error")
    assert {status for status, _ in outcomes(results, "oracle_mask").values()} == {"ok"}


def test_an_explainer_that_hangs_is_stopped(tmp_path):
    results = toy_run(tmp_path / "run", Toy(fault="hangs"), task=ToyTask(utterances=2), timeout_s=1.0, faithfulness=False)
    assert ("timeout", "TimeoutError: took longer than 1 s") in outcomes(results, "toy_explainer:fault=hangs").values()


@pytest.mark.parametrize("stop_at", [1, 40, 72, 100])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path, whole, monkeypatch, stop_at):
    put, count = Journal.put, [0]

    def crash(self, record):
        count[0] += 1
        if count[0] == stop_at:
            raise MemoryError("power cut")
        put(self, record)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "put", crash)
        with pytest.raises(MemoryError, match="power cut"):
            toy_run(tmp_path / "run", Toy())
    with pytest.raises(RunError, match="run must be finished"):
        Results.read(tmp_path / "run")
    monkeypatch.setattr(Journal, "put", lambda self, record: (count.append(1), put(self, record))[1])
    count.clear()
    resumed = toy_run(tmp_path / "run", Toy())
    assert contents(resumed.path) == contents(whole.path)
    total = len(whole.timings)
    assert len(count) == total - stop_at + 1  # nothing that was finished is done again


def test_sigkill_loses_nothing_that_was_finished(tmp_path, whole):
    body = f"toy_run(Path({str(tmp_path / 'run')!r}), Toy(pause_s=0.03), jobs=2)"
    process = subprocess.Popen(script(body), start_new_session=True)
    journal = tmp_path / "run" / "journal.sqlite"
    deadline = time.monotonic() + 60
    finished = 0
    while finished < 15 and time.monotonic() < deadline:
        time.sleep(0.05)
        if journal.exists() and process.poll() is None:
            try:
                with Journal(journal, read_only=True) as reader:
                    finished = sum(1 for _ in reader.records("explanation"))
            except RunError:  # not yet laid out
                continue
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert finished >= 15
    resumed = toy_run(tmp_path / "run", Toy())
    assert contents(resumed.path) == contents(whole.path)
    assert (resumed.timings.host != "").all()


def test_ctrl_c_drains_and_the_run_goes_on(tmp_path, whole):
    body = f"toy_run(Path({str(tmp_path / 'run')!r}), Toy(pause_s=0.2), jobs=2)"
    process = subprocess.Popen(script(body), stderr=subprocess.PIPE, text=True)
    blobs = tmp_path / "run" / "heatmaps"
    while process.poll() is None and (not blobs.exists() or len(list(blobs.iterdir())) < 8):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt: interrupted; the same command goes on in" in errors
    with Journal(tmp_path / "run" / "journal.sqlite") as journal:
        assert 4 <= len(list(journal.records("explanation"))) < 60
    assert not list(blobs.glob("*.part"))
    assert contents(toy_run(tmp_path / "run", Toy()).path) == contents(whole.path)


def test_failures_are_kept_until_retried(tmp_path):
    class Mending(Toy):
        """Fails until a file appears."""

        def misbehave(self, heatmap, detector):
            if not (tmp_path / "mended").exists():
                raise RuntimeError("not yet")
            return heatmap

    task = ToyTask(utterances=2)
    first = toy_run(tmp_path / "run", Mending(), task=task, faithfulness=False)
    (tmp_path / "mended").touch()
    again = toy_run(tmp_path / "run", Mending(), task=task, faithfulness=False)
    assert again.summary.n_by_status == first.summary.n_by_status != {"ok": 30}
    mended = toy_run(tmp_path / "run", Mending(), task=task, faithfulness=False, retry_errors=True)
    assert set(mended.summary.n_by_status) == {"ok"}
    assert sorted(set(mended.timings.attempt)) == [1, 2]


def test_a_lost_heatmap_is_made_again_and_a_damaged_one_is_told(tmp_path, whole):
    results = toy_run(tmp_path / "run", Toy())
    heatmaps = results.frame[results.frame.explainer == "toy_explainer"].heatmap_sha256.unique()
    lost, damaged = (results.path / "heatmaps" / f"{digest}.npy.zst" for digest in heatmaps[:2])
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-40])
    again = toy_run(tmp_path / "run", Toy())
    assert lost.exists()
    assert contents(again.path) == contents(whole.path)
    with pytest.raises(RunError, match="heatmap must be intact"):
        again.heatmap(heatmaps[1])
    fresh = toy_run(tmp_path / "run", Toy(), fresh=True)
    assert contents(fresh.path) == contents(whole.path)
    assert fresh.heatmap(heatmaps[1]).shape == (129, 33)


def test_one_run_per_folder(tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(RunError, match=rf"held by process {os.getpid()} on .*choose another --out"):
        toy_run(tmp_path / "run", Toy(), task=ToyTask(utterances=1))


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="out must be new, empty or a run folder"):
        toy_run(tmp_path, Toy())
    with pytest.raises(RunError, match="out must be a folder, got the file"):
        toy_run(tmp_path / "thesis.tex", Toy())
    with pytest.raises(RunError, match="out must be a folder that can be written"):
        toy_run(Path("/proc/xaibench"), Toy())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_ends_in_a_sentence_and_keeps_the_journal(tmp_path, whole):
    body = f"""
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (14_000, resource.RLIM_INFINITY))
    toy_run(Path({str(tmp_path / "run")!r}), Toy(), jobs=2)
    """
    ended = subprocess.run(script(body), capture_output=True, text=True, check=False)
    assert "xaibench.errors.RunError: " in ended.stderr.splitlines()[-1]
    assert "free some space" in ended.stderr.splitlines()[-1]
    assert contents(toy_run(tmp_path / "run", Toy()).path) == contents(whole.path)


def test_endings_that_are_errors_come_after_the_results(tmp_path):
    with pytest.raises(UnitsFailedError, match="at most 0 explanations may fail"):
        toy_run(tmp_path / "run", Toy(fault="raises"), task=ToyTask(utterances=2), max_failures=0, faithfulness=False)
    assert (tmp_path / "run" / "DONE").exists()
    with pytest.raises(NothingMeasuredError, match="tasks must have test clips, got none in toy"):
        toy_run(tmp_path / "none", Toy(), task=ToyTask(utterances=0))


def test_arguments_are_refused_before_anything_is_written(tmp_path):
    for options, error, message in (
        ({"limit": 0}, ValueError, "limit must be at least 1, got 0"),
        ({"jobs": 0}, ValueError, "jobs must be at least 1, got 0"),
        ({"device": "gpu9"}, ValueError, "device must be one that torch can use here, got 'gpu9' .*; use cpu"),
        ({"device": "meta"}, ValueError, "device must be one that torch can use here, got 'meta'"),
        ({"suite": "xaibench-v9"}, UnknownNameError, "suite must be one of xaibench-v1, grinberg2025, got 'xaibench-v9'"),
        ({"recipes": ["sym-flor60-v1"]}, UnknownNameError, "did you mean sym-floor60-v1"),
    ):
        with pytest.raises(error, match=message):
            toy_run(tmp_path / "run", Toy(), **options)
    with pytest.raises(UnknownNameError, match="explainer must be a registered name, got 'energi'; did you mean energy"):
        run(["energi"], [ToyTask()], ToyDetector(), out=tmp_path / "run", suite=SUITE)
    with pytest.raises(ValueError, match="tasks must be a list"):
        run([], "toy", ToyDetector(), out=tmp_path / "run", suite=SUITE)
    assert not (tmp_path / "run").exists()


def test_the_bar_reaches_its_end(tmp_path):
    ticks = []
    toy_run(tmp_path / "run", Toy(), task=ToyTask(utterances=1), progress=lambda done, total: ticks.append((done, total)))
    assert ticks == sorted(ticks, key=lambda tick: tick[0])
    assert ticks[-1][0] == ticks[-1][1] > 20


def test_the_run_keeps_a_log_of_what_failed_and_how_it_ended(tmp_path, monkeypatch):
    toy_run(tmp_path / "run", Toy(fault="raises"), task=ToyTask(utterances=2), faithfulness=False)
    lines = (tmp_path / "run" / "run.log").read_text().splitlines()
    failed = [line for line in lines if "error: toy_explainer:fault=raises on u0" in line]
    assert failed
    assert all(line.endswith("ZeroDivisionError: toy failure") for line in failed)
    monkeypatch.setattr(Journal, "put", lambda *_: (_ for _ in ()).throw(MemoryError("power cut")))
    with pytest.raises(MemoryError):
        toy_run(tmp_path / "other", Toy(), faithfulness=False)
    assert (tmp_path / "other" / "run.log").read_text().splitlines()[-1].endswith("INFO ended by MemoryError: power cut")


def test_events_are_lines_of_json(tmp_path, monkeypatch):
    import json

    from typer.testing import CliRunner

    from xaibench.benchmark import run as module
    from xaibench.cli import app

    original = module.run

    def toy(*_, progress, out, **__):
        with monkeypatch.context() as patched:
            patched.setattr(module, "run", original)
            return toy_run(out, Toy(), task=ToyTask(utterances=1), faithfulness=False, progress=progress)

    monkeypatch.setattr(module, "run", toy)
    ended = CliRunner().invoke(app, ["run", "--json", "--no-report", "--out", str(tmp_path / "run")])
    assert ended.exception is None
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {e["event"] for e in events} == {"progress", "end"}
    assert events[-1]["by_status"] == {"ok": 15}
    progress = [e for e in events if e["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"]
