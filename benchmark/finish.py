"""The end of a run: records to tables, tables to the summary."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from xaibench.benchmark.aggregate import Aggregator, finite
from xaibench.benchmark.causal import quality
from xaibench.benchmark.metrics.ranking import auroc, rank
from xaibench.benchmark.results import write_summary, write_tables
from xaibench.benchmark.summary import DetectorRow, Summary, SummaryRow
from xaibench.benchmark.threads import one_thread
from xaibench.benchmark.tidy import Tidy
from xaibench.benchmark.units import Score
from xaibench.registry import METRICS
from xaibench.types import Task

if TYPE_CHECKING:
    from xaibench.benchmark.session import Session
    from xaibench.benchmark.suite import Causal, Curves


def finish(session: "Session", curves: "dict[str, Curves]", slow: dict[str, bool], causal: "dict[str, Causal] | None" = None) -> None:
    """Write the parquet tables and ``summary.json`` of a session.

    Raises:
        RunError: If the folder cannot be written.
    """
    world, plan = session.world, session.plan
    tidy = Tidy(plan, session.explanations, session.finished_scores(), session.items, session.expected)
    units = tidy.units()
    write_tables(session.folder, units, tidy.curves(), tidy.timings(session.twins.values()))
    infos = world.rows | {label: replace(world.rows[label], competes=not origin.partial) for label, origin in session.origins.items()}
    with one_thread():
        rows = Aggregator(world.suite, infos, directions()).summarise(units)
    statuses = Counter(record.status for record in session.explanations.values())
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
        n_units=sum(len(group) for group in plan.units),
        n_by_status=dict(sorted(statuses.items())),
        origins=dict(sorted(session.origins.items())),
    )
    write_summary(session.folder, summary)


def _noted(row: SummaryRow, task: Task) -> SummaryRow:
    """Say on each row of a corpus without twins what its scores can tell."""
    said = {"none": "no twins: detector-dependent scores only", "time": "labels in time only: time marginal and detector-dependent scores"}
    note = said.get(task.truth, "")
    return row.model_copy(update={"note": "; ".join(filter(None, (note, row.note)))}) if note else row


def directions() -> dict[str, bool]:
    """Return whether higher is better, for every metric in which explainers compete."""
    infos = [METRICS.get(name).info for name in METRICS.names()]
    return {
        info.name: info.higher_is_better
        for info in infos
        if info.family in ("localization", "faithfulness", "causal", "complexity", "sanity")
    }


def _detector(session: "Session", task: str, curves: "Curves | None", slow: dict[str, bool], causal: "Causal | None") -> DetectorRow:
    """Describe the twins' log-odds: how well the detector tells them apart on these clips, and how many pass the gate."""
    world = session.world
    label = world.detector_of[task]
    known = [twins for clip in session.plan.clips if clip.ref.task == task and (twins := session.twins.get(clip.key)) is not None]
    pairs = [(t.bonafide, t.spoof) for t in known if t.bonafide is not None and t.spoof is not None]
    gaps = [gap for t in known if (gap := t.gap) is not None]
    return DetectorRow(
        task=task,
        detector=label,
        fingerprint=world.detectors[label].fingerprint(),
        n_clips=sum(clip.ref.task == task for clip in session.plan.clips),
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
    for clip, units in zip(session.plan.clips, session.plan.units, strict=True):
        if clip.ref.task != task:
            continue
        found: dict[str, Score] = {}
        for item in (item for unit in units for item in session.items.get(unit.key, ()) if item.stage == "causal"):
            score = session.scores.get(item.key)
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
