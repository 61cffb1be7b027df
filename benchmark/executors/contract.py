"""What an engine is given and what it must give back. Engines know nothing of explainers: only chunks, items and records.

An engine may do chunks in any order, in any place, and more than once; every item is a function of its key, so the records are the same.
Workers keep no state and write nothing that lasts: the process that calls ``execute`` alone writes the journal.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from xaibench.benchmark.world import World

Item = TypeVar("Item")
Record = TypeVar("Record")


class WorkerDied(Exception):  # noqa: N818 (its name stands in the results)
    """A worker ended before its item did."""


@dataclass(frozen=True)
class Chunk(Generic[Item]):
    """Items that share what is costly to load: those of one clip."""

    subject: Any
    items: tuple[Item, ...]


def _nothing(_: Any) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Work(Generic[Item, Record]):
    """What is done with a chunk."""

    run: Callable[[Chunk[Item]], Iterator[Record]]
    """Yields exactly one record per item, in order."""
    lost: Callable[[Chunk[Item], Item, Exception], Record]
    """Makes the record of an item whose worker died, or was ended because the item took too long (``TimeoutError``)."""
    limit_s: float | None = None
    """Longest time for an item. Work should keep to it by itself; a worker that does not is ended."""
    log: Path | None = None
    """File that takes what is printed in workers, so that nothing tears the progress bar."""
    recycle: bool = False
    """Whether a worker whose item ran out of memory is replaced: what leaked is still there."""
    world: "World | None" = None
    """What ``run`` works with, for engines whose workers have another folder than this process; they set it to theirs."""
    reads: Callable[[Chunk[Item]], Sequence[str]] = _nothing
    """Hashes of the stored heatmaps that a chunk needs; sent along to workers with another folder."""
    writes: Callable[[Record], Sequence[str]] = _nothing
    """Hashes of the heatmaps that were stored with a record; fetched from workers with another folder."""


@dataclass(frozen=True)
class Executor(ABC):
    """An engine; its fields are its options. Registered with ``EXECUTORS.register``."""

    name: ClassVar[str] = ""

    @abstractmethod
    def execute(
        self, work: Work[Any, Any], chunks: Sequence[Chunk[Any]], stopping: Callable[[], bool], close_in_child: Sequence[int] = ()
    ) -> Iterator[Any]:
        """Yield the records of all chunks as they come; stop early, between items, once ``stopping()`` is true.

        Args:
            work: What to do.
            chunks: What to do it with.
            stopping: Asked between items.
            close_in_child: File descriptors that forked workers must not keep open.

        Raises:
            RunError: If the engine cannot go on. What was yielded before is valid.
        """

    def describe(self) -> str:
        """Return the engine in words, for the manifest."""
        return self.name
