"""The engine of one process: no workers, nothing to go wrong but the work itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xaibench.benchmark.executors.contract import Chunk, Executor, Work
from xaibench.benchmark.threads import one_thread
from xaibench.registry import EXECUTORS


@EXECUTORS.register("serial")
@dataclass(frozen=True)
class Serial(Executor):
    """Works in this process, with one thread. A plugin that kills its process ends the run; the same command goes on."""

    def execute(
        self, work: Work[Any, Any], chunks: Sequence[Chunk[Any]], stopping: Callable[[], bool], close_in_child: Sequence[int] = ()
    ) -> Iterator[Any]:
        """Yield the records in the order of the chunks."""
        with one_thread():
            for chunk in chunks:
                if stopping():
                    return
                for record in work.run(chunk):
                    yield record
                    if stopping():
                        return
