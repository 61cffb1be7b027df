"""The open questions as loops over runs: seen and unseen vocoders, unseen speakers, other corpora, degraded recordings.

    seen              pairs whose vocoder family was trained on
    unseen-vocoder    leave one family out: train on all others, test on it
    unseen-speaker    folds of speakers, none of whom (nor any utterance) is in training
    cross-corpus      train on one task, test on each: the whole matrix
    degraded          telephone band, codecs, a room, noise, on both members; the clean pair's mask as second column

A leg is a run of its own in ``OUT/<leg>``. Controls with tables are fitted on the leg's training pairs; trainable explainers are, too,
where ``fit_steps`` is given, else they use shipped weights: those of the training task in ``cross-corpus``, those of the embedded corpus,
which saw none of it, where a part of the task's own training pairs is held out.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from xaibench.benchmark.plan import truths
from xaibench.benchmark.results import Results
from xaibench.benchmark.run import run
from xaibench.benchmark.suite import QUICK, Suite, checked_suite
from xaibench.benchmark.world import load_tasks
from xaibench.errors import DataError, UnknownNameError
from xaibench.registry import EXPLAINERS
from xaibench.tasks.cache import atomic_write
from xaibench.tasks.degradation import CONDITIONS, DegradedTask
from xaibench.tasks.legs import LegTask, Member
from xaibench.tasks.manifest import SPLITS
from xaibench.tasks.pairs import linked_speakers
from xaibench.types import Explainer, Pair, Task, TrainableExplainer

PROTOCOLS = ("seen", "unseen-vocoder", "unseen-speaker", "cross-corpus", "degraded")
FOLDS = 5
COLUMNS = ("leg", "train_pairs", "test_clips", "explainer", "control", "recipe", "occluder", "metric", "mean", "low", "high", "n", "note")
SHOWN = ("generalized_dice", "stratified_auc", "average_precision", "deletion", "insertion")


@dataclass(frozen=True)
class Leg:
    """One run of a protocol."""

    name: str
    task: Task
    note: str = ""


def legs(protocol: str, tasks: Sequence[Task]) -> list[Leg]:
    """Return the runs of a protocol.

    Raises:
        UnknownNameError: If there is no such protocol.
        DataError: If the tasks cannot answer its question.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}; see docs/protocols.md")
    twinless = [t.name for t in tasks if t.truth in ("time", "none")]
    if twinless:
        raise DataError(f"tasks must hold twins for a protocol, got {', '.join(twinless)} without; leave --protocol out")
    if protocol == "cross-corpus" and len(tasks) < 2:
        raise DataError(f"tasks must be two or more for cross-corpus, got {len(tasks)}; give --task twice")
    if protocol == "cross-corpus":
        return [_cross(a, b) for a in tasks for b in tasks]
    makers = {"seen": _seen, "unseen-vocoder": _unseen_vocoder, "unseen-speaker": _unseen_speaker, "degraded": _degraded}
    found = [leg for task in tasks for leg in makers[protocol](task)]
    if not found:
        raise DataError(f"tasks must hold pairs for {protocol}, got none in {', '.join(t.name for t in tasks)}; choose another protocol")
    return found


def _seen(task: Task) -> Iterator[Leg]:
    test = [p for p in task.pairs("test") if p.seen_vocoder]
    if test:
        yield Leg(f"{task.name}-seen", _leg(task, "seen", task.pairs("train"), test, task.name))


def _unseen_vocoder(task: Task) -> Iterator[Leg]:
    """Leave each family out; one without test pairs is tested on its training pairs, which then leave training with their utterances."""
    everything = [p for split in SPLITS for p in task.pairs(split)]
    for family in sorted({_family(p) for p in everything}):
        test = [p for p in task.pairs("test") if _family(p) == family]
        note = "" if test else "no test pairs: its training pairs are tested, speakers may be shared"
        test = test or [p for p in everything if _family(p) == family]
        utterances = {p.utterance for p in test}
        pool = task.pairs("train") or [p for p in everything if p.speaker not in {q.speaker for q in test}]
        train = [p for p in pool if _family(p) != family and p.utterance not in utterances]
        yield Leg(f"{task.name}-without-{family}", _leg(task, f"without {family}", train, test), note)


def _unseen_speaker(task: Task) -> Iterator[Leg]:
    """Deal groups of speakers who share an utterance out to folds, largest first, each to the smallest fold."""
    everything = [p for split in SPLITS for p in task.pairs(split)]
    sizes = {speaker: sum(p.speaker == speaker for p in everything) for speaker in {p.speaker for p in everything}}
    groups = sorted(linked_speakers(everything), key=lambda g: (-sum(sizes[s] for s in g), sha256(g[0].encode()).digest()))
    folds: list[list[str]] = [[] for _ in range(min(FOLDS, len(groups)))]
    for group in groups:
        min(folds, key=lambda fold: sum(sizes[s] for s in fold)).extend(group)
    if len(folds) < 2:
        return
    for number, fold in enumerate(folds, start=1):
        test = [p for p in everything if p.speaker in fold]
        train = [p for p in everything if p.speaker not in fold]
        yield Leg(f"{task.name}-speakers-{number}", _leg(task, f"speakers {number}", train, test), f"{len(fold)} speakers unseen")


