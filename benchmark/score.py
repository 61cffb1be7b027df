"""The score stage: stored heatmaps in, values out. Nothing is explained here, and the truth of a clip is prepared once for all maps.

A score has its own key (heatmap, truth, code of the metrics), so that a run can be scored again without explaining again.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from torch import Tensor

from xaibench.benchmark.causal import REFERENCE, Reference
from xaibench.benchmark.causal import config as causal_config
from xaibench.benchmark.curves import pack
from xaibench.benchmark.explain import verdict
from xaibench.benchmark.heatmaps import read_heatmap
from xaibench.benchmark.metrics.localization import undefined_reason
from xaibench.benchmark.metrics.occluders import OCCLUDERS
from xaibench.benchmark.metrics.probe import Probe
from xaibench.benchmark.metrics.target import Target
from xaibench.benchmark.observe import Meter
from xaibench.benchmark.plan import PlannedClip
from xaibench.benchmark.sanity import PLACE, Examiner
from xaibench.benchmark.source import source_hash
from xaibench.benchmark.suite import Causal, Curves, Sanity
from xaibench.benchmark.units import Explanation, Score, Unit
from xaibench.benchmark.world import World
from xaibench.tasks.masks import recipe as named_recipe
from xaibench.tasks.masks import truth
from xaibench.tasks.recipes import TIME
from xaibench.tasks.spectrogram import STFTConfig, magnitude, valid_cells
from xaibench.types import Clip, content_hash

BOTH = ("declared", "magnitude")
Stage = Literal["localization", "faithfulness", "causal", "sanity"]


@dataclass(frozen=True)
class ScoreItem:
    """One scoring to be done; its key says by content what the values depend on."""

    key: str
    unit: str
    heatmap_sha256: str
    stage: Stage
    recipe: str
    polarity: str
    occluder: str = ""
    steps: int = 0
    """Of a curve; for the causal truth its pairs of permutations."""
    soft: bool = False
    shown: tuple[str, ...] = BOTH
    """Polarities under which the values are shown: more than one where they are the same."""
    absolute: bool = False
    """Whether the magnitude of the map is scored, by polarity or because the explainer declares it."""
    siblings: tuple[str, ...] = ()
    """Stored maps of the same utterance through other vocoders, for the sanity stage."""
    sanity: Sanity | None = None
    causal: Causal | None = None
    asked: Unit | None = None
    """The unit itself, where it is explained again."""
    reference: bool = False
    """Whether the causal truth's own map is scored in the place of the stored one."""
    budgets: tuple[float, ...] = ()
    """Shares of the cells for the confidence metrics."""
    threshold: float | None = None
    """Where the explainer itself divides artifact from the rest."""


def localization_items(explanation: Explanation, recipes: Sequence[str]) -> Iterator[ScoreItem]:
    """List the localisation scores that a finished explanation needs."""
    unit = explanation.unit
    shared = {"unit": explanation.key, "heatmap": explanation.heatmap_sha256, "code": _code("localization")}
    for recipe in (unit.recipe,) if unit.recipe else recipes:
        for polarity, shown in polarities(explanation, BOTH):
            identity: dict[str, Any] = {
                "stage": "localization",
                **shared,
                "recipe": named_recipe(recipe).content_hash(),
                "polarity": polarity,
            }
            threshold = unit.threshold if polarity == "declared" else None
            identity |= {} if threshold is None else {"threshold": threshold}
            yield ScoreItem(
                content_hash(identity),
                explanation.key,
                explanation.heatmap_sha256,
                "localization",
                recipe,
                polarity,
                shown=shown,
                absolute=_absolute(unit, polarity),
                threshold=threshold,
            )


def faithfulness_items(explanation: Explanation, curves: Curves, area_budgets: Sequence[float]) -> Iterator[ScoreItem]:
    """List the curves that a finished explanation needs."""
    unit = explanation.unit
    shared = {"unit": explanation.key, "heatmap": explanation.heatmap_sha256, "code": _code("faithfulness")}
    budgets = (*area_budgets, *(q for q in curves.area_budgets if q not in area_budgets))
    options = {"steps": curves.steps, "area_budgets": list(budgets), **({"soft": True} if curves.soft else {})}
    for polarity, shown in polarities(explanation, curves.polarities):
        for occluder in curves.occluders:
            filled = {"occluder": occluder, "occluder_code": _occluder_code(occluder)}
            identity = {"stage": "faithfulness", **shared, **options, "polarity": polarity, **filled}
            yield ScoreItem(
                content_hash(identity),
                explanation.key,
                explanation.heatmap_sha256,
                "faithfulness",
                "",
                polarity,
                occluder,
                curves.steps,
                curves.soft,
                shown,
                _absolute(unit, polarity),
                budgets=budgets,
            )


