"""Records to long tables: one row per clip, explainer and metric, with nothing that another machine would write differently."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from xaibench.benchmark.curves import series
from xaibench.benchmark.plan import Plan
from xaibench.benchmark.score import ScoreItem
from xaibench.benchmark.units import Explanation, Score, Twins, Unit

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
    """Builds the long tables of a run from its records.

    Args:
        plan: What was asked.
        explanations: Records of the explain stage by key.
        scores: Records of the score stage by key.
        items: The scorings that the present protocol asks of each unit, by the unit's key; older scores in the journal are left out.
        expected: Scorings asked of a unit that has no heatmap, by the unit's key: recipe, occluder and shown polarities of each.
    """

    def __init__(
        self,
        plan: Plan,
        explanations: Mapping[str, Explanation],
        scores: Mapping[str, Score],
        items: Mapping[str, list[ScoreItem]],
        expected: Mapping[str, list[tuple[str, str, tuple[str, ...]]]],
    ):
        self.plan, self.explanations, self.scores, self.items, self.expected = plan, explanations, scores, items, expected
        self.metrics = self._metric_names()

    def _metric_names(self) -> dict[str, list[str]]:
        """Metrics that were measured by occluder: failed units show empty values for the same ones."""
        names: dict[str, set[str]] = defaultdict(set)
        for item in (item for items in self.items.values() for item in items):
            if item.key in self.scores:
                names[item.occluder] |= set(self.scores[item.key].values)
        return {occluder: sorted(found) for occluder, found in names.items()}

    def units(self) -> list[dict[str, Any]]:
        """Return the rows of ``units.parquet``, sorted."""
        return sorted(self._unit_rows(), key=itemgetter(*UNIT_ORDER))

    def _unit_rows(self) -> Iterator[dict[str, Any]]:
        for unit in (unit for group in self.plan.units for unit in group):
            record = self.explanations.get(unit.key)
            if record is None:
                continue
            base = {
                "key": unit.key,
                **unit.clip.model_dump(),
                "detector": unit.detector,
                "explainer": unit.explainer,
                "heatmap_sha256": record.heatmap_sha256,
            }
            for (recipe, polarity, occluder, metric), value, why, status in self._cells(unit, record):
                place = {"recipe": recipe, "polarity": polarity, "occluder": occluder, "metric": metric}
                yield {**base, **place, "value": value, "why": why, "status": status}

    def _cells(self, unit: Unit, record: Explanation) -> Iterator[tuple[Column, float | None, str, str]]:
        for metric in ("forwards", "backwards"):
            count = float(getattr(record.cost, metric)) if record.status == "ok" else None
            yield (unit.recipe, "declared", "", metric), count, _why(record), record.status
        if record.status != "ok":
            for recipe, occluder, shown in self.expected.get(unit.key, ()):
                yield from self._empty(recipe, shown, occluder, _why(record), record.status)
            return
        for name, told in record.diagnostics.items():
            yield (unit.recipe, "declared", "", f"{DIAGNOSTIC}{name}"), told, "" if told is not None else "not finite", "ok"
        for item in self.items.get(unit.key, ()):
            score = self.scores.get(item.key)
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

    def curves(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``curves.parquet``, unsorted."""
        for unit in (unit for group in self.plan.units for unit in group):
            for item in self.items.get(unit.key, ()):
                score = self.scores.get(item.key)
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

    def timings(self, twins: Iterable[Twins]) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``timings.parquet``, unsorted; this table alone knows clocks and hosts."""
        for stage, records in (("explain", self.explanations.values()), ("twins", twins)):
            for record in records:
                yield {"key": record.key, "stage": stage, **record.cost.model_dump(), "attempt": getattr(record, "attempt", 1)}
        for score in self.scores.values():
            yield {"key": score.key, "stage": score.stage, **score.cost.model_dump(), "attempt": 1}


def _why(record: Explanation | Score) -> str:
    return f"{record.problem.kind}: {record.problem.message}" if record.problem else ""