def _degraded(task: Task) -> Iterator[Leg]:
    yield Leg(f"{task.name}-clean", task)
    for condition in CONDITIONS:
        yield Leg(f"{task.name}-{condition}", DegradedTask(condition=condition, base=task))


def _cross(train: Task, test: Task) -> Leg:
    members = tuple((train, p) for p in train.pairs("train"))
    tested = tuple((test, p) for p in test.pairs("test"))
    return Leg(f"{train.name}-to-{test.name}", LegTask(leg=f"on {test.name}", trained=train.name, train=members, test=tested))


def _leg(task: Task, name: str, train: Sequence[Pair], test: Sequence[Pair], trained: str = "") -> LegTask:
    members: tuple[Member, ...] = tuple((task, p) for p in train)
    return LegTask(leg=name, trained=trained, train=members, test=tuple((task, p) for p in test))


def _family(pair: Pair) -> str:
    return pair.family or pair.vocoder


def run_protocol(
    protocol: str,
    explainers: Sequence[str | Explainer],
    tasks: Sequence[str | Task],
    *,
    out: str | Path,
    limit: int | None = None,
    fit_steps: int = 0,
    suite: str | Suite = "xaibench-v1",
    progress: Any = None,
    **options: Any,
) -> Path:
    """Run every leg and write ``protocol.csv``: a row per leg, explainer, recipe and metric.

    Args:
        protocol: One of ``PROTOCOLS``.
        explainers: As for ``run``.
        tasks: As for ``run``.
        out: Folder that gets a run folder for each leg.
        limit: Clips per leg; by default those of the quick tier divided among the legs, at least 4.
        fit_steps: Optimiser steps for explainers that train a network on each leg; 0 leaves them as shipped.
        suite: As for ``run``.
        progress: Called with legs done and legs in all.
        options: Further arguments of ``run``.

    Raises:
        UnknownNameError: If there is no such protocol.
        DataError: If the tasks cannot answer its question.
    """
    planned = legs(protocol, list(load_tasks(tasks).values()))
    clips = limit or max(4, (QUICK.clips or 48) // len(planned))
    table: list[dict[str, Any]] = []
    for done, leg in enumerate(planned):
        if progress is not None:
            progress(done, len(planned))
        folder = Path(out) / re.sub(r"[^A-Za-z0-9_.-]+", "-", leg.name)
        mine = [_fitted(e, leg, folder, fit_steps) for e in explainers]
        results = run(mine, [leg.task], out=folder, limit=clips, suite=checked_suite(suite), **options)
        table += _rows(leg, results)
        atomic_write(Path(out) / "protocol.csv", _csv(table))
    return Path(out) / "protocol.csv"


def _fitted(wanted: str | Explainer, leg: Leg, folder: Path, steps: int) -> Explainer:
    """Train a network on the leg where steps are given; others are taken as they are."""
    explainer: Explainer = EXPLAINERS.load(wanted) if isinstance(wanted, str) else wanted
    has_weights = any(f.name == "weights" and f.type in (str, "str") for f in fields(explainer))
    if not steps or not isinstance(explainer, TrainableExplainer) or not has_weights or not leg.task.pairs("train"):
        return explainer
    from xaibench.explainers.segdiff.job import train_explainer
    from xaibench.explainers.segdiff.training import TrainingConfig
    from xaibench.explainers.segdiff.weights import preset

    place = folder.parent / "fitted" / folder.name
    config = TrainingConfig(model=replace(preset(explainer.name, "small"), recipes=truths(leg.task)), steps=steps, copies=1)
    train_explainer(leg.task, config, out=place)
    return replace(explainer, weights=str(next(place.glob(f"{explainer.name}-*.safetensors"))))  # type: ignore[call-arg]


def _rows(leg: Leg, results: Results) -> Iterator[dict[str, Any]]:
    trained = len(leg.task.pairs("train"))
    for row in results.summary.rows:
        if row.slice == "all" and row.polarity == "declared" and row.metric in SHOWN:
            known = {
                name: getattr(row, name) for name in ("explainer", "control", "recipe", "occluder", "metric", "mean", "low", "high", "n")
            }
            note = "; ".join(filter(None, (leg.note, row.note)))
            yield {"leg": leg.name, "train_pairs": trained, "test_clips": row.n_total, **known, "note": note}


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
