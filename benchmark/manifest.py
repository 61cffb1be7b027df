"""``manifest.json``: what was asked, with what, on what machine; enough to give the command again."""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from xaibench.benchmark.machine import Determinism, Environment, Source, determinism, distribution_of, environment, source
from xaibench.benchmark.migrate import NEWEST, read_document
from xaibench.benchmark.plan import Plan
from xaibench.benchmark.source import source_hash
from xaibench.benchmark.world import World
from xaibench.errors import RunError


@dataclass(frozen=True)
class Request:
    """What the user asked for, as far as the plan does not say it."""

    limit: int | None
    seed: int
    device: str
    executor: str
    detector_weights: str | None
    faithfulness: bool = True
    causal: bool | None = None
    """Whether the causal truth was asked for; ``None`` for what the tier says."""
    shard: str | None = None
    """Which part of the clips."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskEntry(_Entry):
    """A task of the run."""

    title: str
    version: int | str
    licence: str
    truth: str
    fingerprint: str
    detector: str
    recipes: list[str]
    stft: dict[str, int]
    clips: int
    refused: dict[str, str]
    """Pairs that were passed over, with the reason."""


class DetectorEntry(_Entry):
    """A detector of the run."""

    fingerprint: str
    slow: bool
    """Whether it has the budget for slow ones; measured once, so that a resumed run agrees."""


class ExplainerEntry(_Entry):
    """A row of the run."""

    name: str
    version: int | str
    reference: str
    polarity: str
    needs: list[str]
    deterministic: bool
    config: dict[str, Any]
    control: bool
    oracle: bool
    source: str | None
    """SHA-256 of its code and of what it imports from the stations."""
    distribution: str | None
    """Package and version that it came with; empty for a file or an object."""


class Manifest(_Entry):
    """The manifest of a run. What an older run does not tell is ``None``; a field that this release does not know is refused."""

    schema_version: int = NEWEST["manifest"]
    run: str
    suite: str
    suite_sha256: str
    tier: str
    limit: int | None
    seed: int
    device: str
    executor: str
    detector_weights: str | None
    faithfulness: bool
    causal: bool | None
    shard: str | None
    tasks: dict[str, TaskEntry]
    detectors: dict[str, DetectorEntry]
    explainers: dict[str, ExplainerEntry]
    argv: list[str]
    started_at: str
    environment: Environment
    source: Source | None
    """Of the harness itself, if it runs from a checkout."""
    determinism: Determinism | None
    coverage: dict[str, int] | None = None
    """Units by outcome once the run is finished: ``ok``, or status and kind of error."""
    seconds: float | None = None
    """Wall time of the last sitting."""
    scored_again: dict[str, str] | None = None
    """When the stored heatmaps were last scored anew, and by which release."""


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a run folder, in the newest version.

    Raises:
        FileNotFoundError: If there is none.
        RunError: If it is not what this release or an older one writes.
    """
    found = read_document("manifest", path)
    try:
        return Manifest.model_validate(found)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        reason = error.errors()[0]["msg"]
        raise RunError(f"manifest must be what xaibench writes, got {path}: {place}: {reason}; delete it, the journal stays") from error


def describe(world: World, plan: Plan, request: Request, slow: dict[str, bool]) -> Manifest:
    """Describe a run at its start."""
    return Manifest(
        run=plan.id,
        suite=world.suite.name,
        suite_sha256=plan.suite_hash,
        tier=plan.tier,
        limit=request.limit,
        seed=request.seed,
        device=request.device,
        executor=request.executor,
        detector_weights=request.detector_weights,
        faithfulness=request.faithfulness,
        causal=request.causal,
        shard=request.shard,
        tasks={label: _task(world, plan, label) for label in world.tasks},
        detectors={
            label: DetectorEntry(fingerprint=detector.fingerprint(), slow=slow.get(label, False))
            for label, detector in world.detectors.items()
        },
        explainers={label: _explainer(world, label) for label in world.explainers},
        argv=sys.argv,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment(),
        source=source(),
        determinism=determinism(),
    )


def _task(world: World, plan: Plan, label: str) -> TaskEntry:
    task = world.tasks[label]
    grid = world.stft(label)
    return TaskEntry(
        title=task.title,
        version=task.version,
        licence=task.licence,
        truth=task.truth,
        fingerprint=task.fingerprint(),
        detector=world.detector_of[label],
        recipes=list(plan.recipes[label]),
        stft={"window_samples": grid.window_samples, "hop_samples": grid.hop_samples},
        clips=sum(clip.ref.task == label for clip in plan.clips),
        refused=plan.refused.get(label, {}),
    )


def _explainer(world: World, label: str) -> ExplainerEntry:
    explainer = world.explainers[label]
    return ExplainerEntry(
        name=explainer.name,
        version=explainer.version,
        reference=explainer.reference,
        polarity=explainer.polarity,
        needs=sorted(explainer.needs),
        deterministic=explainer.deterministic,
        config=explainer.config(),
        control=world.is_control(label),
        oracle=world.is_oracle(label),
        source=source_hash(type(explainer)),
        distribution=distribution_of(type(explainer)),
    )
