"""What a metric says about itself: direction, range, chance level, source and cost, so that a table can sort and explain it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Family = Literal["localization", "faithfulness", "complexity", "sanity", "diagnostic"]


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
    """What dominates the time: "one sort", "2 (steps - 1) forwards", ..."""


class Metric:
    """Base of registered metrics: a frozen dataclass whose fields are the options, called like the pure function it stands for."""

    name: ClassVar[str] = ""
    info: ClassVar[MetricInfo]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Score; the arguments are those of the pure function named in the docstring of the subclass."""
        raise NotImplementedError(f"metric {self.name!r} has no pure function; read it from a run's results")
