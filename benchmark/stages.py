"""The two stages of a run as work for an engine: chunks of one clip in, records out, nothing kept between them.

Both can be pickled, so a worker may live in another process or on another machine: it needs the world and the chunk, and nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xaibench.benchmark.executors.contract import Chunk, Work
from xaibench.benchmark.explain import explain_unit, measure_twins, verdict
from xaibench.benchmark.plan import PlannedClip
from xaibench.benchmark.score import ClipScorer, ScoreItem
from xaibench.benchmark.seal import Seal
from xaibench.benchmark.units import Explanation, Problem, Score, Twins, Unit
from xaibench.benchmark.world import World
from xaibench.types import Clip


@dataclass(frozen=True)
class ExplainItem:
    """A unit to explain, or the twins of the clip where there is no unit."""

    unit: Unit | None
    attempt: int = 1


@dataclass(frozen=True)
class Explaining:
    """The explain stage."""

    world: World

    def work(self, log: Path | None) -> Work[ExplainItem, Explanation | Twins]:
        """Return the stage for an engine."""
        recycle = self.world.memory_mb is not None
        return Work(self.run, self.lost, self.world.timeout_s, log, recycle, self.world, writes=self.stored)

    def run(self, chunk: Chunk[ExplainItem]) -> Iterator[Explanation | Twins]:
        """Explain the items of a clip."""
        planned: PlannedClip = chunk.subject
        try:
            clip = self.world.tasks[planned.ref.task].load(planned.pair)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an unreadable recording fails its own units only
            for item in chunk.items:
                yield _failed(planned, item, verdict(error)[1])
            return
        seal = Seal(self.world.detectors[planned.detector])
        for item in chunk.items:
            if item.unit is None:
                yield measure_twins(self.world, planned, clip)
            else:
                yield explain_unit(self.world, planned, clip, item.unit, seal, item.attempt)

    def lost(self, chunk: Chunk[ExplainItem], item: ExplainItem, error: Exception) -> Explanation | Twins:
        """Record an item whose worker ended."""
        record = _failed(chunk.subject, item, verdict(error)[1])
        limit = {"timeout_s": self.world.timeout_s} if isinstance(record, Explanation) else {}
        return record.model_copy(update={"status": verdict(error)[0], **limit})

    @staticmethod
    def stored(record: Explanation | Twins) -> tuple[str, ...]:
        """Return the hash of the heatmap that came with a record."""
        digest = record.heatmap_sha256 if isinstance(record, Explanation) else ""
        return (digest,) if digest else ()


@dataclass(frozen=True)
class Scoring:
    """The score stage."""

    world: World

    def work(self, log: Path | None) -> Work[ScoreItem, Score]:
        """Return the stage for an engine."""
        return Work(self.run, self.lost, log=log, world=self.world, reads=self.needed)

    def run(self, chunk: Chunk[ScoreItem]) -> Iterator[Score]:
        """Score the heatmaps of a clip."""
        planned: PlannedClip = chunk.subject
        clip: Clip = self.world.tasks[planned.ref.task].load(planned.pair)
        scorer = ClipScorer(self.world, planned, clip)
        for item in chunk.items:
            yield scorer.score(item)

    def lost(self, chunk: Chunk[ScoreItem], item: ScoreItem, error: Exception) -> Score:
        """Record an item whose worker ended."""
        del chunk
        status, problem = verdict(error)
        return Score(
            key=item.key,
            unit=item.unit,
            stage=item.stage,
            recipe=item.recipe,
            polarity=item.polarity,
            occluder=item.occluder,
            status=status,
            problem=problem,
        )

    @staticmethod
    def needed(chunk: Chunk[ScoreItem]) -> Sequence[str]:
        """Return the hashes of the heatmaps that a chunk scores."""
        return sorted({item.heatmap_sha256 for item in chunk.items})


def _failed(planned: PlannedClip, item: ExplainItem, problem: Problem) -> Explanation | Twins:
    if item.unit is None:
        return Twins(key=planned.key, clip=planned.ref, detector=planned.detector, status="error", problem=problem)
    return Explanation(key=item.unit.key, unit=item.unit, status="error", problem=problem, attempt=item.attempt)