def causal_items(explanation: Explanation, budget: Causal, gap: float, stft: STFTConfig) -> Iterator[ScoreItem]:
    """List the scores against the causal truth that a finished explanation needs, one for each domain and polarity."""
    unit = explanation.unit
    reference = unit.explainer == REFERENCE
    shared = {"unit": explanation.key, "heatmap": explanation.heatmap_sha256, "code": _code("causal"), "reference": reference}
    for polarity, shown in polarities(explanation, budget.polarities):
        for name in budget.domains:
            settings = causal_config(name, budget.permutation_pairs, gap, stft)
            limits = [budget.least_split_half, budget.null_limit]
            identity = {"stage": "causal", **shared, "truth": settings.content_hash(), "limits": limits, "polarity": polarity}
            yield ScoreItem(
                content_hash(identity),
                explanation.key,
                explanation.heatmap_sha256,
                "causal",
                "",
                polarity,
                name,
                budget.permutation_pairs,
                shown=shown,
                absolute=_absolute(unit, polarity) and not reference,
                causal=budget,
                reference=reference,
            )


def sanity_items(explanation: Explanation, budget: Sanity, siblings: Sequence[str]) -> Iterator[ScoreItem]:
    """List the examination of a finished explanation, under its declared polarity alone."""
    unit, others = explanation.unit, tuple(sorted(siblings))
    shared = {"unit": explanation.key, "heatmap": explanation.heatmap_sha256, "code": _code("sanity")}
    identity = {"stage": "sanity", **shared, "siblings": list(others), "budget": asdict(budget)}
    yield ScoreItem(
        content_hash(identity),
        explanation.key,
        explanation.heatmap_sha256,
        "sanity",
        "",
        "declared",
        PLACE,
        shown=("declared",),
        absolute=_absolute(unit, "declared"),
        siblings=others,
        sanity=budget,
        asked=unit,
    )


