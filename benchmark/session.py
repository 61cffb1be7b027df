"""One sitting of a run: what the journal already holds is kept, the rest is explained and scored, and every record is written at once."""

import math
from collections.abc import Sequence
from typing import Any

from xaibench.benchmark.curves import score_range, with_values
from xaibench.benchmark.executors.contract import Chunk, Executor, Work
from xaibench.benchmark.folder import RunFolder
from xaibench.benchmark.given import Given, Origin
from xaibench.benchmark.heatmaps import heatmap_path, is_intact
from xaibench.benchmark.journal import Journal
from xaibench.benchmark.plan import Plan, PlannedClip
from xaibench.benchmark.progress import Drain, Ticker, log
from xaibench.benchmark.sanity import PLACE
from xaibench.benchmark.score import BOTH, ScoreItem, causal_items, faithfulness_items, localization_items, sanity_items
from xaibench.benchmark.stages import Explaining, ExplainItem, Scoring
from xaibench.benchmark.stale import stale
from xaibench.benchmark.suite import Causal, Curves, Sanity
from xaibench.benchmark.units import FAILED, Explanation, Score, Twins, Unit
from xaibench.benchmark.world import World

WORK = {"localization": 1, "faithfulness": 4, "causal": 2, "sanity": 5}
"""Work of a scoring in explanations, for the progress bar alone."""
BY_MACHINE = frozenset({"RunError", "WorkerDied"})
"""Kinds of failed scorings that are the machine's fault (a torn heatmap, a killed worker), made again without being asked."""
LOG = "workers.log"
"""What plugins print in workers."""
SCORINGS = 3
"""Expected scorings of an explanation, until they are known."""


