"""The end of a run: records to tables, tables to the summary."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from math import isnan
from operator import itemgetter
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from xaibench.benchmark.aggregate import Aggregator, RowInfo, finite
from xaibench.benchmark.causal import quality
from xaibench.benchmark.metrics.ranking import auroc, rank
from xaibench.benchmark.results import CURVE_COLUMNS, TIMING_COLUMNS, Table, write_summary
from xaibench.benchmark.spool import Spool, merged
from xaibench.benchmark.summary import DetectorRow, Summary, SummaryRow
from xaibench.benchmark.threads import one_thread
from xaibench.benchmark.tidy import UNIT_COLUMNS, UNIT_ORDER, Tidy, timing
from xaibench.benchmark.units import FAILED, Explanation, Score, Status
from xaibench.registry import METRICS
from xaibench.types import Task

if TYPE_CHECKING:
    from xaibench.benchmark.session import Session
    from xaibench.benchmark.suite import Causal, Curves


@dataclass
class Tally:
    """How the units of a run ended."""

    by_label: dict[str, Counter[Status]] = field(default_factory=lambda: defaultdict(Counter))
    """Outcomes of each explainer."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Units by outcome, with the kind of error beside the status."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why the first failed unit of an explainer failed, or else why the first one has no heatmap."""

    def add(self, record: Explanation) -> None:
        """Count a unit."""
        label, problem = record.unit.explainer, record.problem
        if problem is not None and (label not in self.reasons or (record.status in FAILED and not self.failed(label))):
            self.reasons[label] = f"{problem.kind}: {problem.message}"
        self.by_label[label][record.status] += 1
        self.outcomes[record.status if problem is None else f"{record.status}: {problem.kind}"] += 1

    def failed(self, label: str) -> int:
        """Return how many units of an explainer failed."""
        return sum(self.by_label[label][status] for status in FAILED)

    @property
    def statuses(self) -> dict[str, int]:
        """Units by status."""
        total = sum(self.by_label.values(), Counter[Status]())
        return {status: total[status] for status in sorted(total)}

    @property
    def coverage(self) -> dict[str, int]:
        """Units by outcome, sorted."""
        return dict(sorted(self.outcomes.items()))


def finish(session: "Session", curves: "dict[str, Curves]", slow: dict[str, bool], causal: "dict[str, Causal] | None" = None) -> Tally:
    """Write the parquet tables and ``summary.json`` of a session.

    Returns:
        How the units ended.

    Raises:
        RunError: If the folder cannot be written.
    """
    world, plan = session.world, session.plan
    tally = Tally()
    infos = world.rows | {label: replace(world.rows[label], competes=not origin.partial) for label, origin in session.origins.items()}
    rows = _tables(session, infos, tally)
    tasks = tuple(
        {
            "name": label,
            "title": task.title,
            "version": task.version,
            "licence": task.licence,
            "truth": task.truth,
            "fingerprint": task.fingerprint(),
            "recipes": list(plan.recipes[label]),
        }
        for label, task in sorted(world.tasks.items())
    )
    detectors = tuple(_detector(session, task, curves.get(task), slow, (causal or {}).get(task)) for task in sorted(world.tasks))
    summary = Summary(
        run=plan.id,
        suite=world.suite.name,
        suite_sha256=plan.suite_hash,
        tier=plan.tier,
        tasks=tasks,
        detectors=detectors,
        rows=tuple(_noted(row, world.tasks[row.task]) for row in rows),
        n_units=session.n_units,
        n_by_status=tally.statuses,
        origins=dict(sorted(session.origins.items())),
    )
    write_summary(session.folder, summary)
    return tally


def _tables(session: "Session", infos: Mapping[str, RowInfo], tally: Tally) -> list[SummaryRow]:
    """Write the long tables, clip by clip and sorted in files, and aggregate the first of them as it passes."""
    tidy, folder = Tidy(session.finished), session.folder
    curves, timings = Spool[list[dict[str, Any]]](), Spool[list[dict[str, Any]]]()

    def units() -> Iterator[dict[str, Any]]:
        for clip in session.finished():
            for record in clip.explanations.values():
                tally.add(record)
            curves.append(list(tidy.curves(clip)))
            timings.append(list(tidy.timings(clip)))
            yield from tidy.units(clip)

    with Table(folder, "units", UNIT_COLUMNS) as table, one_thread():
        sorted_units = merged(units(), key=itemgetter(*UNIT_ORDER))
        rows = Aggregator(session.world.suite, infos, directions()).summarise(table.through(sorted_units))
    with Table(folder, "curves", CURVE_COLUMNS) as table:
        table.write(merged(chain.from_iterable(curves), key=itemgetter(*CURVE_COLUMNS[:7])))
    with Table(folder, "timings", TIMING_COLUMNS) as table:
        every = chain(chain.from_iterable(timings), _score_timings(session))
        table.write(merged(every, key=itemgetter("stage", "key")))
    return rows


def _score_timings(session: "Session") -> Iterator[dict[str, Any]]:
    """Yield the cost of every score of the plan's units, those of earlier protocols included."""
    keys = session.plan.keys
    for record in session.journal.records("score"):
        if isinstance(record, Score) and record.unit in keys:
            yield timing(record, record.stage)


