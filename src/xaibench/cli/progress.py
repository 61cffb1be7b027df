"""Progress bars of the command line: one bar for the whole job, and silence where the output is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def _columns() -> tuple[Any, ...]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


@contextmanager
def download_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``advance(done, total)``."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(*_columns(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


@contextmanager
def run_bar() -> Iterator[Any]:
    """Yield the progress callback of a run."""
    with download_bar("run") as advance:
        yield advance
