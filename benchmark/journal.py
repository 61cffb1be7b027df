"""The journal of a run: every finished unit, the moment it is finished, in one SQLite file with one writer.

Write-ahead logging keeps the file valid through SIGKILL at any moment; at worst the last unit is made again.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from pydantic import BaseModel

from xaibench.benchmark.migrate import upgraded
from xaibench.benchmark.units import SCHEMA_VERSION, Explanation, Score, Twins
from xaibench.errors import RunError

APPLICATION_ID = 0x78616962
"""Stands in the first page of every journal, before anything else: a folder with such a file is a run's."""
KINDS: dict[str, type[BaseModel]] = {"explanation": Explanation, "twins": Twins, "score": Score}
_KIND_OF = {model: kind for kind, model in KINDS.items()}
Record = Explanation | Twins | Score


R = TypeVar("R", Explanation, Twins, Score)


class Stored(Generic[R]):
    """The records of one kind by key, read when they are asked for: a run holds as many as it looks at."""

    def __init__(self, journal: "Journal", model: type[R]):
        self._journal, self._kind = journal, _KIND_OF[model]
        self._model: type[R] = model

    def get(self, key: str) -> R | None:
        """Return a record, ``None`` if there is none."""
        found = self._journal.get(self._kind, key)
        return found if isinstance(found, self._model) else None

    def __contains__(self, key: str) -> bool:
        return self._journal.get(self._kind, key) is not None


class Journal:
    """Records by key. Open it as a context manager, in one process only; readers may open it with ``read_only``."""

    def __init__(self, path: Path, read_only: bool = False):
        self.path = path
        try:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}", uri=True, isolation_level=None)
            if not read_only:
                self._prepare()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise self._failure(error) from error
        if not 1 <= version <= SCHEMA_VERSION:
            raise RunError(f"journal must have schema {SCHEMA_VERSION}, got {version} in {path}; use the release that wrote it, or --fresh")
        self._old = version < SCHEMA_VERSION
        if self._old and not read_only:
            self._migrate()

    def _prepare(self) -> None:
        if self._db.execute("PRAGMA application_id").fetchone() == (0,):
            self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL) WITHOUT ROWID")
        if self._db.execute("PRAGMA user_version").fetchone() == (0,):
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _migrate(self) -> None:
        """Rewrite the records of an older release; all of them or none, and under the keys that they have."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for kind in KINDS:
                for record in list(self.records(kind)):
                    self.put(record)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        except (RunError, sqlite3.Error) as error:
            self._db.execute("ROLLBACK")
            raise error if isinstance(error, RunError) else self._failure(error) from error
        self._old = False

    @staticmethod
    def marks(path: Path) -> bool:
        """Tell whether a file is a journal of ours, without opening it as a database."""
        try:
            with path.open("rb") as stream:
                head = stream.read(72)
        except OSError:
            return False
        return head.startswith(b"SQLite format 3\0") and head[68:72] == APPLICATION_ID.to_bytes(4, "big")

    def put(self, record: Record) -> None:
        """Write one record; it replaces an older one of the same key.

        Raises:
            RunError: If the disk is full or the file was damaged.
        """
        try:
            self._db.execute(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (record.key, _KIND_OF[type(record)], record.model_dump_json())
            )
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def records(self, kind: str) -> Iterator[Record]:
        """Read all records of a kind (``"explanation"``, ``"twins"``, ``"score"``), by key.

        Raises:
            RunError: If a record cannot be read.
        """
        try:
            for (body,) in self._db.execute("SELECT body FROM records WHERE kind = ? ORDER BY key", (kind,)):
                yield self._record(kind, body)
        except (sqlite3.Error, ValueError) as error:  # no JSON, or not of this form
            raise self._failure(error) from error

    def get(self, kind: str, key: str) -> Record | None:
        """Read one record; ``None`` if there is none.

        Raises:
            RunError: If it cannot be read.
        """
        try:
            found = self._db.execute("SELECT body FROM records WHERE key = ? AND kind = ?", (key, kind)).fetchone()
            return self._record(kind, found[0]) if found else None
        except (sqlite3.Error, ValueError) as error:
            raise self._failure(error) from error

    def count(self, kind: str) -> int:
        """Return how many records of a kind there are."""
        try:
            return int(self._db.execute("SELECT count(*) FROM records WHERE kind = ?", (kind,)).fetchone()[0])
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def troubled(self) -> Iterator[Record]:
        """Read the scores that have a problem."""
        try:
            query = "SELECT body FROM records WHERE kind = 'score' AND instr(body, '\"problem\":{') ORDER BY key"
            for (body,) in self._db.execute(query):
                yield self._record("score", body)
        except (sqlite3.Error, ValueError) as error:
            raise self._failure(error) from error

    def _record(self, kind: str, body: str) -> Record:
        if self._old:
            return KINDS[kind].model_validate(upgraded(kind, json.loads(body), self.path))  # type: ignore[return-value]
        return KINDS[kind].model_validate_json(body)  # type: ignore[return-value]

    def damage(self) -> list[str]:
        """Let SQLite check every page; return a sentence if it finds damage."""
        try:
            found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            found = str(error)
        return [] if found == "ok" else [f"journal {self.path} is damaged: {' '.join(found.split())}"]

    def keep(self, keys: set[str]) -> None:
        """Drop the explanations that are not among these keys, with their scores, and shrink the file."""
        try:
            for record in list(self.records("explanation")):
                if record.key not in keys:
                    self._db.execute("DELETE FROM records WHERE key = ?", (record.key,))
            for score in list(self.records("score")):
                if isinstance(score, Score) and score.unit not in keys:
                    self._db.execute("DELETE FROM records WHERE key = ?", (score.key,))
            self._db.execute("VACUUM")
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Fold the write-ahead log into the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _failure(self, error: Exception) -> RunError:
        reason = str(error).splitlines()[0]
        remedy = "free some space or start --fresh, or `xaibench recover` it"
        return RunError(f"journal must be a file that can be read and written, got {self.path}: {reason}; {remedy}")
