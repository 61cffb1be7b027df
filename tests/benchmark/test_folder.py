"""A run folder is known by what only a run writes; nothing else is ever locked, overwritten or cleared."""

import errno
import fcntl
import json
import os
import sqlite3

import pytest

from xaibench.benchmark.folder import JOURNAL, MANIFEST, RunFolder
from xaibench.benchmark.journal import Journal
from xaibench.errors import RunError


def listing(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def foreign(path, kind):
    path.mkdir()
    (path / "units.parquet").write_bytes(b"somebody's table")
    (path / "heatmaps").mkdir()
    (path / "heatmaps" / "world.png").write_bytes(b"somebody's map")
    if kind == "lock":
        (path / "LOCK").write_bytes(b"")
    if kind == "manifest":
        (path / MANIFEST).write_text(json.dumps({"name": "a web app", "icons": []}))
    if kind == "list":
        (path / MANIFEST).write_text(json.dumps(["schema_version", "run", "suite"]))
    if kind == "journal":
        with sqlite3.connect(path / JOURNAL) as other:
            other.execute("PRAGMA user_version = 1")
            other.execute("CREATE TABLE diary (day TEXT)")
        other.close()


@pytest.mark.parametrize("kind", ["bare", "lock", "manifest", "list", "journal"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_somebody_else_is_not_touched(tmp_path, kind, fresh):
    path = tmp_path / "theirs"
    foreign(path, kind)
    before = listing(path)
    with pytest.raises(RunError, match="out must be new, empty or a run folder"):
        RunFolder(path, fresh=fresh)
    assert listing(path) == before


def test_a_run_is_known_by_its_journal_or_its_manifest(tmp_path):
    path = tmp_path / "run"
    with RunFolder(path):
        pass
    with RunFolder(path), Journal(path / JOURNAL):  # a crash right after the start leaves a lock alone
        (path / "workers.log").touch()
    with RunFolder(path) as folder:
        folder.write_json(MANIFEST, {"schema_version": 1, "run": "x", "suite": "y"})
    (path / JOURNAL).write_bytes(b"damaged")
    with RunFolder(path, fresh=True):
        assert sorted(p.name for p in path.iterdir()) == ["LOCK", "heatmaps"]


def test_a_lock_that_is_a_link_or_a_pipe_is_refused(tmp_path):
    path, victim = tmp_path / "run", tmp_path / "victim"
    victim.write_text("years of work")
    with RunFolder(path), Journal(path / JOURNAL):
        pass
    (path / "LOCK").unlink()
    (path / "LOCK").symlink_to(victim)
    with pytest.raises(RunError, match="LOCK must be a plain file"):
        RunFolder(path)
    (path / "LOCK").unlink()
    os.mkfifo(path / "LOCK")
    with pytest.raises(RunError, match="LOCK must be a plain file"):
        RunFolder(path)
    assert victim.read_text() == "years of work"


def test_a_link_in_the_folder_is_removed_and_not_followed(tmp_path):
    path, victim = tmp_path / "run", tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.tex").write_text("years of work")
    with RunFolder(path), Journal(path / JOURNAL):
        (path / "report").symlink_to(victim)
    with RunFolder(path, fresh=True):
        assert not (path / "report").exists()
    assert (victim / "thesis.tex").read_text() == "years of work"


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"out must be on a file system with locks, got .*: No locks available"):
        RunFolder(tmp_path / "run")
