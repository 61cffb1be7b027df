"""The engine of one machine: forked workers that do chunks in any order, with the same bits.

A worker is a forked process with one thread that takes a chunk, sends one record per item, and asks for the next. If it dies, the item
that it was at is recorded as lost, the rest of its chunk is given to a new worker, and everything else goes on.
"""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic

from xaibench.benchmark.executors.contract import Chunk, Executor, Item, Record, Work, WorkerDied
from xaibench.benchmark.executors.serial import Serial
from xaibench.benchmark.threads import one_thread
from xaibench.errors import RunError, XaibenchError
from xaibench.registry import EXECUTORS

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of ``malloc.h``."""
GRACE_S = 5.0
"""How far an item may overrun its limit before its worker is ended: it should have stopped by itself."""
LOADING_S = 30.0
"""Added for the first item of a chunk, before which the clip is loaded."""


@EXECUTORS.register("local")
@dataclass(frozen=True)
class Local(Executor):
    """Forked workers on this machine, each with one thread; a plugin that dies, hangs or leaks costs its own unit and nothing else."""

    jobs: int = 2
    """Worker processes."""

    def execute(
        self, work: Work[Any, Any], chunks: Sequence[Chunk[Any]], stopping: Callable[[], bool], close_in_child: Sequence[int] = ()
    ) -> Iterator[Any]:
        """Yield the records as they come."""
        if not chunks:
            return
        if sys.platform == "win32":  # cannot fork
            yield from Serial().execute(work, chunks, stopping)
            return
        pool = _Pool(work, chunks, min(self.jobs, len(chunks)), close_in_child)
        try:
            yield from pool.records(stopping)
        finally:
            pool.close()

    def describe(self) -> str:
        """Return name and workers."""
        return f"local:jobs={self.jobs}"


@dataclass
class _Worker(Generic[Item]):
    process: Any
    pipe: Connection
    chunk: Chunk[Item] | None = None
    done: int = 0
    since: float = 0.0
    """When the present item began."""
    overdue: bool = False


class _Pool(Generic[Item, Record]):
    def __init__(self, work: Work[Item, Record], chunks: Sequence[Chunk[Item]], jobs: int, close_in_child: Sequence[int]):
        self._context = multiprocessing.get_context("fork")
        self._work, self._left, self._close = work, iter(chunks), close_in_child
        self._returned: deque[Chunk[Item]] = deque()
        """What is left of the chunks of workers that died."""
        self._stop = self._context.Event()
        self._workers: list[_Worker[Item]] = []
        for _ in range(jobs):
            try:
                self._workers.append(self._start())
            except RunError:
                if not self._workers:
                    raise
                break  # the others do it all

    def _start(self) -> _Worker[Item]:
        ours, theirs = self._context.Pipe()
        others = [worker.pipe for worker in self._workers] + [ours]
        process = self._context.Process(target=_serve, args=(self._work, theirs, self._stop, others, self._close), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: workers use one thread and no locks of ours
            try:
                process.start()
            except OSError as error:
                ours.close()
                theirs.close()
                raise RunError(f"jobs must fit into memory, got no worker process: {error.strerror}; use fewer --jobs") from error
        theirs.close()
        return _Worker(process, ours)

    def records(self, stopping: Callable[[], bool]) -> Iterator[Record]:
        """Hand out chunks and collect records until both run dry."""
        for worker in self._workers:
            self._hand_out(worker, self._next())
        while busy := {worker.pipe: worker for worker in self._workers if worker.chunk is not None}:
            if stopping():
                self._stop.set()
                self._returned.clear()
                self._left = iter(())
            for pipe in wait(list(busy), timeout=0.5):
                yield from self._receive(busy[pipe])  # type: ignore[index]
            self._end_overdue()

    def _end_overdue(self) -> None:
        """End the workers whose item overran its limit: in code that no signal interrupts, or that swallows the ``TimeoutError``."""
        for worker in self._workers if self._work.limit_s is not None else ():
            allowed = (self._work.limit_s or 0.0) + GRACE_S + (0.0 if worker.done else LOADING_S)
            if worker.chunk is not None and not worker.overdue and time.monotonic() - worker.since > allowed:
                worker.overdue = True
                worker.process.kill()

    def _next(self) -> Chunk[Item] | None:
        return self._returned.popleft() if self._returned else next(self._left, None)

    def _hand_out(self, worker: _Worker[Item], chunk: Chunk[Item] | None) -> None:
        worker.chunk, worker.done, worker.since = chunk, 0, time.monotonic()
        if chunk is not None:
            with contextlib.suppress(OSError):  # it is dead, which is found out when it is listened to
                worker.pipe.send(chunk)

    def _receive(self, worker: _Worker[Item]) -> Iterator[Record]:
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # dead, maybe in the middle of a message
            yield from self._bury(worker)
            return
        if kind == "record":
            worker.done, worker.since = worker.done + 1, time.monotonic()
            yield content
        elif kind == "error":
            raise content
        elif kind == "retire":
            yield from self._bury(worker, retired=True)
        else:
            self._hand_out(worker, self._next())

    def _bury(self, worker: _Worker[Item], retired: bool = False) -> Iterator[Record]:
        """Record the item at which a worker died, and give the rest of its chunk to a new one; one that retired died at no item."""
        worker.process.join(timeout=1)
        worker.process.kill()
        worker.process.join()
        self._workers.remove(worker)
        worker.pipe.close()
        chunk = worker.chunk
        if chunk is not None and worker.done < len(chunk.items):
            if not retired:
                yield self._work.lost(chunk, chunk.items[worker.done], self._cause(worker))
            rest = chunk.items[worker.done + (not retired) :]
            if rest and not self._stop.is_set():
                self._returned.appendleft(replace(chunk, items=rest))
        if (following := self._next()) is not None:
            self._workers.append(self._start())
            self._hand_out(self._workers[-1], following)

    def _cause(self, worker: _Worker[Item]) -> Exception:
        if worker.overdue:
            return TimeoutError(f"took longer than {self._work.limit_s:g} s and could not be interrupted; its worker was ended")
        return WorkerDied(_cause_of_death(worker.process.exitcode))

    def close(self) -> None:
        """Dismiss the workers; those still at work are ended."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.pipe.send(None)
            if worker.chunk is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=10)
            worker.pipe.close()


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"worker process was ended by {name}" + (", most likely for want of memory" if name == "SIGKILL" else "")
    return f"worker process ended with exit code {exit_code}"


