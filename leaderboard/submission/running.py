"""Run a package of code: clip after clip in the sandbox, and out come the same records as from a package of heatmaps."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from xaibench.benchmark.explain import InvalidHeatmapError, checked, verdict
from xaibench.benchmark.given import Origin
from xaibench.benchmark.plan import Plan, PlannedClip
from xaibench.benchmark.threads import one_thread
from xaibench.benchmark.units import Cost, Explanation, Unit
from xaibench.errors import PluginError, SubmissionError
from xaibench.leaderboard.sandbox.box import Box, Order, PluginFailedError, agreement
from xaibench.leaderboard.sandbox.ladder import LEAST_FOR_STRANGERS, Jail
from xaibench.leaderboard.sandbox.room import Room, room
from xaibench.leaderboard.sandbox.variation import Variation
from xaibench.leaderboard.sandbox.wire import WireError
from xaibench.leaderboard.submission.package import Package
from xaibench.leaderboard.submission.rows import ended, stored, submitted
from xaibench.leaderboard.submission.scoring import Setting
from xaibench.types import Clip

ASKED_AGAIN = 3
"""Clips that are explained a second time, with equal bits and with another variation."""
MAX_STARTS = 5
"""Processes that a package may use up; what is left after that has failed."""


class GivenCode:
    """The explanations of a package of code, made in a jail.

    Args:
        package: A package with the track "code".
        place: What it is judged on.
        jail: Where it runs.
        timeout_s: Longest time for one explanation.
        reproduced: Whether a maintainer runs it again.
    """

    def __init__(self, package: Package, place: Setting, jail: Jail, *, timeout_s: float = 600.0, reproduced: bool = False):
        if package.card.code is None:
            raise SubmissionError(f"package must hold code to be run, got heatmaps of {package.card.label}; use `xaibench submit score`")
        self.package, self.place, self.jail, self.reproduced = package, place, jail, reproduced
        stft = place.stft
        self.order = Order(
            package.card.code.entry,
            dict(package.card.code.options),
            (stft.window_samples, stft.hop_samples),
            gradients="gradients" in package.card.needs,
            timeout_s=timeout_s,
        )
        self.explainer = submitted(package.card, package.sha256)
        self._starts, self._asked, self._covered, self._repeats = 0, 0, 0, list[float]()
        self._box: Box | None = None

    def records(self, plan: Plan, folder: Path) -> Iterator[Explanation]:
        """Explain the units of the package's row, clip by clip.

        Raises:
            IsolationError: If the jail does not start.
            PluginError: If the plugin cannot be loaded, or its declarations differ from the card's.
            SubmissionError: If it gives two maps for one clip and seed.
        """
        self._starts, self._asked, self._covered, self._repeats = 0, 0, 0, []
        again = self._chosen(plan)
        with ExitStack() as open_things, one_thread():
            place = open_things.enter_context(room(self.package.code()))
            open_things.callback(self._hang_up)
            for clip, units in zip(plan.clips, plan.units, strict=True):
                mine = [unit for unit in units if unit.explainer == self.explainer.name]
                if mine:
                    loaded = self.place.task.load(clip.pair)
                    for unit in mine:
                        record = self._record(unit, clip, loaded, place, folder, again=unit.key in again)
                        self._asked += 1
                        self._covered += record.status != "not_applicable"  # code that stops applying half way has chosen its clips
                        yield record

    def _chosen(self, plan: Plan) -> set[str]:
        """Choose the units that are asked twice, by randomness that the plugin cannot know."""
        keys = [unit.key for group in plan.units for unit in group if unit.explainer == self.explainer.name]
        return set(secrets.SystemRandom().sample(keys, min(ASKED_AGAIN, len(keys))))

    def _record(self, unit: Unit, planned: PlannedClip, clip: Clip, place: Room, folder: Path, *, again: bool) -> Explanation:
        cost = Cost()
        try:
            box = self._ready(place)
            if not box.facts.get("applies"):
                return ended(unit, "not_applicable", "NotApplicableError", str(box.facts.get("reason", "")))
            references = self._references(planned, box)
            heard = Variation.draw().of(clip.spoof[None])
            found = box.explain(heard, unit.seed, recipe=unit.recipe, references=references)
            cost = Cost(forwards=box.bill.forwards, backwards=box.bill.backwards)
            heatmap = checked(found, (1, *self.place.shape))
            if again:
                self._ask_again(box, unit, clip, heard, found, references)
        except (PluginFailedError, WireError, TimeoutError, InvalidHeatmapError) as error:
            status, problem = verdict(error)
            message = f"{problem.message} {self._box.messages() if self._box and isinstance(error, WireError) else ''}".strip()
            return ended(unit, status, problem.kind, message, cost)
        return stored(unit, heatmap, folder, cost)

    def _references(self, planned: PlannedClip, box: Box) -> Tensor | None:
        """Hand out references only where card and plugin both say so."""
        wanted = "references" in self.package.card.needs and "references" in box.facts.get("needs", ())
        return self.place.task.references(planned.pair) if wanted else None

    def _ask_again(self, box: Box, unit: Unit, clip: Clip, heard: Tensor, found: Tensor, references: Tensor | None) -> None:
        if not torch.equal(box.explain(heard, unit.seed, recipe=unit.recipe, references=references), found):
            raise SubmissionError(
                f"equal clips and seeds must give equal maps, got two different ones from {self.package.card.label}; "
                "draw random numbers from the generator alone"
            )
        other = box.explain(Variation.draw().of(clip.spoof[None]), unit.seed, recipe=unit.recipe, references=references)
        self._repeats.append(agreement(found, other) if other.shape == found.shape else 0.0)

    def _ready(self, place: Room) -> Box:
        """Return the running process, or start one."""
        if self._box is None or not self._box.alive:
            self._hang_up()
            if self._starts >= MAX_STARTS:
                raise PluginFailedError(f"plugin must stay alive, got {MAX_STARTS} processes that died or were ended; mend it")
            self._starts += 1
            self._box = Box(self.jail, place, self.order, self.place.detector).__enter__()
            self._check_declarations(self._box)
        return self._box

    def _check_declarations(self, box: Box) -> None:
        card = self.package.card
        said = (box.facts.get("polarity"), bool(box.facts.get("recipe")), sorted(map(str, box.facts.get("needs", ()))))
        if said != (card.polarity, card.by_recipe, sorted(card.needs)):
            wanted = (card.polarity, card.by_recipe, sorted(card.needs))
            raise PluginError(
                f"card must declare polarity, by_recipe and needs as the plugin does, got {wanted} against {said}; correct submission.toml"
            )

    def _hang_up(self) -> None:
        if self._box is not None:
            self._box.close()
            self._box = None

    def origin(self) -> Origin:
        """Describe the row."""
        return Origin(
            track="code",
            package_sha256=self.package.sha256,
            authors=self.package.card.authors,
            isolation=str(self.jail),
            trusted=self.jail.level >= LEAST_FOR_STRANGERS,
            reproduced=self.reproduced,
            covered=self._covered,
            asked=self._asked,
            repeatability=sum(self._repeats) / len(self._repeats) if self._repeats else None,
        )