class Session:
    """Brings the journal from what it holds to what the plan asks."""

    def __init__(self, world: World, plan: Plan, folder: RunFolder, journal: Journal, ticker: Ticker, drain: Drain, executor: Executor):
        self.world, self.plan, self.folder, self.journal = world, plan, folder, journal
        self.ticker, self.drain, self.executor = ticker, drain, executor
        wanted = {unit.key: unit for group in plan.units for unit in group}
        known = [r for r in journal.records("explanation") if isinstance(r, Explanation)]
        self.explanations = {r.key: r for r in known if r.key in wanted}
        self.stale = tuple(stale(known, {key: unit for key, unit in wanted.items() if key not in self.explanations}))
        """Why explanations of an earlier start are made again, in sentences."""
        clips = {clip.key for clip in plan.clips}
        self.twins = {r.key: r for r in journal.records("twins") if isinstance(r, Twins) and r.key in clips}
        self.scores = {r.key: r for r in journal.records("score") if isinstance(r, Score) and r.unit in wanted}
        self._unread = {score.unit for score in self.scores.values() if score.problem and score.problem.kind in BY_MACHINE}
        self.items: dict[str, list[ScoreItem]] = {}
        """Scorings that the protocol asks of each finished unit."""
        self.expected: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {}
        """Recipe, occluder and shown polarities of the scorings that each unit without a heatmap lacks."""
        self.origins: dict[str, Origin] = {}
        """Of rows whose explanations were made elsewhere, by label."""

    def take_given(self, given: Given, label: str) -> None:
        """Write down explanations that were made elsewhere; they replace what an earlier start left."""
        for record in given.records(self.plan, self.folder.path):
            self._take(record)
        self.origins[label] = given.origin()

    def explain(self, retry: bool) -> None:
        """Explain what is missing, and say why where the journal held it under another key; failed units again only on request."""
        for sentence in self.stale:
            log.warning("%s", sentence)
        chunks = []
        for clip, units in zip(self.plan.clips, self.plan.units, strict=True):
            items = self._twins_missing(clip, retry)
            for unit in units:
                known = self.explanations.get(unit.key)
                if not self._settled(known, retry):
                    items.append(ExplainItem(unit, known.attempt + 1 if known else 1))
            if items:
                chunks.append(Chunk(clip, tuple(items)))
        self.ticker.expect(sum(len(chunk.items) for chunk in chunks) + SCORINGS * sum(len(units) for units in self.plan.units))
        self._run_explain(chunks)

    def listen(self) -> None:
        """Measure the twins that are missing, and explain nothing: what scoring again needs."""
        chunks = [Chunk(clip, tuple(items)) for clip in self.plan.clips if (items := self._twins_missing(clip, retry=False))]
        self.ticker.expect(sum(len(chunk.items) for chunk in chunks) + SCORINGS * sum(len(units) for units in self.plan.units))
        self._run_explain(chunks)

    def _twins_missing(self, clip: PlannedClip, retry: bool) -> list[ExplainItem]:
        return [] if self._settled(self.twins.get(clip.key), retry) else [ExplainItem(None)]

    def _run_explain(self, chunks: Sequence[Chunk[ExplainItem]]) -> None:
        self._execute(Explaining(self.world).work(self.folder.path / LOG), chunks)

    def _execute(self, work: Work[Any, Any], chunks: Sequence[Chunk[Any]]) -> None:
        for record in self.executor.execute(work, chunks, self.drain, self._close_in_child()):
            self._take(record)

    def _settled(self, known: Explanation | Twins | None, retry: bool) -> bool:
        if known is None or (retry and known.status in FAILED):
            return False
        if isinstance(known, Twins):
            return True
        if known.status == "timeout" and known.timeout_s is not None and (self.world.timeout_s or math.inf) > known.timeout_s:
            return False
        digest = known.heatmap_sha256
        if not digest or not heatmap_path(self.folder.path, digest).exists():
            return not digest
        return not self._to_be_read(known) or is_intact(self.folder.path, digest)

    def _to_be_read(self, known: Explanation) -> bool:
        """Tell whether a stored heatmap is still to be scored; hashing all the others too would delay every start."""
        if known.key in self._unread:
            return True
        return any(item.key not in self.scores for item in localization_items(known, self.plan.recipes[known.unit.clip.task]))

    def _close_in_child(self) -> Sequence[int]:
        return [] if self.folder.lock_handle is None else [self.folder.lock_handle]

    def _take(self, record: Explanation | Twins | Score) -> None:
        """Write a record down before anything else is done with it."""
        self.journal.put(record)
        if record.problem is not None and record.status in FAILED:
            log.info("%s", _told(record))
        if isinstance(record, Explanation):
            self.explanations[record.key] = record
        elif isinstance(record, Twins):
            self.twins[record.key] = record
        else:
            self.scores[record.key] = record
        self.ticker.advance(WORK[record.stage] if isinstance(record, Score) else 1)

    def score(
        self, curves: dict[str, Curves], retry: bool = False, causal: dict[str, Causal] | None = None, sanity: Sanity | None = None
    ) -> None:
        """Score what is explained; failed scorings again on request, and always where the machine was at fault.

        Args:
            curves: Faithfulness budget of each task; tasks that are not in it have none.
            retry: Whether to try all failed scorings again.
            causal: Budget of the causal truth of each task; tasks that are not in it have none.
            sanity: How maps are examined; ``None`` for not at all.
        """
        compared = {clip.key: budget for task, budget in (causal or {}).items() for clip in self.passing(task)[: budget.clips]}
        examined = {clip.key for task in self.world.tasks for clip in self._of(task)[: sanity.clips if sanity else 0]}
        chosen = {clip.key for task, budget in curves.items() for clip in self.curve_clips(task, budget)}
        chunks = []
        for clip, units in zip(self.plan.clips, self.plan.units, strict=True):
            for unit in units:
                self._list_items(clip, unit, curves[clip.ref.task] if clip.key in chosen else None)
                self._list_causal(clip, unit, compared.get(clip.key))
                self._list_sanity(clip, unit, sanity if clip.key in examined else None)
            items = (item for unit in units for item in self.items.get(unit.key, ()))
            missing = tuple(item for item in items if not self._scored(self.scores.get(item.key), retry))
            if missing:
                chunks.append(Chunk(clip, missing))
        self.ticker.expect(sum(WORK[item.stage] for chunk in chunks for item in chunk.items))
        self._execute(Scoring(self.world).work(self.folder.path / LOG), chunks)

    def _scored(self, known: Score | None, retry: bool) -> bool:
        if known is None or (retry and known.status in FAILED):
            return False
        return known.problem is None or known.problem.kind not in BY_MACHINE

    def _list_items(self, clip: PlannedClip, unit: Unit, curves: Curves | None) -> None:
        """List what is to be scored of a unit; an explainer that knows recipes is perturbed with its map for the primary one."""
        explanation = self.explanations.get(unit.key)
        if explanation is None:
            return
        recipes = self.plan.recipes[clip.ref.task]
        perturbed = curves if curves is not None and unit.recipe in ("", *recipes[:1]) else None
        if explanation.status == "ok":
            self.items[unit.key] = list(localization_items(explanation, recipes))
            self.items[unit.key] += faithfulness_items(explanation, perturbed, self.world.suite.area_budgets) if perturbed else ()
        else:
            self.expected[unit.key] = [(recipe, "", BOTH) for recipe in ((unit.recipe,) if unit.recipe else recipes)]
            self.expected[unit.key] += [("", occluder, perturbed.polarities) for occluder in perturbed.occluders] if perturbed else ()

    def _list_causal(self, clip: PlannedClip, unit: Unit, budget: Causal | None) -> None:
        """List what is to be compared with the causal truth; an explainer that knows recipes with its map for the primary one."""
        explanation, recipes = self.explanations.get(unit.key), self.plan.recipes[clip.ref.task]
        if budget is None or explanation is None or unit.recipe not in ("", *recipes[:1]):
            return
        if explanation.status == "ok":
            stft = self.world.stft(clip.ref.task)
            self.items[unit.key] += causal_items(explanation, budget, self.world.suite.gap_gate, stft)
        else:
            self.expected[unit.key] += [("", name, budget.polarities) for name in budget.domains]

    def _list_sanity(self, clip: PlannedClip, unit: Unit, budget: Sanity | None) -> None:
        """List the examination of a map; where explainers are not at hand, only what was examined before."""
        explanation, recipes = self.explanations.get(unit.key), self.plan.recipes[clip.ref.task]
        if budget is None or explanation is None or unit.recipe not in ("", *recipes[:1]):
            return
        if explanation.status != "ok":
            self.expected[unit.key].append(("", PLACE, ("declared",)))
            return
        siblings = [
            other.heatmap_sha256
            for mate, units in zip(self.plan.clips, self.plan.units, strict=True)
            if mate.ref.utterance == clip.ref.utterance and mate.ref.vocoder != clip.ref.vocoder and mate.ref.task == clip.ref.task
            for same in units
            if (same.explainer, same.recipe) == (unit.explainer, unit.recipe)
            and (other := self.explanations.get(same.key)) is not None
            and other.heatmap_sha256
        ]
        items = sanity_items(explanation, budget, siblings)
        self.items[unit.key] += [item for item in items if self.world.explainers or item.key in self.scores]

    def _of(self, task: str) -> list[PlannedClip]:
        return [clip for clip in self.plan.clips if clip.ref.task == task]

    def passing(self, task: str) -> list[PlannedClip]:
        """Return the clips of a task whose twins lie far enough apart for scores that depend on the detector, in plan order."""
        gaps = {key: twins.gap for key, twins in self.twins.items()}
        clips = (clip for clip in self.plan.clips if clip.ref.task == task)
        return [clip for clip in clips if (gap := gaps.get(clip.key)) is not None and gap >= self.world.suite.gap_gate]

    def curve_clips(self, task: str, curves: Curves) -> list[PlannedClip]:
        """Return the clips on which faithfulness is measured."""
        return self.passing(task)[: curves.clips]

    def finished_scores(self) -> dict[str, Score]:
        """Return the scores by key, those of curves with their values."""
        gaps = {clip.key: (twins.gap if (twins := self.twins.get(clip.key)) else None) for clip in self.plan.clips}
        by_task = {task: [t for t in self.twins.values() if t.clip.task == task] for task in self.world.tasks}
        known = {task: score_range(twins) for task, twins in by_task.items()}
        clips = {unit.key: clip for clip, units in zip(self.plan.clips, self.plan.units, strict=True) for unit in units}
        found = {}
        for key, score in self.scores.items():
            clip = clips[score.unit]
            found[key] = with_values(score, gaps[clip.key], known[clip.ref.task]) if score.stage == "faithfulness" else score
        return found


def _told(record: Explanation | Twins | Score) -> str:
    """Say for the log what failed and how."""
    what = (
        f"{record.unit.explainer} on {record.unit.clip.pair}"
        if isinstance(record, Explanation)
        else f"{type(record).__name__.lower()} {record.key[:12]}"
    )
    problem = f"{record.problem.kind}: {record.problem.message}" if record.problem else ""
    return f"{record.status}: {what}: {problem}"
