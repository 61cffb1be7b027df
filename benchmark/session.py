"""One sitting of a run: what the journal already holds is kept, the rest is explained and scored, and every record is written at once.

Records stay in the journal, and plan and work lie in files, so a run of a hundred thousand clips needs the memory of a hundred.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from xaibench.benchmark.curves import score_range, with_values
from xaibench.benchmark.executors.contract import Chunk, Executor, Work
from xaibench.benchmark.folder import RunFolder
from xaibench.benchmark.given import Given, Origin
from xaibench.benchmark.heatmaps import heatmap_path, is_intact
from xaibench.benchmark.journal import Journal, Stored
from xaibench.benchmark.plan import Plan, PlannedClip
from xaibench.benchmark.progress import Drain, Ticker, log
from xaibench.benchmark.sanity import PLACE
from xaibench.benchmark.score import BOTH, ScoreItem, causal_items, faithfulness_items, localization_items, sanity_items
from xaibench.benchmark.spool import Spool
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


@dataclass
class Lists:
    """What the protocol asks of the explanations of one clip, by the unit's key."""

    items: dict[str, list[ScoreItem]] = field(default_factory=dict)
    """Scorings of each finished unit."""
    expected: dict[str, list[tuple[str, str, tuple[str, ...]]]] = field(default_factory=dict)
    """Recipe, occluder and shown polarities of the scorings that each unit without a heatmap lacks."""


class Finished(NamedTuple):
    """A clip with everything that is known of it."""

    clip: PlannedClip
    twins: Twins | None
    units: tuple[Unit, ...]
    lists: Lists
    explanations: dict[str, Explanation]
    scores: dict[str, Score]
    """Those that the present protocol asks for, by key, curves with their values; older ones in the journal are left out."""


class Heard:
    """What the detectors answered to the twins, clip by clip in plan order: three numbers each, NaN for none."""

    def __init__(self) -> None:
        self.bonafide, self.spoof, self.reference, self.gap = (array("d") for _ in range(4))

    def append(self, twins: Twins | None) -> None:
        """Add the next clip."""
        for name in ("bonafide", "spoof", "reference", "gap"):
            value = getattr(twins, name, None)
            getattr(self, name).append(math.nan if value is None else value)

    def values(self, places: range) -> Iterator[float]:
        """Yield every answer to some clips."""
        for place in places:
            yield from (v for v in (self.bonafide[place], self.reference[place], self.spoof[place]) if not math.isnan(v))

    def pairs(self, places: range) -> Iterator[tuple[float, float]]:
        """Yield the answers to both twins, where there are both."""
        found = ((self.bonafide[place], self.spoof[place]) for place in places)
        return (pair for pair in found if not any(map(math.isnan, pair)))


