"""What older releases wrote is read, brought up and scored by this one; what newer ones wrote is refused in one sentence."""

import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from toys import SUITE, Toy, ToyDetector, ToyTask, toy_run
from typer.testing import CliRunner

from xaibench.benchmark import journal, machine, migrate
from xaibench.benchmark.care import verify
from xaibench.benchmark.journal import Journal
from xaibench.benchmark.manifest import Manifest, read_manifest
from xaibench.benchmark.rescore import rescore
from xaibench.benchmark.results import Results
from xaibench.benchmark.units import Explanation
from xaibench.cli import app
from xaibench.errors import RunError
from xaibench.leaderboard.rows import read_run

OLD = sorted((Path(__file__).parent / "old_runs").iterdir())


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file() and p.name != "LOCK"}


def test_there_is_a_run_and_a_step_for_every_version():
    assert [path.name for path in OLD] == [f"schema-{n}" for n in range(1, len(OLD) + 1)]
    assert len(OLD) >= max(migrate.NEWEST.values()) - 1
    wanted = {(kind, n) for kind, newest in migrate.NEWEST.items() for n in range(1, newest)}
    assert set(migrate.MIGRATIONS) == wanted
    assert max(migrate.NEWEST[kind] for kind in migrate.RECORDS) == journal.SCHEMA_VERSION


@pytest.fixture(params=OLD, ids=lambda path: path.name)
def old(request, tmp_path):
    return shutil.copytree(request.param, tmp_path / "old")


def test_an_old_run_is_read_as_it_is(old):
    before = files(old)
    assert verify(old) == []
    manifest = read_manifest(old / "manifest.json")
    assert manifest.schema_version == migrate.NEWEST["manifest"]
    assert manifest.coverage is None  # unknown, not empty
    assert manifest.environment.packages["torch"]
    assert len(read_run(old).boards) == 1
    assert files(old) == before


def test_migrating_writes_it_down_and_scoring_goes_on(old):
    before = files(old)
    printed = CliRunner().invoke(app, ["migrate", str(old)], catch_exceptions=False).output
    assert "manifest.json: schema 1 to 2" in printed
    after = files(old)
    assert {name for name in after if after[name] != before[name]} == {"manifest.json"}
    again = CliRunner().invoke(app, ["migrate", str(old)], catch_exceptions=False)
    assert "is of this release already" in again.output
    assert files(old) == after
    assert verify(old) == []
    first = Results.read(old).frame
    scored = rescore(old, SUITE, tasks=[ToyTask(utterances=2)], detector=ToyDetector(), faithfulness=False).frame
    assert set(scored.key) == set(first.key)
    both = first.merge(scored, on=["key", "recipe", "polarity", "occluder", "metric"], suffixes=("_old", "_new"))
    assert len(both) == len(first)
    assert both.value_old.to_numpy() == pytest.approx(both.value_new.to_numpy(), rel=1e-4, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", ["manifest.json", "summary.json"])
def test_a_newer_document_is_refused_everywhere(old, name):
    found = json.loads((old / name).read_text())
    (old / name).write_text(json.dumps({**found, "schema_version": 99}))
    sentence = rf"{name[:-5]} must have schema \d or older, got 99 in .*; use the release that wrote it"
    with pytest.raises(RunError, match=sentence):
        read_run(old)
    with pytest.raises(RunError, match=sentence):
        read_manifest(old / name) if name == "manifest.json" else Results.read(old).summary
    refused = CliRunner().invoke(app, ["migrate", str(old)])
    assert isinstance(refused.exception, RunError)
    assert "got 99" in str(refused.exception)


@pytest.mark.parametrize(
    "damage", [{"moods": {}}, {"seed": "seven"}, {"schema_version": 0}, {"schema_version": True}, {"seed": float("nan")}]
)
def test_a_manifest_of_another_form_is_refused(old, damage):
    found = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps({**found, **damage}))
    with pytest.raises(RunError, match=r"manifest must be|schema_version must be a positive number"):
        read_manifest(old / "manifest.json")


