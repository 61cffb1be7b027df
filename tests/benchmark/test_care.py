"""Run folders are verified, cleaned, salvaged and merged, and units that are made again say why."""

import logging
import shutil
from dataclasses import dataclass
from typing import ClassVar

import pytest
from toys import Toy, ToyTask, toy_run
from typer.testing import CliRunner

from xaibench.benchmark.care import gc, merge, recover, verify
from xaibench.benchmark.journal import Journal
from xaibench.cli import app
from xaibench.errors import NothingMeasuredError, RunError

TASK = ToyTask(utterances=2)
BYTES = ("units.parquet", "curves.parquet", "summary.json")


def contents(path):
    return {name: (path / name).read_bytes() for name in BYTES}


def go(path, *explainers, **options):
    return toy_run(path, *(explainers or [Toy()]), task=TASK, **options).path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return go(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def test_verifying_finds_every_kind_of_damage(run):
    assert verify(run) == []
    blob = next((run / "heatmaps").iterdir())
    blob.write_bytes(blob.read_bytes()[:-20])
    assert verify(run) == [f"heatmap {blob.name[:64]} is missing or damaged"]
    (run / "DONE").write_text("another\n")
    assert "summary.json belongs to another run than DONE" in verify(run)
    with Journal(run / "journal.sqlite") as journal:
        journal.keep(set())
    assert any("explanations that the journal does not hold" in fault for fault in verify(run))
    (run / "units.parquet").write_bytes(b"torn")
    assert any("units.parquet must be readable" in fault for fault in verify(run))
    (run / "DONE").unlink()
    assert "the run is not finished: no DONE" in verify(run)
    with pytest.raises(RunError, match=r"run must be a folder with journal\.sqlite"):
        verify(run / "heatmaps")


class Once(Toy):
    """The toy explainer, which remembers how often it was asked."""

    name = "toy_explainer"
    asked: ClassVar[list[int]] = []

    def explain(self, waveform, detector, *, references=None, generator=None):
        self.asked.append(1)
        return super().explain(waveform, detector, generator=generator)


def test_the_parts_of_a_run_make_the_whole_when_they_are_merged(tmp_path):
    task = ToyTask(utterances=3)
    whole = toy_run(tmp_path / "whole", Once(), task=task)
    parts = [toy_run(tmp_path / f"part-{i}", Once(), task=task, shard=f"{i}/2") for i in (1, 2)]
    clips = [set(part.frame.pair) for part in parts]
    assert [len(c) for c in clips] == [6, 3]
    assert not clips[0] & clips[1]
    assert clips[0] | clips[1] == set(whole.frame.pair)
    taken, differing = merge(tmp_path / "merged", [part.path for part in parts])
    assert (taken > 0, differing) == (True, 0)
    Once.asked.clear()
    assert contents(toy_run(tmp_path / "merged", Once(), task=task).path) == contents(whole.path)
    assert Once.asked == []
    with pytest.raises(NothingMeasuredError, match="tasks must have test clips, got none for part 4 of 4"):
        toy_run(tmp_path / "empty", Once(), task=task, shard="4/4")
    for bad in ("0/2", "3/2", "1", "1/2/3", "-1/2"):
        with pytest.raises(ValueError, match="shard must be i/n"):
            toy_run(tmp_path / "bad", shard=bad)


def test_what_no_record_names_is_removed_and_nothing_else(run, whole):
    (run / "heatmaps" / ".abc.1.part").write_bytes(b"half")
    (run / "heatmaps" / f"{'0' * 64}.npy.zst").write_bytes(b"orphan")
    assert gc(run) == (2, 10)
    assert verify(run) == []
    go(run, Toy(), seed=1)
    heatmaps = len(list((run / "heatmaps").iterdir()))
    assert gc(run) == (0, 0)
    count, _ = gc(run, stale=True)
    assert 0 < count < heatmaps
    assert verify(run) == []
    again = CliRunner().invoke(app, ["gc", str(run)])
    assert again.output.startswith("0 files removed")


@pytest.mark.parametrize("pages", [1, 3])
def test_a_corrupt_page_costs_its_own_records_and_the_run_goes_on(run, whole, pages):
    journal = run / "journal.sqlite"
    with Journal(journal) as known:
        total = sum(1 for kind in ("explanation", "twins", "score") for _ in known.records(kind))
    content = bytearray(journal.read_bytes())
    for page in range(4, 4 + pages):
        content[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
    journal.write_bytes(bytes(content))
    assert any("damaged" in fault or "journal must be" in fault for fault in verify(run))
    with pytest.raises(RunError, match="or `xaibench recover` it"):
        go(run)
    count, damaged = recover(run)
    assert total * 0.5 < count < total
    assert damaged.read_bytes() == bytes(content)
    assert contents(go(run)) == contents(whole)
    assert verify(run) == []


def test_a_journal_of_rubbish_is_told(run):
    (run / "journal.sqlite").write_bytes(b"rubbish" * 4096)
    with pytest.raises(RunError, match="start --fresh"):
        recover(run)


def test_parts_merge_into_the_whole_without_explaining_again(tmp_path, whole, monkeypatch):
    go(tmp_path / "a", faithfulness=False)
    toy_run(tmp_path / "b", Toy(), task=TASK)
    with Journal(tmp_path / "b" / "journal.sqlite") as journal:
        some = sorted(r.key for r in journal.records("explanation"))[::2]
        journal.keep(set(some))
    taken, differing = merge(tmp_path / "out", [tmp_path / "b", tmp_path / "a"])
    assert taken > len(some)
    assert differing == 0
    assert merge(tmp_path / "out", [tmp_path / "a"]) == (0, 0)
    monkeypatch.setattr(Toy, "explain", lambda *_, **__: pytest.fail("explained again"))
    assert contents(go(tmp_path / "out")) == contents(whole)


@dataclass(frozen=True)
class Newer(Toy):
    version = "2"


def test_stale_units_say_why(run, caplog):
    with caplog.at_level(logging.WARNING, logger="xaibench"):
        go(run)
        assert caplog.messages == []  # nothing is stale
        go(run, Newer(), faithfulness=False)
    (said,) = caplog.messages
    assert said.startswith("toy_explainer: 6 explanations are stale because of another ")
    assert "version of the explainer" in said
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="xaibench"):
        go(run, Toy(), seed=2, faithfulness=False)
    assert any(said == "energy: 6 explanations are stale because of another seed; they are made again" for said in caplog.messages)
