"""The journal holds what was put into it, through kills and damage."""

import sqlite3

import pytest

from xaibench.benchmark.journal import Journal
from xaibench.benchmark.units import ClipRef, Cost, Explanation, Problem, Score, Twins, Unit
from xaibench.errors import RunError

CLIP = ClipRef(task="t", split="test", pair="p", utterance="u", speaker="s", vocoder="v", family="f", seen_vocoder=True)
UNIT = Unit(
    clip=CLIP,
    detector="d",
    explainer="e",
    identity={"pair": {"id": "p"}, "explainer": {"name": "e", "config": {}}, "stft": "g", "seed": 0},
)
RECORDS = [
    Explanation(key=UNIT.key, unit=UNIT, status="error", problem=Problem(kind="ValueError", message="no"), cost=Cost(seconds=0.1)),
    Twins(key="k2", clip=CLIP, detector="d", status="ok", bonafide=-1.25, spoof=0.1 + 0.2),
    Score(key="k3", unit=UNIT.key, stage="localization", polarity="declared", values={"dice": 1 / 3, "auroc": None}, why={"auroc": "x"}),
]


def everything(journal):
    return [record for kind in ("explanation", "twins", "score") for record in journal.records(kind)]


def test_records_come_back_bit_for_bit(tmp_path):
    with Journal(tmp_path / "j") as journal:
        for record in RECORDS:
            journal.put(record)
    with Journal(tmp_path / "j") as journal:
        assert everything(journal) == RECORDS
        assert RECORDS[1].gap == 0.1 + 0.2 + 1.25


def test_a_later_record_replaces_an_earlier_one(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.put(RECORDS[0])
        journal.put(RECORDS[0].model_copy(update={"status": "ok", "attempt": 2}))
        assert [(r.status, r.attempt) for r in journal.records("explanation")] == [("ok", 2)]


def test_readers_see_what_the_writer_has_put(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.put(RECORDS[1])
        with Journal(tmp_path / "j", read_only=True) as reader:
            assert everything(reader) == [RECORDS[1]]
            with pytest.raises(RunError, match="journal must be a file that can be read and written"):
                reader.put(RECORDS[2])


def test_damage_is_told_in_a_sentence(tmp_path):
    (tmp_path / "j").write_bytes(b"not a database" * 400)
    with pytest.raises(RunError, match="free some space or start --fresh"):
        Journal(tmp_path / "j")
    with Journal(tmp_path / "k") as journal:
        journal.put(RECORDS[1])
    with sqlite3.connect(tmp_path / "k") as raw:
        raw.execute("UPDATE records SET body = '{\"key\": 1}'")
    raw.close()
    with Journal(tmp_path / "k") as journal, pytest.raises(RunError, match="journal must be"):
        everything(journal)


def test_a_journal_of_another_release_is_not_touched(tmp_path):
    Journal(tmp_path / "j").close()
    with sqlite3.connect(tmp_path / "j") as raw:
        raw.execute("PRAGMA user_version = 7")
    raw.close()
    with pytest.raises(RunError, match="journal must have schema 1, got 7"):
        Journal(tmp_path / "j")