def _redirect(log: Path) -> None:
    """Send what this process prints to the end of a file, whether through Python or not."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: the kernel takes longer to hand out pages for a batch than we to fill them."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _do(work: Work[Any, Any], chunk: Chunk[Any], pipe: Connection, stop: Any) -> None:
    """Send the records of a chunk; ask for retirement after one that ran out of memory."""
    for record in work.run(chunk):
        pipe.send(("record", record))
        if work.recycle and _out_of_memory(record):
            pipe.send(("retire", None))
            pipe.recv()  # until the parent ends this process
        if stop.is_set():
            break
    pipe.send(("end", None))


def _out_of_memory(record: Any) -> bool:
    return getattr(getattr(record, "problem", None), "kind", "") == "MemoryError"


def _serve(work: Work[Any, Any], pipe: Connection, stop: Any, others: Sequence[Connection], close: Sequence[int]) -> None:
    """Life of a worker: chunks in, records out, until the parent says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent drains
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    for handle in close:
        os.close(handle)
    _keep_freed_memory()
    try:
        if work.log is not None:
            _redirect(work.log)
        with one_thread():
            while (chunk := pipe.recv()) is not None:
                _do(work, chunk, pipe, stop)
    except (EOFError, BrokenPipeError):  # the parent is gone
        os._exit(1)
    except XaibenchError as error:  # a full disk, say
        pipe.send(("error", error))
    except Exception:  # a fault of the harness, for plugins' are in their records
        pipe.send(("error", RuntimeError(f"worker failed\n{traceback.format_exc()}")))
    pipe.close()
    os._exit(0)  # not through the parent's exit handlers and open streams, whose locks its threads may have held at the fork