def polarities(explanation: Explanation, asked: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the polarities to score, each with those under which it is shown.

    A map without negative cells, or of an explainer that declares magnitude, has the same scores under both.
    """
    if explanation.negative and explanation.unit.polarity == "signed":
        return [(polarity, (polarity,)) for polarity in asked]
    return [("declared", asked)]


def _absolute(unit: Unit, polarity: str) -> bool:
    return polarity == "magnitude" or unit.polarity == "magnitude"


@cache
def _code(stage: Stage) -> str:
    metrics = source_hash(f"xaibench.benchmark.metrics.{stage}")
    if stage not in ("causal", "sanity"):
        return metrics
    return content_hash([metrics, source_hash(f"xaibench.benchmark.{stage}")])  # what is asked stands beside what is computed


@cache
def _occluder_code(occluder: str) -> str:
    """Hash the code of an occluder, which may be a third party's."""
    return source_hash(type(OCCLUDERS.load(occluder)))


class ClipScorer:
    """Scores the heatmaps of one clip; truths and the last heatmap stay in memory."""

    def __init__(self, world: World, planned: PlannedClip, clip: Clip):
        self.world, self.planned, self.clip = world, planned, clip
        self.stft = world.stft(planned.ref.task)
        self._targets: dict[str, Target] = {}
        self._probes: dict[str, Probe] = {}
        self._examiner: Examiner | None = None
        self._references: dict[tuple[str, int], Reference] = {}
        self._heatmap: tuple[str, Tensor] | None = None

    def score(self, item: ScoreItem) -> Score:
        """Score one stored heatmap; what goes wrong is written into the record."""
        detector = self.world.detectors[self.planned.detector]
        meter = Meter(detector)
        found: dict[str, Any]
        try:
            with meter:
                heatmap = self._read(item.heatmap_sha256)
                heatmap = heatmap.abs() if item.absolute else heatmap
                found = {"localization": self._localize, "faithfulness": self._perturb, "causal": self._compare, "sanity": self._examine}[
                    item.stage
                ](item, heatmap)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a damaged heatmap or a detector that fails on an occluded clip must not end the run
            status, problem = verdict(error)
            found = {"status": status, "problem": problem}
        return Score(
            key=item.key,
            unit=item.unit,
            stage=item.stage,
            recipe=item.recipe,
            polarity=item.polarity,
            occluder=item.occluder,
            cost=meter.cost,
            timeout_s=self.world.timeout_s if item.stage == "sanity" else None,
            **found,
        )

    def _read(self, digest: str) -> Tensor:
        if self._heatmap is None or self._heatmap[0] != digest:
            self._heatmap = digest, read_heatmap(self.world.folder, digest)
        return self._heatmap[1]

    def target(self, recipe: str) -> Target:
        """Return the prepared truth of the clip under a recipe."""
        if recipe not in self._targets:
            found = truth(self.clip, recipe, self.stft)
            level = magnitude(self.clip.spoof[None], self.stft)[0]
            self._targets[recipe] = Target.of(found.mask, valid=found.valid, magnitude=level, difference=found.difference)
        return self._targets[recipe]

    def _localize(self, item: ScoreItem, heatmap: Tensor) -> dict[str, Any]:
        target = self.target(item.recipe)
        raw = target.score(heatmap) | ({} if item.threshold is None else target.decided(heatmap, item.threshold))
        if item.recipe == TIME.name:  # labels say nothing of frequency
            raw = {name: value for name, value in raw.items() if name.startswith("time_")}
        why = {
            name: undefined_reason(name, heatmap, target.mask, target.valid) or "undefined for this clip"
            for name, value in raw.items()
            if not math.isfinite(value)
        }
        return {"values": {name: value if math.isfinite(value) else None for name, value in raw.items()}, "why": why}

    def _perturb(self, item: ScoreItem, heatmap: Tensor) -> dict[str, Any]:
        measured = self.probe(item.occluder).curves(heatmap, steps=item.steps, budgets=item.budgets, soft=item.soft)
        return {"curves": pack(measured)}

    def _compare(self, item: ScoreItem, heatmap: Tensor) -> dict[str, Any]:
        if (item.occluder, item.steps) not in self._references:
            settings = causal_config(item.occluder, item.steps, self.world.suite.gap_gate, self.stft)
            detector = self.world.detectors[self.planned.detector]
            assert item.causal is not None  # as listed
            self._references[item.occluder, item.steps] = Reference.of(self.clip, detector, settings, item.causal)
        reference = self._references[item.occluder, item.steps]
        return reference.score(reference.own if item.reference else heatmap)

    def _examine(self, item: ScoreItem, heatmap: Tensor) -> dict[str, Any]:
        if self._examiner is None:
            valid = valid_cells(self.clip.valid_samples, len(self.clip.spoof), self.stft)
            self._examiner = Examiner(self.world, self.planned, self.clip, valid)
        siblings = [read_heatmap(self.world.folder, digest) for digest in item.siblings]
        siblings = [sibling.abs() for sibling in siblings] if item.absolute else siblings
        assert item.sanity is not None  # as listed
        assert item.asked is not None
        return self._examiner.score(item.asked, heatmap, siblings, item.sanity, absolute=item.absolute)

    def probe(self, occluder: str) -> Probe:
        """Return the clip under an occluder; end points and random order are shared by all heatmaps."""
        if occluder not in self._probes:
            task = self.world.tasks[self.planned.ref.task]
            self._probes[occluder] = Probe(
                self.clip.spoof,
                self.world.detectors[self.planned.detector],
                occluder=occluder,
                valid=valid_cells(self.clip.valid_samples, len(self.clip.spoof), self.stft),
                valid_samples=self.clip.valid_samples,
                twin=self.clip.bonafide if self.clip.has_twin else None,
                references=task.references(self.planned.pair) if "references" in OCCLUDERS.load(occluder).needs else None,
                stft=self.stft,
                seed=self.planned.seed,
            )
        return self._probes[occluder]
