"""The engine of many machines: Dask distributed, on this machine, at a scheduler's address, or under Slurm.

A task is one chunk. Its worker holds no state: the world comes by hash, the heatmaps to be scored come with the chunk, and records and new
heatmaps go back; this process alone writes the run folder, so workers need no common file system but the recordings. Chunks are repeated
when a worker is lost, which is safe, as a record is a function of its key. Dask moves pickles: use it inside a trusted network only.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from xaibench.benchmark.executors.contract import Chunk, Executor, Work, WorkerDied
from xaibench.benchmark.executors.servant import answer, dismiss
from xaibench.benchmark.heatmaps import heatmap_path, store_packed
from xaibench.errors import MissingExtraError, RunError
from xaibench.registry import EXECUTORS

AHEAD = 2
"""Chunks under way for each worker: one at work and one waiting, so that nobody idles and a stop is soon obeyed."""
CONNECT_S = 30
LOSSES = 20
"""Chunks that are sent once more before the scheduler is held to be broken."""
POLL_S = 0.5


@EXECUTORS.register("dask")
@dataclass(frozen=True)
class Dask(Executor):
    """Workers of one thread each under a Dask scheduler."""

    workers: int = 2
    """Workers to start; with ``scheduler`` those that are there are used."""
    scheduler: str = ""
    """Address of a running scheduler, such as tcp://host:8786."""
    slurm: bool = False
    """Start the workers as Slurm jobs, as dask-jobqueue is configured (jobqueue.yaml); one core and 4 GB each where it is not."""
    patience_s: int = 300
    """How long to wait for the first worker: a queue may be long."""

    def describe(self) -> str:
        """Return the kind of cluster, never an address."""
        return "dask:slurm" if self.slurm else "dask:scheduler" if self.scheduler else f"dask:workers={self.workers}"

    def execute(
        self, work: Work[Any, Any], chunks: Sequence[Chunk[Any]], stopping: Callable[[], bool], close_in_child: Sequence[int] = ()
    ) -> Iterator[Any]:
        """Yield the records of each chunk when it is done."""
        if not chunks:
            return
        with self._client(work.log) as client:
            yield from _Flow(client, work).records(chunks, stopping)

    @contextlib.contextmanager
    def _client(self, log: Path | None) -> Iterator[Any]:
        """Connect; end what was started, and leave alone what was not."""
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingExtraError("executor 'dask' needs distributed, which is not installed; pip install 'xaibench[dask]'") from error
        with contextlib.ExitStack() as stack:
            try:
                cluster = None if self.scheduler else stack.enter_context(self._cluster())
                client = stack.enter_context(Client(cluster or self.scheduler, timeout=CONNECT_S))
                if cluster is not None and not self.slurm:
                    stack.enter_context(_processes(cluster.scheduler_address, self.workers, log))
                client.wait_for_workers(1, timeout=self.patience_s)
            except (OSError, TimeoutError) as error:
                place = self.scheduler or "the cluster"
                raise RunError(f"scheduler must answer and have a worker, got {place}: {error or 'no worker'}; start some") from error
            yield client
            with contextlib.suppress(Exception):  # it may be gone
                client.run(dismiss)

    def _cluster(self) -> Any:
        """Start a scheduler on the loopback; its own page, which cannot be switched off, takes any free port."""
        if not self.slurm:
            from distributed import LocalCluster

            return LocalCluster(n_workers=0, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50)
        try:
            import dask.config
            from dask_jobqueue import SLURMCluster
        except ImportError as error:
            raise MissingExtraError("--slurm needs dask-jobqueue, which is not installed; pip install 'xaibench[dask]'") from error
        known = dask.config.get("jobqueue.slurm", {}) or {}
        asked = {name: value for name, value in {"cores": 1, "processes": 1, "memory": "4GB"}.items() if not known.get(name)}
        cluster = SLURMCluster(**asked)
        cluster.scale(jobs=self.workers)
        return cluster


