"""Faithfulness curves between the detector, the journal and the tables.

What the detector answered is stored whole; scores are read off the answers at the end, because how far an occluder leaves the detector's
range can be said only once the twins of all clips of the run have been heard.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from xaibench.benchmark.metrics.faithfulness import known_range, summary, undefined_reason
from xaibench.benchmark.metrics.probe import Curves
from xaibench.benchmark.units import Score

ORDERS = {
    "most_first_deletion": "deletion",
    "most_first_insertion": "insertion",
    "least_first_deletion": "least_first",
    "random_deletion": "random_deletion",
    "random_insertion": "random_insertion",
}
"""Order in ``curves.parquet`` to attribute of ``Curves``."""


def pack(curves: Curves) -> dict[str, list[float]]:
    """Return the numbers of curves as plain lists."""
    found = {f.name: getattr(curves, f.name) for f in fields(curves) if f.name != "occluder"}
    return {name: [float(v) for v in value] for name, value in found.items() if value is not None}


def unpack(occluder: str, stored: dict[str, list[float]]) -> Curves:
    """Undo ``pack``."""
    values: dict[str, Any] = {name: np.array(numbers, np.float64) for name, numbers in stored.items()}
    values["budgets"] = tuple(stored["budgets"])
    if "soft" in stored:
        values["soft"] = (stored["soft"][0], stored["soft"][1])
    return Curves(occluder=occluder, **values)


def score_range(answers: Iterable[float]) -> tuple[float, float] | None:
    """Return the range of the log-odds that the detector gave to the clips of the run; ``None`` where it answered none."""
    heard = list(answers)
    return known_range(heard) if heard else None


def with_values(score: Score, gap: float | None, known: tuple[float, float] | None) -> Score:
    """Return the record of a curve with its scores."""
    if score.status != "ok" or not score.curves:
        return score
    raw = summary(unpack(score.occluder, score.curves), gap, known)
    values = {name: value if np.isfinite(value) else None for name, value in raw.items()}
    why = {name: undefined_reason(name, gap, known) or "undefined for this clip" for name, value in values.items() if value is None}
    return score.model_copy(update={"values": values, "why": why})


def series(score: Score) -> Iterator[tuple[str, list[float], list[float]]]:
    """Yield order, fractions and log-odds of the curves in a record."""
    if score.curves:
        curves = unpack(score.occluder, score.curves)
        for order, name in ORDERS.items():
            yield order, curves.fractions.tolist(), np.asarray(getattr(curves, name)).tolist()
