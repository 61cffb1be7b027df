"""Score a finished run again: stored heatmaps under the present metrics, recipes or suite. No explainer is loaded, nothing explained.

The keys of explanations and of what is computed from them are separate, so scores of an earlier suite stay in the journal, and going back
to them costs nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import xaibench
from xaibench.benchmark.aggregate import RowInfo
from xaibench.benchmark.executors.contract import Executor
from xaibench.benchmark.finish import finish
from xaibench.benchmark.folder import DONE, JOURNAL, MANIFEST, RunFolder
from xaibench.benchmark.journal import Journal
from xaibench.benchmark.manifest import Manifest, read_manifest
from xaibench.benchmark.plan import Plan, plan_of, truths
from xaibench.benchmark.progress import Drain, Progress, Ticker
from xaibench.benchmark.results import Results
from xaibench.benchmark.run import causal_of, curves_of, engine_of, job_count
from xaibench.benchmark.session import Session
from xaibench.benchmark.suite import Suite, TierName, checked_suite
from xaibench.benchmark.units import Explanation
from xaibench.benchmark.world import World, check_device, label_of
from xaibench.errors import DataMismatchError, RunError
from xaibench.registry import DETECTORS, TASKS
from xaibench.types import Detector, Task


def rescore(  # noqa: PLR0913 (the options of a command)
    run_dir: str | Path,
    suite: str | Suite | None = None,
    *,
    tasks: Sequence[Task] = (),
    detector: Detector | None = None,
    recipes: Sequence[str] = (),
    full: bool | None = None,
    faithfulness: bool | None = None,
    causal: bool | None = None,
    jobs: int | None = None,
    executor: str | Executor | None = None,
    retry_errors: bool = False,
    progress: Progress | None = None,
) -> Results:
    """Score the stored heatmaps of a run under a suite and write its tables anew.

    Args:
        run_dir: Run folder; it must have been finished once.
        suite: Protocol; by default the run's own, with the metrics as they are coded now.
        tasks: Tasks that cannot be loaded by their label in the manifest.
        detector: The run's detector, if it cannot be loaded by its label.
        recipes: Further mask recipes beside those of the run.
        full: Whether to use the full tier's curves; by default as the run did.
        faithfulness: Whether to measure curves; by default as the run did.
        causal: Whether to compare with the causal truth; by default as the run did.
        jobs: Worker processes.
        executor: Engine; by default ``jobs`` workers here.
        retry_errors: Try failed scorings again.
        progress: Called with work done and work in all.

    Raises:
        RunError: If the run was never finished, or lacks a control of the suite.
        DataMismatchError: If a task or detector is not the one that was explained.
    """
    path = Path(run_dir).absolute()
    keys = _keys(path)
    with RunFolder(path) as folder, Journal(path / JOURNAL) as journal, Drain() as drain:
        manifest = _manifest(path)
        protocol = checked_suite(suite or manifest.suite)
        tier = _tier(manifest.tier) if full is None else "full" if full else "quick"
        world = _world(manifest, protocol, tasks, detector)
        world.locate(path)
        units = [r.unit for r in journal.records("explanation") if isinstance(r, Explanation) and r.key in keys]
        plan = plan_of(world, units, _recipes(manifest, world, recipes), tier)
        engine = engine_of(executor, job_count(jobs, manifest.device))
        session = Session(world, plan, folder, journal, Ticker(progress), drain, engine)
        session.origins.update(Results.read(path, partial=True).summary.origins)
        slow = {label: manifest.detectors[label].slow for label in world.detectors}
        wanted = manifest.faithfulness if faithfulness is None else faithfulness
        causal = manifest.causal if causal is None else causal
        budget = protocol.budgets[plan.tier]
        curves = {task: curves_of(world.tasks[task], budget, slow[name]) for task, name in world.detector_of.items() if wanted}
        folder.forget_done()
        session.listen()
        truths = causal_of(world, budget, slow, causal)
        session.score(curves, retry_errors, truths, budget.sanity)
        if drain.requested:
            raise KeyboardInterrupt(f"interrupted; the same command goes on in {path}")
        scored = _scored(manifest, world, plan, faithfulness=wanted, causal=causal)
        folder.write_json(MANIFEST, scored.model_dump(mode="json"))
        finish(session, curves, slow, truths)
        folder.write(DONE, f"{plan.id}\n".encode())
    return Results.read(path)


def _keys(path: Path) -> set[str]:
    """Read which explanations the tables of a run were made of; the journal may hold older ones beside them."""
    import pyarrow.parquet

    try:
        return set(pyarrow.parquet.ParquetFile(path / "units.parquet").read(columns=["key"]).column("key").to_pylist())
    except (OSError, ValueError) as error:
        raise RunError(f"run must have been finished once, got {path} without units.parquet; finish it with `xaibench run`") from error


def _manifest(path: Path) -> Manifest:
    try:
        return read_manifest(path / MANIFEST)
    except FileNotFoundError as error:
        raise RunError(f"run must have a manifest, got {path} without {MANIFEST}; finish it with `xaibench run`") from error


def _tier(name: str) -> TierName:
    return "full" if name == "full" else "quick"


def _world(manifest: Manifest, suite: Suite, tasks: Sequence[Task], detector: Detector | None) -> World:
    check_device(manifest.device)
    by_label = {label_of(task): task for task in tasks}
    loaded = {label: by_label[label] if label in by_label else TASKS.load(label) for label in manifest.tasks}
    detectors: dict[str, Detector] = {}
    for label in manifest.detectors:
        weights = manifest.detector_weights
        found = detector if detector is not None else DETECTORS.load(label, **({"weights": weights} if weights else {}))
        detectors[label] = found.to(manifest.device).eval().requires_grad_(False)
    for kind, known, now in (("task", manifest.tasks, loaded), ("detector", manifest.detectors, detectors)):
        for label, plugin in now.items():
            if plugin.fingerprint() != known[label].fingerprint:
                raise DataMismatchError(
                    f"{kind} {label!r} must be the one that was explained, got another content; restore it or run the benchmark again"
                )
    rows = {label: RowInfo(label, label, found.control, found.oracle) for label, found in manifest.explainers.items()}
    if missing := [name for name in suite.controls if name not in rows]:
        raise RunError(f"run must hold every control of suite {suite.name}, got none of {', '.join(missing)}; run the benchmark again")
    detector_of = {label: manifest.tasks[label].detector for label in loaded}
    return World(suite, loaded, detectors, detector_of, {}, manifest.seed, described=rows)


def _recipes(manifest: Manifest, world: World, extra: Sequence[str]) -> dict[str, tuple[str, ...]]:
    known = {label: tuple(manifest.tasks[label].recipes) for label in world.tasks}
    return {label: tuple(dict.fromkeys((*known[label], *truths(task, extra)))) for label, task in world.tasks.items()}


def _scored(manifest: Manifest, world: World, plan: Plan, *, faithfulness: bool, causal: bool | None) -> Manifest:
    """Return the manifest with what the scoring changed, and a note of when and by which release."""
    tasks = {label: entry.model_copy(update={"recipes": list(plan.recipes[label])}) for label, entry in manifest.tasks.items()}
    note = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "xaibench": xaibench.__version__}
    changed = {"run": plan.id, "suite": world.suite.name, "suite_sha256": plan.suite_hash, "tier": plan.tier, "tasks": tasks}
    return manifest.model_copy(update={**changed, "faithfulness": faithfulness, "causal": causal, "scored_again": note})
