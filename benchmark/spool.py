"""Lists that lie in a file instead of memory, and sorting that does: what makes a run of any number of clips need the memory of few."""

import contextlib
import heapq
import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Generic, TypeVar, overload

from xaibench.errors import RunError

T = TypeVar("T")

ROWS = 8192
"""Rows that are sorted in memory at once."""
BLOCK = 256
"""Rows that are read at once from each sorted part."""


class Spool(Sequence[T], Generic[T]):
    """Objects in the order in which they were appended; in memory is where each begins, eight bytes, and no more.

    They lie pickled in a file without a name, which ends with the process. What is read is a copy. Forked processes may read it too, as
    every read names its place.
    """

    def __init__(self, items: Iterable[T] = ()):
        handle, name = tempfile.mkstemp(prefix="xaibench-")
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108 (a bare name)
        self._handle = handle
        weakref.finalize(self, os.close, handle)
        self._ends = array("Q", [0])
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        """Put an object at the end."""
        content = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        start = self._ends[-1]
        try:
            for written in _parts(self._handle, content, start):
                start += written
        except OSError as error:
            place = tempfile.gettempdir()
            raise RunError(
                f"folder for temporary files must have room, got {place}: {error.strerror}; free some space or set TMPDIR"
            ) from error
        self._ends.append(start)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        place = range(len(self))[index]
        start, end = self._ends[place], self._ends[place + 1]
        found: T = pickle.loads(os.pread(self._handle, end - start, start))
        return found

    def __iter__(self) -> Iterator[T]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def _parts(handle: int, content: bytes, start: int) -> Iterator[int]:
    """Write all of a content, however much the system takes at once."""
    left = memoryview(content)
    while left:
        written = os.pwrite(handle, left, start)
        yield written
        left, start = left[written:], start + written


def merged(rows: Iterable[T], key: Callable[[T], Any]) -> Iterator[T]:
    """Yield rows in the order of their keys, as ``sorted`` does, with ``ROWS`` of them in memory while they are read.

    >>> list(merged([3, 1, 2], key=int))
    [1, 2, 3]
    """
    parts: list[Spool[tuple[T, ...]]] = []
    for some in batched_lists(rows, ROWS):
        some.sort(key=key)
        if not parts and len(some) < ROWS:
            yield from some  # all of them
            return
        parts.append(Spool(tuple(some[i : i + BLOCK]) for i in range(0, len(some), BLOCK)))
    yield from heapq.merge(*(chain.from_iterable(part) for part in parts), key=key)


def batched_lists(rows: Iterable[T], count: int) -> Iterator[list[T]]:
    """Yield rows by so many."""
    left = iter(rows)
    while some := list(islice(left, count)):
        yield some
