"""What the harness does around a plugin at work: it counts the cost, seeds and restores random generators, and keeps the time."""

import random
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from xaibench.benchmark.units import Cost


class Meter:
    """Counts clips through the detector, forwards and backwards, while its block runs; ``cost`` is the bill."""

    def __init__(self, detector: nn.Module):
        self.detector = detector
        self.forwards = 0
        self.backwards = 0
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._start = time.perf_counter()
        self._seconds = 0.0

    def _count(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        clips = len(output) if output.ndim else 1
        self.forwards += clips
        if output.requires_grad:
            output.register_hook(lambda _: self._count_backward(clips))  # type: ignore[no-untyped-call]

    def _count_backward(self, clips: int) -> None:
        self.backwards += clips

    def __enter__(self) -> Self:
        self._hook = self.detector.register_forward_hook(self._count)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hook.remove()
        self._seconds = time.perf_counter() - self._start

    @property
    def cost(self) -> Cost:
        """The bill of the block."""
        return Cost(
            seconds=round(self._seconds, 6),
            forwards=self.forwards,
            backwards=self.backwards,
            peak_rss_mb=peak_rss_mb(),
            host=socket.gethostname(),
            started_at=self._started_at,
        )


def peak_rss_mb() -> float:
    """Peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


@contextmanager
def sealed_randomness(seed: int) -> Iterator[None]:
    """Seed every global generator for the block and put their states back after it, whatever the block drew."""
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    engines = [torch.default_generator, *(torch.cuda.default_generators if on_gpu else ())]
    states = random.getstate(), np.random.get_state(), [engine.get_state() for engine in engines]  # noqa: NPY002 (also what is legacy)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    for engine in engines:
        engine.manual_seed(seed)
    try:
        with torch.enable_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for engine, state in zip(engines, states[2], strict=True):
            engine.set_state(state)


_held: list[int] = []
"""Bytes that this process held before its first explanation; empty until then."""


@contextmanager
def memory_limit(megabytes: int | None) -> Iterator[None]:
    """Raise ``MemoryError`` in the block once the process holds this much more than before its first limited block.

    Counted are private data (``RLIMIT_DATA``), so what one block leaks is missing from the next one's allowance. Linux only, else without
    effect; memory of an accelerator is not counted.
    """
    if megabytes is None or not sys.platform.startswith("linux"):
        yield
        return
    if not _held:
        import pyarrow

        pyarrow.allocate_buffer(64)  # its pool reserves a gigabyte at the first use, which is no explainer's
        _held.append(_data_bytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _held[0] + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # how torch words it
            raise
        raise MemoryError(f"needed more than {megabytes} MB") from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Return what the kernel counts as data of this process."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 (no file of ours)
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise ``TimeoutError`` in the block after this many seconds; works in the main thread of a process on Unix, else has no effect."""
    import signal
    import threading

    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    message = f"took longer than {seconds:g} s"
    expired: list[bool] = []

    def expire(_number: int, _frame: Any) -> None:
        expired.append(True)
        raise TimeoutError(message)

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    if expired:  # and the block swallowed it
        raise TimeoutError(message)