class Session:
    """Brings the journal from what it holds to what the plan asks."""

    def __init__(self, world: World, plan: Plan, folder: RunFolder, journal: Journal, ticker: Ticker, drain: Drain, executor: Executor):
        self.world, self.plan, self.folder, self.journal = world, plan, folder, journal
        self.ticker, self.drain, self.executor = ticker, drain, executor
        self.explanations, self.twins, self.scores = Stored(journal, Explanation), Stored(journal, Twins), Stored(journal, Score)
        self.n_units = 0
        self.places: dict[str, range] = {}
        """Where the clips of each task stand in the plan."""
        for place, (clip, units) in enumerate(zip(plan.clips, plan.units, strict=True)):
            self.n_units += len(units)
            self.places[clip.ref.task] = range(self.places.get(clip.ref.task, range(place, place)).start, place + 1)
        troubled = (r for r in journal.troubled() if isinstance(r, Score) and r.problem and r.problem.kind in BY_MACHINE)
        self._unread = {score.unit for score in troubled}
        self.heard = Heard()
        self._lists: Spool[Lists] = Spool()
        """Of each clip in plan order."""
        self.origins: dict[str, Origin] = {}
        """Of rows whose explanations were made elsewhere, by label."""

    def _clips(self) -> Iterator[tuple[PlannedClip, tuple[Unit, ...]]]:
        return zip(self.plan.clips, self.plan.units, strict=True)

    def take_given(self, given: Given, label: str) -> None:
        """Write down explanations that were made elsewhere; they replace what an earlier start left."""
        for record in given.records(self.plan, self.folder.path):
            self._take(record)
        self.origins[label] = given.origin()

    def explain(self, retry: bool) -> None:
        """Explain what is missing, and say why where the journal held it under another key; failed units again only on request."""
        for sentence in self._stale():
            log.warning("%s", sentence)
        chunks, count = Spool[Chunk[ExplainItem]](), 0
        for clip, units in self._clips():
            items = self._twins_missing(clip, retry)
            for unit in units:
                known = self.explanations.get(unit.key)
                if not self._settled(known, retry):
                    items.append(ExplainItem(unit, known.attempt + 1 if known else 1))
            if items:
                chunks.append(Chunk(clip, tuple(items)))
                count += len(items)
        self.ticker.expect(count + SCORINGS * self.n_units)
        self._run_explain(chunks)

    def _stale(self) -> list[str]:
        """Say why explanations of an earlier start are made again; nothing is read where the journal holds none but the plan's."""
        foreign = self.journal.count("explanation")
        if not foreign:
            return []
        missing = {}
        for unit in (unit for _, units in self._clips() for unit in units):
            if unit.key in self.explanations:
                foreign -= 1
            else:
                missing[unit.key] = unit
        return list(stale(self._explanations(), missing)) if foreign and missing else []

    def _explanations(self) -> Iterator[Explanation]:
        return (record for record in self.journal.records("explanation") if isinstance(record, Explanation))

    def listen(self) -> None:
        """Measure the twins that are missing, and explain nothing: what scoring again needs."""
        chunks = Spool(Chunk(clip, tuple(items)) for clip in self.plan.clips if (items := self._twins_missing(clip, retry=False)))
        self.ticker.expect(len(chunks) + SCORINGS * self.n_units)
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
        if self._in_more_time(known):
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
        for clip in self.plan.clips:
            self.heard.append(self.twins.get(clip.key))
        compared = {place: budget for task, budget in (causal or {}).items() for place in self.passing(task)[: budget.clips]}
        examined = {place for places in self.places.values() for place in places[: sanity.clips if sanity else 0]}
        chosen = {place for task, budget in curves.items() for place in self.curve_clips(task, budget)}
        mates = self._mates(examined)
        chunks, work = Spool[Chunk[ScoreItem]](), 0
        for place, (clip, units) in enumerate(self._clips()):
            lists = Lists()
            siblings = self._siblings(clip, mates.get((clip.ref.task, clip.ref.utterance), ())) if place in examined else {}
            for unit in units:
                explanation = self.explanations.get(unit.key)
                if explanation is not None:
                    self._list_items(lists, clip, explanation, curves[clip.ref.task] if place in chosen else None)
                    self._list_causal(lists, clip, explanation, compared.get(place))
                    self._list_sanity(lists, clip, explanation, sanity if place in examined else None, siblings)
            self._lists.append(lists)
            items = (item for unit in units for item in lists.items.get(unit.key, ()))
            missing = tuple(item for item in items if not self._scored(self.scores.get(item.key), retry))
            if missing:
                chunks.append(Chunk(clip, missing))
                work += sum(WORK[item.stage] for item in missing)
        self.ticker.expect(work)
        self._execute(Scoring(self.world).work(self.folder.path / LOG), chunks)

    def _scored(self, known: Score | None, retry: bool) -> bool:
        if known is not None and known.stage == "sanity" and not self.world.explainers:
            return True  # nobody is there who could explain again
        if known is None or (retry and known.status in FAILED):
            return False
        return not self._in_more_time(known) and (known.problem is None or known.problem.kind not in BY_MACHINE)

    def _in_more_time(self, known: Explanation | Score) -> bool:
        """Tell whether a record ended by a limit that is wider now."""
        return known.status == "timeout" and known.timeout_s is not None and (self.world.timeout_s or math.inf) > known.timeout_s

    def _list_items(self, lists: Lists, clip: PlannedClip, explanation: Explanation, curves: Curves | None) -> None:
        """List what is to be scored of a unit; an explainer that knows recipes is perturbed with its map for the primary one."""
        unit, recipes = explanation.unit, self.plan.recipes[clip.ref.task]
        perturbed = curves if curves is not None and unit.recipe in ("", *recipes[:1]) else None
        if explanation.status == "ok":
            lists.items[unit.key] = list(localization_items(explanation, recipes))
            lists.items[unit.key] += faithfulness_items(explanation, perturbed, self.world.suite.area_budgets) if perturbed else ()
        else:
            lists.expected[unit.key] = [(recipe, "", BOTH) for recipe in ((unit.recipe,) if unit.recipe else recipes)]
            lists.expected[unit.key] += [("", occluder, perturbed.polarities) for occluder in perturbed.occluders] if perturbed else ()

    def _list_causal(self, lists: Lists, clip: PlannedClip, explanation: Explanation, budget: Causal | None) -> None:
        """List what is to be compared with the causal truth; an explainer that knows recipes with its map for the primary one."""
        unit, recipes = explanation.unit, self.plan.recipes[clip.ref.task]
        if budget is None or unit.recipe not in ("", *recipes[:1]):
            return
        if explanation.status == "ok":
            stft = self.world.stft(clip.ref.task)
            lists.items[unit.key] += causal_items(explanation, budget, self.world.suite.gap_gate, stft)
        else:
            lists.expected[unit.key] += [("", name, budget.polarities) for name in budget.domains]

    def _list_sanity(
        self, lists: Lists, clip: PlannedClip, explanation: Explanation, budget: Sanity | None, siblings: dict[tuple[str, str], list[str]]
    ) -> None:
        """List the examination of a map; where explainers are not at hand, only what was examined before."""
        unit, recipes = explanation.unit, self.plan.recipes[clip.ref.task]
        if budget is None or unit.recipe not in ("", *recipes[:1]):
            return
        if explanation.status != "ok":
            lists.expected[unit.key].append(("", PLACE, ("declared",)))
            return
        items = sanity_items(explanation, budget, siblings.get((unit.explainer, unit.recipe), []))
        lists.items[unit.key] += [item for item in items if self.world.explainers or item.key in self.scores]

    def _mates(self, examined: set[int]) -> dict[tuple[str, str], list[int]]:
        """Return the clips of each utterance that is examined."""
        found: dict[tuple[str, str], list[int]] = {}
        for place in examined:
            ref = self.plan.clips[place].ref
            found[ref.task, ref.utterance] = []
        for place, clip in enumerate(self.plan.clips if found else ()):
            if (clip.ref.task, clip.ref.utterance) in found:
                found[clip.ref.task, clip.ref.utterance].append(place)
        return found

    def _siblings(self, clip: PlannedClip, mates: Sequence[int]) -> dict[tuple[str, str], list[str]]:
        """Return the maps of the same utterance through other vocoders, by explainer and recipe."""
        found: dict[tuple[str, str], list[str]] = {}
        for mate in mates:
            if self.plan.clips[mate].ref.vocoder == clip.ref.vocoder:
                continue
            for unit in self.plan.units[mate]:
                other = self.explanations.get(unit.key)
                if other is not None and other.heatmap_sha256:
                    found.setdefault((unit.explainer, unit.recipe), []).append(other.heatmap_sha256)
        return found

    def passing(self, task: str) -> list[int]:
        """Return the clips of a task whose twins lie far enough apart for scores that depend on the detector: their places in the plan."""
        return [place for place in self.places.get(task, range(0)) if self.heard.gap[place] >= self.world.suite.gap_gate]

    def curve_clips(self, task: str, curves: Curves) -> list[int]:
        """Return the clips on which faithfulness is measured."""
        return self.passing(task)[: curves.clips]

    def finished(self, task: str | None = None) -> Iterator[Finished]:
        """Yield the clips, or those of a task, with their records."""
        ranges = {name: score_range(self.heard.values(places)) for name, places in self.places.items()}
        for name, places in self.places.items():
            for place in places if task in (None, name) else ():
                clip, units, lists, gap = self.plan.clips[place], self.plan.units[place], self._lists[place], self.heard.gap[place]
                known = ((unit.key, self.explanations.get(unit.key)) for unit in units)
                scores = {}
                for item in (item for unit in units for item in lists.items.get(unit.key, ())):
                    score = self.scores.get(item.key)
                    if score is not None and score.stage == "faithfulness":
                        score = with_values(score, None if math.isnan(gap) else gap, ranges[name])
                    if score is not None:
                        scores[item.key] = score
                explanations = {key: record for key, record in known if record is not None}
                yield Finished(clip, self.twins.get(clip.key), units, lists, explanations, scores)


def _told(record: Explanation | Twins | Score) -> str:
    """Say for the log what failed and how."""
    what = (
        f"{record.unit.explainer} on {record.unit.clip.pair}"
        if isinstance(record, Explanation)
        else f"{type(record).__name__.lower()} {record.key[:12]}"
    )
    problem = f"{record.problem.kind}: {record.problem.message}" if record.problem else ""
    return f"{record.status}: {what}: {problem}"