def _noted(row: SummaryRow, task: Task) -> SummaryRow:
    """Say on each row of a corpus without twins what its scores can tell."""
    said = {"none": "no twins: detector-dependent scores only", "time": "labels in time only: time marginal and detector-dependent scores"}
    note = said.get(task.truth, "")
    return row.model_copy(update={"note": "; ".join(filter(None, (note, row.note)))}) if note else row


def directions() -> dict[str, bool]:
    """Return whether higher is better, for every metric in which explainers compete."""
    infos = [METRICS.get(name).info for name in METRICS.names()]
    return {info.name: info.higher_is_better for info in infos if info.family in ("localization", "faithfulness", "causal", "complexity")}


def _detector(session: "Session", task: str, curves: "Curves | None", slow: dict[str, bool], causal: "Causal | None") -> DetectorRow:
    """Describe the twins' log-odds: how well the detector tells them apart on these clips, and how many pass the gate."""
    world = session.world
    label = world.detector_of[task]
    places = session.places.get(task, range(0))
    pairs = list(session.heard.pairs(places))
    gaps = [gap for place in places if not isnan(gap := session.heard.gap[place])]
    return DetectorRow(
        task=task,
        detector=label,
        fingerprint=world.detectors[label].fingerprint(),
        n_clips=len(places),
        n_gated=len(session.passing(task)),
        gap_gate=world.suite.gap_gate,
        min_clips=world.suite.min_clips,
        median_gap=finite(median(gaps)) if gaps else None,
        pair_accuracy=finite(float(np.mean([spoof > bonafide for bonafide, spoof in pairs]))) if pairs else None,
        auc=_auc(pairs),
        slow=slow[label],
        curve_clips=len(session.curve_clips(task, curves)) if curves else 0,
        curve_steps=curves.steps if curves else 0,
        occluders=curves.occluders if curves else (),
        causal=quality(_one_per_clip(session, task), causal.domains) if causal else (),
    )


def _one_per_clip(session: "Session", task: str) -> Iterator[Score]:
    """Yield one record of the causal stage for each clip and domain: all of them say the same of the truth."""
    for clip in session.finished(task):
        found: dict[str, Score] = {}
        for item in (item for unit in clip.units for item in clip.lists.items.get(unit.key, ()) if item.stage == "causal"):
            score = clip.scores.get(item.key)
            if score is not None and score.status == "ok":
                found.setdefault(item.occluder, score)
        yield from found.values()


def _auc(pairs: list[tuple[float, float]]) -> float | None:
    """Probability that a spoof scores above a bona fide clip, each recording counted once per clip of the run."""
    if not pairs:
        return None
    scores = np.array([b for b, _ in pairs] + [s for _, s in pairs])
    hits = np.repeat([0.0, 1.0], len(pairs))
    ranking = rank(scores)
    positives = ranking.group_sums(hits[ranking.order])
    return finite(auroc(positives, ranking.group_sizes() - positives))
