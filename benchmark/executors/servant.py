"""What runs beside a Dask worker: a servant process that does the chunks, apart from the worker that talks to the scheduler.

A plugin that dies, hangs, leaks or holds the interpreter must not take the worker with it. So each worker keeps one servant; for every
chunk the servant forks like the engine of one machine does, with the same limits and the same records for what goes wrong.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from xaibench.errors import RunError, XaibenchError

Answer = list[tuple[Any, dict[str, bytes]]]
"""Records, each with the stored heatmaps that belong to it."""
_lock = threading.Lock()
_servants: dict[str, "_Servant"] = {}


def answer(name: str, payload: bytes, chunk: bytes, packed: dict[str, bytes]) -> Answer:
    """Do a chunk in the servant of this process; called by Dask.

    Args:
        name: SHA-256 of the payload.
        payload: Pickled ``Work``.
        chunk: Pickled ``Chunk``.
        packed: Stored heatmaps that the chunk needs, by hash.

    Raises:
        RunError: If the machine cannot do the work: a full disk, no memory for a process.
    """
    with _lock:  # a worker with several threads still has one servant, and one thread of computing
        servant = _servants.get(name)
        if servant is None or not servant.alive:
            dismiss()
            servant = _servants[name] = _Servant(payload)
        return servant.answer(chunk, packed)


def dismiss() -> None:
    """End the servant of this process, if there is one."""
    for servant in list(_servants.values()):
        servant.end()
    _servants.clear()


class _Servant:
    """The worker's side of the pipe."""

    def __init__(self, payload: bytes):
        import socket

        ours, theirs = socket.socketpair()
        try:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise RunError(f"worker must have room for a process, got {error.strerror}; use fewer workers per machine") from error
        finally:
            theirs.close()
        self._pipe = Connection(ours.detach())
        self._pipe.send_bytes(payload)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def answer(self, chunk: bytes, packed: dict[str, bytes]) -> Answer:
        try:
            self._pipe.send_bytes(chunk)
            self._pipe.send(packed)
            kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise RunError(f"servant must outlive its work, got its end ({self._process.returncode}); see the worker's log") from error
        if kind == "error":
            raise content
        found: Answer = content
        return found

    def end(self) -> None:
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        if self.alive:
            self._process.kill()
        self._process.wait()


def _serve(handle: int) -> None:
    """Life of a servant: the work first, then chunks until the worker is gone."""
    import cloudpickle

    from xaibench.benchmark.executors.local import Local

    pipe = Connection(handle)
    with tempfile.TemporaryDirectory(prefix="xaibench-", ignore_cleanup_errors=True) as place, contextlib.suppress(EOFError, OSError):
        folder = Path(place)
        (folder / "heatmaps").mkdir()
        work = cloudpickle.loads(pipe.recv_bytes())
        if work.world is not None:
            work.world.locate(folder)
        work = replace(work, log=folder / "workers.log")
        while True:
            chunk = cloudpickle.loads(pipe.recv_bytes())
            try:
                found = _chunk(work, chunk, pipe.recv(), folder, Local(1))
            except XaibenchError as error:
                pipe.send(("error", error))
            except Exception as error:  # a fault of the harness
                pipe.send(("error", RunError(f"worker must not fail, got {type(error).__name__}: {error}; see the worker's log")))
            else:
                pipe.send(("answer", found))


def _chunk(work: Any, chunk: Any, packed: dict[str, bytes], folder: Path, engine: Any) -> Answer:
    from xaibench.benchmark.heatmaps import heatmap_path

    for digest, content in packed.items():
        heatmap_path(folder, digest).write_bytes(content)
    found = []
    for record in engine.execute(work, [chunk], lambda: False):
        stored = {digest: heatmap_path(folder, digest).read_bytes() for digest in work.writes(record)}
        found.append((record, stored))
    for path in (folder / "heatmaps").iterdir():
        path.unlink()
    return found


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