@contextlib.contextmanager
def _processes(address: str, count: int, log: Path | None) -> Iterator[None]:
    """Run workers of one thread as programs of their own.

    Dask's would import the caller's main module again, and so start again what stands in a script without a guard. They are sessions of
    their own too: Ctrl-C is for the coordinator, which drains. Each is minded by Dask's nanny, which replaces it when it dies.
    """
    roads = filter(None, (*sys.path, os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roads), "OMP_NUM_THREADS": "1"}
    options = ("--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--host", "127.0.0.1", "--death-timeout", f"{2 * CONNECT_S}")
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="xaibench-dask-", ignore_cleanup_errors=True) as place, contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log is not None else subprocess.DEVNULL
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, *options, "--local-directory", place]
        try:
            for _ in range(count):
                started.append(
                    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
                )
            yield
        finally:
            for process in started:
                process.terminate()
            for process in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # whatever is left of it
                process.wait()


class _Flow:
    """One stage on a connected cluster."""

    def __init__(self, client: Any, work: Work[Any, Any]):
        import cloudpickle

        self.client, self.work = client, work
        self.folder = work.world.folder if work.world is not None else Path()
        self.payload = cloudpickle.dumps(work)
        self.name = sha256(self.payload).hexdigest()
        self.waiting: dict[Any, Chunk[Any]] = {}
        self.returned: deque[Chunk[Any]] = deque()
        """Chunks that went down with the only worker that held the work; sent once more."""
        self.losses = 0
        self.shared: Any = None

    def records(self, chunks: Sequence[Chunk[Any]], stopping: Callable[[], bool]) -> Iterator[Any]:
        left = iter(chunks)
        try:
            self.shared = self.client.scatter(self.payload, hash=False)
            while True:
                if not stopping():
                    self._send(left)
                if not self.waiting:
                    return
                for future in self._done():
                    yield from self._receive(future)
        except (OSError, TimeoutError, CancelledError) as error:
            raise self._gone(error) from error

    def _send(self, left: Iterator[Chunk[Any]]) -> None:
        room = AHEAD * max(1, len(self.client.scheduler_info(n_workers=-1)["workers"])) - len(self.waiting)
        for _ in range(room):
            chunk = self.returned.popleft() if self.returned else next(left, None)
            if chunk is None:
                return
            import cloudpickle

            packed = {digest: heatmap_path(self.folder, digest).read_bytes() for digest in self._stored(chunk)}
            future = self.client.submit(answer, self.name, self.shared, cloudpickle.dumps(chunk), packed, pure=False)
            self.waiting[future] = chunk

    def _stored(self, chunk: Chunk[Any]) -> list[str]:
        """Return the heatmaps that are there; one that is missing is told by the scorer, as on one machine."""
        return [digest for digest in self.work.reads(chunk) if heatmap_path(self.folder, digest).exists()]

    def _done(self) -> list[Any]:
        from distributed import wait

        with contextlib.suppress(TimeoutError, CancelledError):  # which are cancelled is asked below
            wait(list(self.waiting), timeout=POLL_S, return_when="FIRST_COMPLETED")
        if self.client.status != "running":
            raise ConnectionError("connection closed")
        return [future for future in self.waiting if future.done()]

    def _receive(self, future: Any) -> Iterator[Any]:
        from distributed import KilledWorker

        chunk = self.waiting.pop(future)
        if future.cancelled():
            self._again(chunk)
            return
        try:
            found = future.result()
        except KilledWorker as error:
            for item in chunk.items:
                yield self.work.lost(chunk, item, WorkerDied(f"{error.allowed_failures + 1} workers were lost at it"))
            return
        for record, packed in found:
            for digest, content in packed.items():
                store_packed(self.folder, digest, content)
            yield record

    def _again(self, chunk: Chunk[Any]) -> None:
        """Take back a chunk that Dask gave up, because the work that was handed out once for all went down with its workers."""
        self.losses += 1
        if self.losses > LOSSES:
            raise ConnectionError(f"work was cancelled {LOSSES} times")
        self.returned.append(chunk)
        if self.shared.cancelled() or self.shared.status != "finished":
            self.shared = self.client.scatter(self.payload, hash=False)

    def _gone(self, error: BaseException) -> RunError:
        return RunError(f"scheduler must stay reachable, got {error or type(error).__name__}; start it again, the same command goes on")
