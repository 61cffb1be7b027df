"""Check and score a package: the run of the benchmark, with one row whose heatmaps come from outside.

Controls, metrics, intervals and tiers are those of every run. The controls of a protocol, task and detector are explained and scored once
and kept in the cache, so that the next package pays for its own row alone.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from xaibench.benchmark.folder import JOURNAL
from xaibench.benchmark.given import Given
from xaibench.benchmark.progress import Progress
from xaibench.benchmark.results import Results
from xaibench.benchmark.run import run
from xaibench.benchmark.suite import Suite, checked_suite
from xaibench.benchmark.world import load_detectors, load_tasks
from xaibench.errors import DataMismatchError, SubmissionError
from xaibench.leaderboard.submission.card import Card
from xaibench.leaderboard.submission.package import Coverage, Package, check_coverage, check_subject
from xaibench.leaderboard.submission.rows import GivenHeatmaps
from xaibench.tasks.cache import cache_dir
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Task, content_hash


@dataclass(frozen=True)
class Setting:
    """What a package is judged on."""

    task: Task
    detector: Detector
    suite: Suite

    @property
    def stft(self) -> STFTConfig:
        """Grid of the task."""
        grid: STFTConfig = getattr(self.task, "stft", DEFAULT_STFT)
        return grid

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a heatmap, (F, N)."""
        return self.stft.bins, self.stft.frames(self.detector.input_samples)


def setting(
    card: Card,
    *,
    task: str | Task | None = None,
    detector: str | Detector | None = None,
    detector_weights: str | Path | None = None,
    suite: Suite | None = None,
) -> Setting:
    """Load what a card names, and verify that it is the same.

    Args:
        card: Card of the package.
        task: The task, where its name alone does not find it (a folder of pairs, say).
        detector: The detector, likewise.
        detector_weights: Checkpoint of a detector given by name.
        suite: A protocol of one's own, of the name that the card gives.

    Raises:
        DataMismatchError: If task or detector have another content than those that were explained.
        SubmissionError: If the card names another protocol than the suite at hand.
    """
    protocol = suite or checked_suite(card.suite)
    if protocol.name != card.suite:
        raise SubmissionError(f"suite must be {card.suite}, got {protocol.name}; score it under the protocol that it was made for")
    (loaded,) = load_tasks([task if task is not None else card.task.name]).values()
    check_subject(card, loaded)
    detectors, _ = load_detectors({"": loaded}, detector if detector is not None else card.detector.name, detector_weights, "cpu")
    (model,) = detectors.values()
    if model.fingerprint() != card.detector.fingerprint:
        raise DataMismatchError(
            f"detector must be the {card.detector.name} that was explained ({card.detector.fingerprint[:12]}...), "
            f"got {model.fingerprint()[:12]}...; use the same weights"
        )
    return Setting(loaded, model, protocol)


def check(package: Package, place: Setting) -> Coverage:
    """Look at every byte of a package of heatmaps.

    Raises:
        SubmissionError: If it breaks a rule of the format; maps that are no heatmaps are told in the result.
    """
    if package.card.track != "heatmaps":
        raise SubmissionError("package must hold heatmaps to be checked or scored as such, got code; use `xaibench submit run`")
    return check_coverage(package, place.task, place.shape)


def score(
    package: Package,
    place: Setting,
    out: str | Path,
    *,
    given: Given | None = None,
    full: bool = False,
    limit: int | None = None,
    jobs: int | None = None,
    faithfulness: bool = True,
    progress: Progress | None = None,
) -> Results:
    """Score a package beside the controls and write the run folder.

    Args:
        package: The package.
        place: What it is judged on.
        out: Run folder.
        given: Explanations; by default the heatmaps of the package.
        full: Every clip, occluder and step instead of the quick tier.
        limit: Clips, by default what the tier says.
        jobs: Worker processes.
        faithfulness: Whether to measure curves.
        progress: Called with work done and work in all.

    Raises:
        NothingMeasuredError: If not a single heatmap could be used.
        RunError: If the folder cannot be used.
    """
    options = {"full": full, "limit": limit, "jobs": jobs, "faithfulness": faithfulness, "suite": place.suite, "progress": progress}
    controls = run([], [place.task], place.detector, out=_controls_home(place, full, limit, faithfulness), **options)  # type: ignore[arg-type]
    _begin(Path(out), controls.path)
    made = given or GivenHeatmaps(package, place.shape)
    return run([], [place.task], place.detector, out=out, given=made, **options)  # type: ignore[arg-type]


def _controls_home(place: Setting, full: bool, limit: int | None, faithfulness: bool) -> Path:
    asked = [place.suite.content_hash(), place.task.fingerprint(), place.detector.fingerprint(), full, limit, faithfulness]
    return cache_dir() / "controls" / content_hash(asked)[:16]


def _begin(out: Path, controls: Path) -> None:
    """Give a new run folder the journal and the heatmaps of the controls, linked where the disk allows."""
    if out.exists() and any(out.iterdir()):
        return  # an interrupted scoring, which goes on; or a foreign folder, which the run refuses
    (out / "heatmaps").mkdir(parents=True, exist_ok=True)
    for path in (controls / "heatmaps").iterdir():
        target = out / "heatmaps" / path.name
        try:
            os.link(path, target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(path, target)
    shutil.copyfile(controls / JOURNAL, out / JOURNAL)
