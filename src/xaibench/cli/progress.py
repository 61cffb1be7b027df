"""Progress bars of the command line: one bar for the whole job, and silence where the output is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(title: str) -> Iterator[Callable[..., None]]:
    """Yield ``advance(done, total)``; what else a job tells of itself is not drawn."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        job = progress.add_task(title, total=None)

        def advance(done: int, total: int, *_: object) -> None:
            progress.update(job, completed=done, total=total)

        yield advance


def emit(event: str, **facts: Any) -> None:
    """Print one event as a line of strict JSON."""
    import json

    import typer

    typer.echo(json.dumps({"event": event, **facts}, allow_nan=False))


@contextmanager
def events() -> Iterator[Callable[..., None]]:
    """Yield ``advance(done, total)`` that prints an event per second and one at the end; warnings of the job are events too."""
    import logging
    import time

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            emit(record.levelname.lower(), text=record.getMessage())

    handler, log = Handler(logging.INFO), logging.getLogger("xaibench")
    last = [-1.0]

    def advance(done: int, total: int, *_: object) -> None:
        now = time.monotonic()
        if now - last[0] >= 1 or done == total:
            emit("progress", done=done, total=total)
            last[0] = now

    log.addHandler(handler)
    try:
        yield advance
    finally:
        log.removeHandler(handler)
