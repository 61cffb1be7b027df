"""What a metric says about itself: direction, range, chance level, source and cost, so that a table can sort and explain it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from xaibench.registry import METRICS
from xaibench.types import asdict_shallow

Family = Literal["localization", "faithfulness", "causal", "complexity", "sanity", "diagnostic"]
VARIANTS = {"_random": "of a random order", "_soft": "of the soft mask", "_all": "of keeping everything"}
"""Suffixes of columns that repeat a metric on another explanation of the same clip."""
AT_AREA = re.compile(r"^(?P<metric>\w+)_at_(?P<percent>[0-9.]+)$")
"""Columns of a confidence metric at another share of the cells than the suite's first."""


@dataclass(frozen=True)
class MetricInfo:
    """The record of one metric; ``name`` is the column in every results file."""

    name: str
    title: str
    higher_is_better: bool
    low: float
    """Lowest possible value; minus infinity for log-odds."""
    high: float
    chance: str
    """Value of an explanation without information, in words; m is the masked share of the clip's cells."""
    reference: str
    family: Family
    unit: str = ""
    cost: str = "one sort"
    """What dominates the time."""


class Metric:
    """Base of registered metrics: a frozen dataclass whose fields are options, called like the pure function that it stands for."""

    name: ClassVar[str] = ""
    info: ClassVar[MetricInfo]
    title: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    function: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls) -> None:
        """Show the record's title and source wherever plugins are described."""
        cls.title, cls.reference = cls.info.title, cls.info.reference

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Score; the arguments are those of the pure function, the fields its options."""
        return type(self).function(*args, **asdict_shallow(self), **kwargs)


def info(name: str) -> MetricInfo:
    """Return the record of a column.

    Variants of a metric (``_random``, ``_soft``, ``_all``, ``_at_<percent>``) compete with nobody.

    Raises:
        UnknownNameError: If no metric bears the name.
    """
    at = AT_AREA.match(name)
    if at:
        base = info(at["metric"])
        return replace(base, name=name, title=f"{base.title} at {at['percent']} % of the cells", family="diagnostic")
    for suffix, words in VARIANTS.items():
        if name.endswith(suffix):
            base = info(name.removesuffix(suffix))
            return replace(base, name=name, title=f"{base.title} {words}", family="diagnostic")
    record: MetricInfo = METRICS.get(name).info
    return record
