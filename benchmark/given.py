"""Explanations that were made elsewhere: how they enter a run, and what their rows say of where they come from."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from xaibench.benchmark.units import Explanation, Words
from xaibench.types import Explainer

if TYPE_CHECKING:
    from xaibench.benchmark.plan import Plan

Track = Literal["results", "heatmaps", "code"]
"""Who did what: the author's numbers (A), the author's heatmaps scored here (B), the author's code run here (C)."""


class Origin(BaseModel):
    """Where the explanations of a row come from; shown beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    track: Track
    package_sha256: str = ""
    authors: tuple[Words, ...] = ()
    isolation: str = ""
    """Level of the ladder at which code was run, e.g. ``"L3 bubblewrap"``; empty where none was."""
    trusted: bool = True
    """False where code was run below L3 because somebody vouched for it: the row is greyed."""
    reproduced: bool = False
    """Whether a maintainer made the explanations again."""
    covered: int = 0
    asked: int = 0
    """Explanations given or reported as failed, of those that the protocol asked for; fewer make a row partial, and it does not compete."""
    repeatability: float | None = None
    """Agreement of two answers to one clip under another gain and offset, 0 to 1; null where it was not measured."""

    @property
    def partial(self) -> bool:
        """Whether clips are missing."""
        return self.covered < self.asked


class Given(Protocol):
    """Explanations of one explainer for the units of a plan."""

    @property
    def explainer(self) -> Explainer:
        """What stands for the row; it is never asked to explain."""
        ...

    def records(self, plan: "Plan", folder: Path) -> Iterator[Explanation]:
        """Yield one record for each unit of the explainer, its heatmap stored in the folder of the run."""
        ...

    def origin(self) -> Origin:
        """Say where the explanations come from; asked after ``records`` has ended."""
        ...
