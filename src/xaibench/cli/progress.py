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
