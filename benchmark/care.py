"""What a run folder may need besides running: verified, cleaned, salvaged, merged. All but verifying hold the folder's lock."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from xaibench.benchmark.folder import DONE, JOURNAL, MANIFEST, RunFolder
from xaibench.benchmark.heatmaps import heatmap_path, is_intact, store_packed
from xaibench.benchmark.journal import KINDS, Journal, Record
from xaibench.benchmark.manifest import read_manifest
from xaibench.benchmark.migrate import NEWEST, upgraded
from xaibench.benchmark.results import Results, write_summary
from xaibench.benchmark.units import SCHEMA_VERSION, Explanation
from xaibench.errors import RunError, XaibenchError

DEEPEST = 4
"""Hexadecimal digits to which the keys of a damaged journal are narrowed down: 65 536 ranges, read only where there is damage."""


def verify(run_dir: str | Path) -> list[str]:
    """Check a run folder whole and return a sentence for each fault: journal, heatmaps, tables, and that they belong together."""
    path = _existing(run_dir)
    faults: list[str] = []
    digests: set[str] = set()
    keys: set[str] = set()
    try:
        with Journal(path / JOURNAL, read_only=True) as journal:
            faults += journal.damage()
            for record in (record for kind in KINDS for record in journal.records(kind)):
                keys.add(record.key)
                digests |= {record.heatmap_sha256} - {""} if isinstance(record, Explanation) else set()
    except RunError as error:
        faults.append(str(error))
    faults += [f"heatmap {digest} is missing or damaged" for digest in sorted(digests) if not is_intact(path, digest)]
    if not (path / DONE).exists():
        return [*faults, f"the run is not finished: no {DONE}"]
    try:
        results = Results.read(path)
        missing = set(results.frame.key) - keys
        faults += [f"units.parquet names {len(missing)} explanations that the journal does not hold"] if missing else []
        if (path / DONE).read_text(encoding="utf-8").strip() != results.summary.run:
            faults.append("summary.json belongs to another run than DONE")
        _ = results.curves, results.timings
    except (XaibenchError, OSError, UnicodeError) as error:
        faults.append(str(error))
    return faults


def gc(run_dir: str | Path, stale: bool = False) -> tuple[int, int]:
    """Remove heatmaps that no record names and files that a crash left half written.

    Args:
        run_dir: Run folder.
        stale: Whether to remove explanations too that the tables of the finished run do not use.

    Returns:
        Files and bytes removed.
    """
    path = _existing(run_dir)
    with RunFolder(path), Journal(path / JOURNAL) as journal:
        if stale:
            journal.keep(set(Results.read(path).frame.key))
        named = {record.heatmap_sha256 for record in journal.records("explanation") if isinstance(record, Explanation)}
        kept = {heatmap_path(path, digest).name for digest in named if digest}
        doomed = [file for file in (path / "heatmaps").iterdir() if file.is_file() and file.name not in kept]
        size = sum(file.stat().st_size for file in doomed)
        for file in doomed:
            file.unlink()
    return len(doomed), size


def recover(run_dir: str | Path) -> tuple[int, Path]:
    """Salvage what can be read of a damaged journal; the damaged one is kept beside it under another name.

    Returns:
        Records salvaged, and where the damaged journal lies.

    Raises:
        RunError: If nothing can be read, or the folder cannot be written.
    """
    path = _existing(run_dir)
    with RunFolder(path) as folder:
        part = path / f"{JOURNAL}.part"
        part.unlink(missing_ok=True)
        count = 0
        with Journal(part) as fresh:
            for record in _readable(path / JOURNAL):
                fresh.put(record)
                count += 1
        if not count:
            part.unlink()
            raise RunError(f"journal must hold a record that can be read, got none in {path / JOURNAL}; start --fresh")
        number = next(n for n in range(1, 10_000) if not (path / f"{JOURNAL}.damaged-{n}").exists())
        damaged = path / f"{JOURNAL}.damaged-{number}"
        try:
            for ending in ("", "-wal", "-shm"):
                if (path / f"{JOURNAL}{ending}").exists():
                    (path / f"{JOURNAL}{ending}").replace(f"{damaged}{ending}")
            part.replace(path / JOURNAL)
        except OSError as error:
            raise folder.unwritable(error) from error
    return count, damaged


def _readable(path: Path) -> Iterator[Record]:
    """Yield every record that can be read: key ranges are narrowed down around damaged pages."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        database.execute("SELECT kind FROM records LIMIT 0")  # no database at all has no ranges to narrow down
        yield from _range(database, "")
    except sqlite3.Error as error:
        raise RunError(f"journal must be a database, got {path}: {error}; start --fresh") from error
    finally:
        database.close()


