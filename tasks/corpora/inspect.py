"""The alignment of a corpus's pairs as a table: one row per pair, refused ones with the number that shows why."""

import csv
import io
import math
from collections.abc import Callable
from typing import Any

from xaibench.errors import AudioError, DataError, PairError
from xaibench.tasks.audio import read_audio
from xaibench.tasks.pairs import PairedTask
from xaibench.tasks.warping import Alignment, measure
from xaibench.types import Pair, Task

COLUMNS = (
    "pair",
    "vocoder",
    "lag_samples",
    "score",
    "residual_p50_ms",
    "residual_p95_ms",
    "matched",
    "drifts",
    "constant_p95_ms",
    "refused",
)


def alignment_table(task: Task, split: str, limit: int | None, progress: Callable[..., None] | None = None) -> tuple[str, int]:
    """Align the pairs of a split.

    Args:
        task: A corpus whose spoofs have twins.
        split: train, dev or test.
        limit: Only the first pairs.
        progress: Called with pairs done and pairs in all.

    Returns:
        The table as CSV, and how many pairs are refused.

    Raises:
        DataError: If the corpus has no twins, or its tree is not whole.
    """
    if task.truth in ("time", "none") or not isinstance(task, PairedTask):
        raise DataError(f"task must hold twins to align, got {task.name}; its clips are scored on the detector")
    pairs = task.pairs(split)  # type: ignore[arg-type]  # which says what a split must be
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    refused = 0
    for done, pair in enumerate(pairs[:limit], start=1):
        try:
            found = _alignment(task, pair)
            writer.writerow((pair.id, pair.vocoder, found.lag, *map(_number, _numbers(found)), ""))
        except (PairError, AudioError) as error:
            refused += 1
            writer.writerow((pair.id, pair.vocoder, *[""] * (len(COLUMNS) - 3), str(error)))
        if progress is not None:
            progress(done, len(pairs[:limit]))
    return buffer.getvalue(), refused


def _alignment(task: PairedTask, pair: Pair) -> Alignment:
    known: Any = getattr(task, "alignment", None)
    if known is not None:
        return known(task.complete(pair))  # type: ignore[no-any-return]
    root = task.root()
    return measure(read_audio(root / pair.bonafide), read_audio(root / pair.spoof))


def _numbers(found: Alignment) -> tuple[Any, ...]:
    return found.score, found.residual_p50_ms, found.residual_p95_ms, found.matched, bool(found.knots), found.constant_p95_ms


def _number(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if math.isnan(value) else f"{value:.3f}"