def test_a_newer_journal_is_refused(old):
    with sqlite3.connect(old / "journal.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RunError, match=r"journal must have schema 1, got 99 in .*; use the release that wrote it"):
        Journal(old / "journal.sqlite")


def test_records_of_an_older_journal_pass_through_their_steps(old, monkeypatch):
    """As the next change of a record will do: a version that had another name for a field."""
    with Journal(OLD[0] / "journal.sqlite", read_only=True) as untouched:
        wanted = list(untouched.records("explanation"))
    with sqlite3.connect(old / "journal.sqlite") as database:
        rows = database.execute("SELECT key, body FROM records WHERE kind = 'explanation'").fetchall()
        for key, body in rows:
            changed = json.loads(body)
            changed["tries"] = changed.pop("attempt")
            database.execute("UPDATE records SET body = ? WHERE key = ?", (json.dumps(changed), key))
    database.close()
    monkeypatch.setitem(migrate.NEWEST, "explanation", 2)
    monkeypatch.setattr(journal, "SCHEMA_VERSION", 2)
    monkeypatch.setitem(
        migrate.MIGRATIONS, ("explanation", 1), lambda r: {**{k: v for k, v in r.items() if k != "tries"}, "attempt": r["tries"]}
    )
    with Journal(old / "journal.sqlite", read_only=True) as reading:
        read = list(reading.records("explanation"))
    with Journal(old / "journal.sqlite") as writing:
        written = list(writing.records("explanation"))
    for found in (read, written):
        assert all(isinstance(record, Explanation) and record.schema_version == 2 for record in found)
        assert [record.model_copy(update={"schema_version": 1}) for record in found] == wanted
    with sqlite3.connect(old / "journal.sqlite") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
        assert "tries" not in database.execute("SELECT group_concat(body) FROM records WHERE kind = 'explanation'").fetchone()[0]
    database.close()


def test_a_step_that_fails_leaves_the_journal_as_it_was(old, monkeypatch):
    monkeypatch.setitem(migrate.NEWEST, "score", 2)
    monkeypatch.setattr(journal, "SCHEMA_VERSION", 2)
    monkeypatch.setitem(migrate.MIGRATIONS, ("score", 1), lambda record: {**record, "mood": "gloomy"})
    with pytest.raises(RunError, match="journal must be a file that can be read"):
        Journal(old / "journal.sqlite")
    monkeypatch.undo()
    assert verify(old) == []


def test_the_manifest_tells_what_a_reader_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    run = toy_run(tmp_path / "run", Toy(fault="raises"), faithfulness=False)
    manifest = read_manifest(run.path / "manifest.json")
    assert manifest.coverage == {"error: ZeroDivisionError": manifest.coverage["error: ZeroDivisionError"], "ok": manifest.coverage["ok"]}
    assert sum(manifest.coverage.values()) == run.summary.n_units
    assert manifest.coverage["ok"] == run.summary.n_by_status["ok"]
    assert manifest.seconds > 0
    assert manifest.environment.variables["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "hush" not in (run.path / "manifest.json").read_text()
    assert {"pydantic", "torch", "pytest"} <= manifest.environment.packages.keys()
    assert manifest.explainers["energy"].distribution.startswith("xaibench ")
    assert manifest.explainers["toy_explainer:fault=raises"].distribution == ""
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def git(folder, *command):
    identity = ("-c", "user.name=n", "-c", "user.email=n@n", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", str(folder), *identity, *command], check=True, capture_output=True, text=True).stdout.strip()


def test_the_source_is_that_of_the_package_and_never_of_the_working_directory(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "repo" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package.parent, "init", "-q")
    git(package.parent, "remote", "add", "origin", "https://token@example.org/x.git")
    monkeypatch.setattr(machine.xaibench, "__file__", str(package / "__init__.py"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    read = machine.source.__wrapped__
    assert read() is None  # inside a repository, but no part of it
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "x")
    found = read()
    assert (found.git_sha, found.git_dirty) == (git(package, "rev-parse", "HEAD"), False)
    assert found.git_origin == "https://example.org/x.git"
    (package / "__init__.py").write_text("changed = 1")
    assert read().git_dirty
