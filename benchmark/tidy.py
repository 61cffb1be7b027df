"""Records to long tables: one row per clip, explainer and metric, with nothing that another machine would write differently."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from xaibench.benchmark.curves import series
from xaibench.benchmark.units import Explanation, Score, Twins, Unit

if TYPE_CHECKING:
    from xaibench.benchmark.session import Finished

UNIT_COLUMNS = (
    "key",
    "task",
    "split",
    "pair",
    "utterance",
    "speaker",
    "vocoder",
    "family",
    "seen_vocoder",
    "detector",
    "explainer",
    "recipe",
    "polarity",
    "occluder",
    "metric",
    "value",
    "why",
    "status",
    "heatmap_sha256",
)
UNIT_ORDER = ("task", "detector", "explainer", "recipe", "polarity", "occluder", "metric", "pair", "key")

DIAGNOSTIC = "diagnostic:"
"""Before the names that explainers give to their own errors, so that none passes for a metric."""

Column = tuple[str, str, str, str]
"""Recipe, polarity, occluder and metric of a value."""


class Tidy:
    """Builds the long tables of a run from its clips, one at a time.

    Args:
        finished: Gives the clips of the run with their records; called once for the tables, and once more where a unit has failed.
    """

    def __init__(self, finished: Callable[[], Iterable["Finished"]]):
        self.finished = finished

    @cached_property
    def metrics(self) -> dict[str, list[str]]:
        """Metrics that were measured by occluder: failed units show empty values for the same ones."""
        names: dict[str, set[str]] = defaultdict(set)
        for clip in self.finished():
            for item in (item for items in clip.lists.items.values() for item in items):
                if item.key in clip.scores:
                    names[item.occluder] |= set(clip.scores[item.key].values)
        return {occluder: sorted(found) for occluder, found in names.items()}

    def units(self, clip: "Finished") -> Iterator[dict[str, Any]]:
        """Yield the rows of ``units.parquet``."""
        ref = clip.clip.ref.model_dump()
        for unit in clip.units:
            record = clip.explanations.get(unit.key)
            if record is None:
                continue
            base = {
                "key": unit.key,
                **ref,
                "detector": unit.detector,
                "explainer": unit.explainer,
                "heatmap_sha256": record.heatmap_sha256,
            }
            for (recipe, polarity, occluder, metric), value, why, status in self._cells(clip, unit, record):
                place = {"recipe": recipe, "polarity": polarity, "occluder": occluder, "metric": metric}
                yield {**base, **place, "value": value, "why": why, "status": status}

    def _cells(self, clip: "Finished", unit: Unit, record: Explanation) -> Iterator[tuple[Column, float | None, str, str]]:
        for metric in ("forwards", "backwards"):
            count = float(getattr(record.cost, metric)) if record.status == "ok" else None
            yield (unit.recipe, "declared", "", metric), count, _why(record), record.status
        if record.status != "ok":
            for recipe, occluder, shown in clip.lists.expected.get(unit.key, ()):
                yield from self._empty(recipe, shown, occluder, _why(record), record.status)
            return
        for name, told in record.diagnostics.items():
            yield (unit.recipe, "declared", "", f"{DIAGNOSTIC}{name}"), told, "" if told is not None else "not finite", "ok"
        for item in clip.lists.items.get(unit.key, ()):
            score = clip.scores.get(item.key)
            if score is None:
                continue
            if score.status != "ok":
                yield from self._empty(item.recipe, item.shown, item.occluder, _why(score), score.status)
            for metric, value in score.values.items():
                for polarity in item.shown:
                    yield (item.recipe, polarity, item.occluder, metric), value, score.why.get(metric, ""), "ok"

    def _empty(
        self, recipe: str, shown: Iterable[str], occluder: str, why: str, status: str
    ) -> Iterator[tuple[Column, float | None, str, str]]:
        for polarity in shown:
            for metric in self.metrics.get(occluder, ()):
                yield (recipe, polarity, occluder, metric), None, why, status

    def curves(self, clip: "Finished") -> Iterator[dict[str, Any]]:
        """Yield the rows of ``curves.parquet``."""
        for unit in clip.units:
            for item in clip.lists.items.get(unit.key, ()):
                score = clip.scores.get(item.key)
                for order, fractions, log_odds in series(score) if score else ():
                    yield {
                        "task": unit.clip.task,
                        "detector": unit.detector,
                        "pair": unit.clip.pair,
                        "explainer": unit.explainer,
                        "polarity": item.polarity,
                        "occluder": item.occluder,
                        "order": order,
                        "fractions": fractions,
                        "log_odds": log_odds,
                    }

    def timings(self, clip: "Finished") -> Iterator[dict[str, Any]]:
        """Yield the rows of ``timings.parquet`` for twins and explanations; this table alone knows clocks and hosts."""
        if clip.twins is not None:
            yield timing(clip.twins, "twins")
        for record in clip.explanations.values():
            yield timing(record, "explain")


def timing(record: Explanation | Twins | Score, stage: str) -> dict[str, Any]:
    """Return the row of a record in ``timings.parquet``."""
    return {"key": record.key, "stage": stage, **record.cost.model_dump(), "attempt": getattr(record, "attempt", 1)}


def _why(record: Explanation | Score) -> str:
    return f"{record.problem.kind}: {record.problem.message}" if record.problem else ""