def _range(database: sqlite3.Connection, prefix: str) -> Iterator[Record]:
    """Yield the records whose keys begin with a prefix."""
    query = "SELECT kind, body FROM records WHERE key >= ? AND key < ?"
    try:
        rows = database.execute(query, (prefix, f"{prefix}g")).fetchall()
    except sqlite3.DatabaseError:
        if len(prefix) >= DEEPEST:
            return
        for digit in "0123456789abcdef":
            yield from _range(database, prefix + digit)
        return
    for kind, body in rows:
        try:
            yield KINDS[kind].model_validate(upgraded(kind, json.loads(body), "the journal"))  # type: ignore[misc]
        except (KeyError, ValueError, RunError):
            continue


def merge(out: str | Path, sources: Sequence[str | Path]) -> tuple[int, int]:
    """Put the work of several runs into one folder; the run command then finds there what any of them had done.

    Args:
        out: Run folder, new or one of this plan.
        sources: Run folders of the same release; finished or not.

    Returns:
        Records taken, and records of an explanation that two folders hold with different heatmaps (the first is kept).
    """
    taken = differing = 0
    with RunFolder(Path(out)), Journal(Path(out) / JOURNAL) as journal:
        known = {record.key: record for kind in KINDS for record in journal.records(kind)}
        for source in map(_existing, sources):
            with Journal(source / JOURNAL, read_only=True) as other:
                for record in (record for kind in KINDS for record in other.records(kind)):
                    mine = known.get(record.key)
                    if mine is not None and (mine.status == "ok" or record.status != "ok"):
                        differing += _heatmap(mine) != _heatmap(record) and record.status == "ok"
                        continue
                    if digest := _heatmap(record):
                        store_packed(Path(out), digest, _content(source, digest))
                    journal.put(record)
                    known[record.key] = record
                    taken += 1
    return taken, differing


def migrate(run_dir: str | Path) -> list[str]:
    """Write the documents of a run down as this release would have; what is new already is left alone, byte for byte.

    Returns:
        A sentence for each file that changed.

    Raises:
        RunError: If a newer release wrote one of them, or the folder cannot be written.
    """
    path = _existing(run_dir)
    told = []
    with RunFolder(path) as folder:
        before = _version_of(path)
        if before != SCHEMA_VERSION:
            with Journal(path / JOURNAL):  # brought up when it is opened for writing
                told.append(f"{JOURNAL}: schema {before} to {SCHEMA_VERSION}")
        if (path / MANIFEST).exists() and (old := _stated(path / MANIFEST)) != NEWEST["manifest"]:
            folder.write_json(MANIFEST, read_manifest(path / MANIFEST).model_dump(mode="json"))
            told.append(f"{MANIFEST}: schema {old} to {NEWEST['manifest']}")
        if (path / DONE).exists() and (old := _stated(path / "summary.json")) != NEWEST["summary"]:
            write_summary(folder, Results.read(path).summary)
            told.append(f"summary.json: schema {old} to {NEWEST['summary']}")
    return told


def _version_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"{(path / JOURNAL).absolute().as_uri()}?mode=ro", uri=True)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def _stated(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("schema_version", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path.name} must be JSON, got {path}: {error}; give the run's command again") from error


def _heatmap(record: Record) -> str:
    return record.heatmap_sha256 if isinstance(record, Explanation) else ""


def _content(source: Path, digest: str) -> bytes:
    try:
        return heatmap_path(source, digest).read_bytes()
    except OSError as error:
        raise RunError(f"heatmap must be there, got {digest} missing in {source}; give that run's command again") from error


def _existing(path: str | Path) -> Path:
    if not (Path(path) / JOURNAL).is_file():
        raise RunError(f"run must be a folder with {JOURNAL}, got {path}; see `xaibench run --out`")
    return Path(path)
