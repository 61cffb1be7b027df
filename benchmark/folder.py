"""The folder of a run: made, locked by one process, and never a folder that holds something else."""

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xaibench.benchmark.journal import Journal
from xaibench.errors import DataError, RunError
from xaibench.tasks.cache import atomic_write

MANIFEST = "manifest.json"
JOURNAL = "journal.sqlite"
DONE = "DONE"
RUN_LOG = "run.log"
_OURS = (
    JOURNAL,
    f"{JOURNAL}-wal",
    f"{JOURNAL}-shm",
    "heatmaps",
    "report",
    "units.parquet",
    "curves.parquet",
    "timings.parquet",
    "workers.log",
    RUN_LOG,
)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class RunFolder:
    """An exclusively locked run folder; the lock dies with the process."""

    def __init__(self, path: Path, fresh: bool = False):
        self.path = path
        self._lock: int | None = None
        try:
            self._refuse_foreign()
            (path / "heatmaps").mkdir(parents=True, exist_ok=True)
            self._acquire()
            if fresh:
                self._clear()
        except OSError as error:
            self.release()
            raise self.unwritable(error) from error

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"out must be a folder, got the file {self.path}; choose another name")
        if self.path.is_dir() and any(self.path.iterdir()) and not self._ours():
            raise RunError(f"out must be new, empty or a run folder, got {self.path} with other files in it; choose another name")

    def _ours(self) -> bool:
        """Tell whether a run lives here: by its journal or manifest, or by the bare beginnings that a crash at the start leaves."""
        if Journal.marks(self.path / JOURNAL):
            return True
        try:
            found = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return self._barely_begun()
        return isinstance(found, dict) and {"schema_version", "run", "suite"} <= found.keys()

    def _barely_begun(self) -> bool:
        names = {entry.name for entry in self.path.iterdir()}
        empty = all((self.path / name).stat().st_size == 0 for name in names & {JOURNAL})
        heatmaps = self.path / "heatmaps"
        return names <= {"heatmaps", "LOCK", JOURNAL, f"{JOURNAL}-journal"} and empty and heatmaps.is_dir() and not any(heatmaps.iterdir())

    def _acquire(self) -> None:
        name = self.path / "LOCK"
        if name.is_symlink() or (name.exists() and not name.is_file()):
            raise RunError(f"LOCK must be a plain file, got a link or device at {name}; choose another --out")
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise RunError(f"LOCK must be a plain file, got a device at {name}; choose another --out")
            self._flock(handle)
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BaseException:
            os.close(handle)
            raise
        self._lock = handle

    def _flock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "unknown"
            raise RunError(
                f"run folder must not be in use, got {self.path} held by {holder}; wait for it or choose another --out"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise RunError(
                f"out must be on a file system with locks, got {self.path}: {error.strerror}; choose an --out on a local disk"
            ) from error

    def _clear(self) -> None:
        for name in (*_OURS, MANIFEST, "summary.json", DONE):
            target = self.path / name
            shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink(missing_ok=True)
        (self.path / "heatmaps").mkdir()

    def unwritable(self, error: Exception) -> RunError:
        """Word a failure to write."""
        reason = getattr(error, "strerror", None) or str(error)
        return RunError(f"out must be a folder that can be written, got {self.path}: {reason}; free some space or choose another --out")

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            RunError: If the folder cannot be written.
        """
        try:
            atomic_write(self.path / name, content)
        except (OSError, DataError) as error:
            raise self.unwritable(error.__cause__ if isinstance(error.__cause__, OSError) else error) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write strict JSON, sorted and indented."""
        self.write(name, (json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())

    def forget_done(self) -> None:
        """Take back the mark of completeness while the run is under way."""
        (self.path / DONE).unlink(missing_ok=True)

    @property
    def lock_handle(self) -> int | None:
        """File descriptor of the lock, which forked workers close, so that it dies with this process alone."""
        return self._lock

    def release(self) -> None:
        """Give the folder free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
