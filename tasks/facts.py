"""Small facts that are slow to find, kept in the cache: the hash of a file's samples, the alignment of two twins.

One SQLite file, ``facts.sqlite`` in the cache folder, safe for many processes. A fact is kept under the content that it was found from, so
it is never out of date; where the cache cannot be written, facts last as long as the process.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xaibench.tasks.audio import decoded_sha256, read_audio
from xaibench.tasks.cache import cache_dir

FILE = "facts.sqlite"
WAIT_S = 30.0
_connections: dict[tuple[int, Path], sqlite3.Connection] = {}
_memory: dict[tuple[Path, str, str], str] = {}


def remember(kind: str, key: str, find: Callable[[], Any], *, again: bool = False) -> Any:
    """Return the fact of this kind and key, found by ``find`` once and kept as JSON.

    Args:
        kind: What is known, with the version of the code that finds it, e.g. ``"alignment-v1"``.
        key: Content that it depends on.
        find: Called where the fact is not known; returns what JSON can hold.
        again: Find it anew, whatever is known.
    """
    home = cache_dir() / FILE
    text = None if again else _memory.get((home, kind, key)) or _read(home, kind, key)
    if text is None:
        text = json.dumps(find())
        _write(home, kind, key, text)
    _memory[home, kind, key] = text
    return json.loads(text)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a recording's decoded 16 kHz samples; a file of unchanged size and time is not read again.

    Raises:
        AudioError: If it cannot be read.
    """
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    return str(remember("samples-sha256", key, lambda: decoded_sha256(read_audio(path))))


def _connect(home: Path) -> sqlite3.Connection:
    """Return this process's own connection, since one must not cross a fork."""
    known = _connections.get((os.getpid(), home))
    if known is not None and home.exists():
        return known
    home.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(home, timeout=WAIT_S, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS facts (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID")
    _connections[os.getpid(), home] = connection
    return connection


def _read(home: Path, kind: str, key: str) -> str | None:
    try:
        row = _connect(home).execute("SELECT value FROM facts WHERE kind = ? AND key = ?", (kind, key)).fetchone()
    except (sqlite3.Error, OSError):
        return None
    return str(row[0]) if row else None


def _write(home: Path, kind: str, key: str, text: str) -> None:
    with contextlib.suppress(sqlite3.Error, OSError):
        _connect(home).execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (kind, key, text))
