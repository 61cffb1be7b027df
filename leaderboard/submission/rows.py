"""A submission as a row of a run: an explainer that explains nothing, and the records that stand for its explanations."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaibench.benchmark.given import Origin
from xaibench.benchmark.heatmaps import write_heatmap
from xaibench.benchmark.plan import Plan
from xaibench.benchmark.units import Cost, Explanation, Problem, Status, Unit
from xaibench.errors import PluginError, SubmissionError
from xaibench.leaderboard.submission.card import Card
from xaibench.leaderboard.submission.package import Package
from xaibench.types import Detector, Explainer, Generators, Polarity

NOT_COVERED = "the submission does not cover this clip"


@dataclass(frozen=True)
class Submitted(Explainer):
    """Stands for a package; its heatmaps are already there."""

    deterministic = True
    package_sha256: str = field(default="", metadata={"config": False})

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Refuse: the author explained, elsewhere.

        Raises:
            PluginError: Always.
        """
        raise PluginError(f"heatmaps of {self.name} must come from its package, got a clip without one; score the package again")

    def state_hash(self) -> str:
        """Return the hash of the package."""
        return self.package_sha256

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by what the class was made from."""
        kind = type(self)
        return _restore, (kind.name, kind.version, kind.polarity, kind.reference, isinstance(self, SubmittedByRecipe), self.package_sha256)


@dataclass(frozen=True)
class SubmittedByRecipe(Submitted):
    """A package with one map for each recipe."""

    recipe: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by what the class was made from, and the recipe."""
        make, arguments = super().__reduce__()
        return make, (*arguments, self.recipe)


def submitted(card: Card, package_sha256: str) -> Submitted:
    """Return the explainer that stands for a package."""
    return _restore(card.label, card.version, card.polarity, card.paper, card.by_recipe, package_sha256)


def _restore(
    name: str, version: str, polarity: Polarity, reference: str, by_recipe: bool, package_sha256: str, recipe: str = ""
) -> Submitted:
    base = SubmittedByRecipe if by_recipe else Submitted
    facts = {"name": name, "version": version, "polarity": polarity, "reference": reference, "__doc__": base.__doc__}
    kind = type(base.__name__, (base,), {**facts, "__module__": base.__module__, "__qualname__": base.__qualname__})
    made: Submitted = kind(package_sha256=package_sha256, **({"recipe": recipe} if by_recipe else {}))
    return made


class GivenHeatmaps:
    """The heatmaps of a package, joined to the units of a plan by the clip's id.

    A map that is no heatmap, or a failure that the author reports, takes the lowest control; a clip of which the package does not speak is
    left out of the means and makes the row partial.
    """

    def __init__(self, package: Package, shape: tuple[int, int], *, reproduced: bool = False):
        self.package, self.shape, self.reproduced = package, shape, reproduced
        self.explainer = submitted(package.card, package.sha256)
        self._covered = self._asked = 0

    def records(self, plan: Plan, folder: Path) -> Iterator[Explanation]:
        """Yield a record for each unit of the package's row."""
        self._covered = self._asked = 0
        for unit in units_of(plan, self.explainer.name):
            record = self._record(unit, folder)
            self._asked += 1
            self._covered += record.status != "not_applicable"
            yield record

    def _record(self, unit: Unit, folder: Path) -> Explanation:
        entry = self.package.index.get((unit.clip.pair, unit.recipe))
        if entry is None:
            return ended(unit, "not_applicable", "NotCovered", NOT_COVERED)
        if entry.status == "failed":
            return ended(unit, "error", "Reported", entry.why or "the author reports a failure")
        try:
            found = torch.from_numpy(self.package.heatmap(entry, self.shape))
        except SubmissionError as error:
            return ended(unit, "invalid", "SubmissionError", str(error))
        return stored(unit, found, folder)

    def origin(self) -> Origin:
        """Describe the row."""
        card = self.package.card
        return Origin(
            track="heatmaps",
            package_sha256=self.package.sha256,
            authors=card.authors,
            covered=self._covered,
            asked=self._asked,
            reproduced=self.reproduced,
        )


def units_of(plan: Plan, label: str) -> list[Unit]:
    """Return the units of one row, clip by clip."""
    return [unit for group in plan.units for unit in group if unit.explainer == label]


def ended(unit: Unit, status: Status, kind: str, message: str, cost: Cost | None = None) -> Explanation:
    """Make the record of a unit without a heatmap."""
    return Explanation(key=unit.key, unit=unit, status=status, problem=Problem(kind=kind, message=message), cost=cost or Cost())


def stored(unit: Unit, heatmap: Tensor, folder: Path, cost: Cost | None = None) -> Explanation:
    """Store a heatmap (F, N) and make its record."""
    negative = bool((heatmap < 0).any())
    digest = write_heatmap(folder, heatmap)
    return Explanation(key=unit.key, unit=unit, status="ok", heatmap_sha256=digest, negative=negative, cost=cost or Cost())
