"""How a run tells what it is doing, without knowing who listens: the command line draws a bar, a notebook may do otherwise."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

Progress = Callable[[int, int], None]
"""Told how much of the whole job is done and how much there is; the total is corrected once the explanations are known."""

log = logging.getLogger("xaibench")


class Ticker:
    """Adds up the work of a job for its listener."""

    def __init__(self, listener: Progress | None):
        self._listener = listener
        self._done = 0
        self._total = 0

    def expect(self, total: int) -> None:
        """Set how much is left from here."""
        self._total = self._done + total
        self.advance(0)

    def advance(self, amount: int) -> None:
        """Take note that so much more is done."""
        self._done += amount
        if self._listener is not None:
            self._listener(self._done, max(self._total, self._done))


class _Silent(logging.FileHandler):
    """A log that cannot be written (a full disk) must not end what it tells of, nor shout about itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is the library's)
        del record

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # the file cannot be opened
            self.handleError(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what was buffered does not fit
            super().close()


class LogFile:
    """Writes what the harness logs into a file of the run, with times, while its block runs."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> Self:
        self._handler = _Silent(self._path, delay=True, encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
        self._level = log.level
        log.setLevel(min(self._level or logging.INFO, logging.INFO))
        log.addHandler(self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            log.info("ended by %s: %s", kind.__name__, str(error).splitlines()[0] if str(error) else "no message")
        log.removeHandler(self._handler)
        log.setLevel(self._level)
        self._handler.close()


class Drain:
    """Turns the first Ctrl-C into a request to finish what is under way; the second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __call__(self) -> bool:
        """Tell whether to stop."""
        return self.requested

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.warning("interrupted: finishing what is under way; press Ctrl-C again to abort")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
