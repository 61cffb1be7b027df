"""Run the benchmark: plan, explain, score, summarise. The same call goes on where it was interrupted.

from xaibench.benchmark.run import run
results = run(["gradient_shap"], ["minivoc"], limit=8)
"""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from xaibench.benchmark.executors.contract import Executor
from xaibench.benchmark.finish import Tally, finish
from xaibench.benchmark.folder import DONE, JOURNAL, MANIFEST, RUN_LOG, RunFolder
from xaibench.benchmark.given import Given
from xaibench.benchmark.journal import Journal
from xaibench.benchmark.manifest import Request, describe, read_manifest
from xaibench.benchmark.plan import Plan, make_plan, shard_of
from xaibench.benchmark.progress import Drain, LogFile, Progress, Ticker
from xaibench.benchmark.results import Results
from xaibench.benchmark.session import Session
from xaibench.benchmark.suite import ON_REQUEST, Budget, Causal, Curves, Suite, TierName, checked_suite
from xaibench.benchmark.threads import one_thread
from xaibench.benchmark.world import World, label_of, load_detectors, load_explainers, load_tasks
from xaibench.errors import NothingMeasuredError, UnitsFailedError
from xaibench.registry import EXECUTORS
from xaibench.types import Detector, Explainer, Task


def run(  # noqa: PLR0913 (the options of the main command)
    explainers: Sequence[str | Explainer],
    tasks: Sequence[str | Task] = ("minivoc",),
    detector: str | Detector | None = None,
    detector_weights: str | Path | None = None,
    *,
    limit: int | None = None,
    full: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    jobs: int | None = None,
    retry_errors: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
    suite: str | Suite = "xaibench-v1",
    recipes: Sequence[str] = (),
    faithfulness: bool = True,
    max_failures: int | None = None,
    timeout_s: float | None = None,
    given: Given | None = None,
    causal: bool | None = None,
    memory_mb: int | None = None,
    executor: str | Executor | None = None,
    shard: str | None = None,
) -> Results:
    """Explain the tasks with the explainers and all controls, score every heatmap, and write the run folder.

    Args:
        explainers: Names with options (``"gradient_shap:n_samples=20"``) or objects; controls are always added.
        tasks: Names or objects.
        detector: Name or object; by default each task's own.
        detector_weights: Checkpoint of a detector given by name.
        limit: Clips per task, counted before the gate on the twins' gap; by default what the tier says.
        full: Every clip, occluder and step instead of the quick tier.
        out: Run folder; by default ``runs/<name>-<id>`` in the working directory, where equal commands meet.
        seed: Seed of everything random.
        device: Where the detector and the explainers compute.
        jobs: Worker processes; by default one per processor, and always one on another device than the CPU.
        retry_errors: Try failed explanations again.
        fresh: Forget what an earlier start left in the folder.
        progress: Called with work done and work in all.
        suite: Protocol.
        recipes: Further mask recipes beside the official ones.
        faithfulness: Whether to measure curves.
        max_failures: Failed explanations of the explainers asked for that are tolerated; ``None`` for any number.
        timeout_s: Longest time for one explanation; ``None`` for any.
        given: Explanations of one more row that were made elsewhere.
        causal: Whether to measure the causal truth; by default what the tier says.
        memory_mb: Memory that the explanations of a worker may take; ``None`` for any. Linux only.
        executor: Engine, by specification (``"dask:scheduler=tcp://host:8786"``) or as an object; by default ``jobs`` workers here.
        shard: Part of the clips, as ``"2/8"``; ``care.merge`` joins the folders of all parts, and the same call without it finishes there.

    Returns:
        The results, read from the folder.

    Raises:
        RunError: If the folder is in use, foreign, full or cannot be written. What was finished is kept.
        UnitsFailedError: If more explanations failed than allowed; the results are complete all the same.
        NothingMeasuredError: If an explainer asked for succeeded on no clip; the results are complete all the same.
        KeyboardInterrupt: After Ctrl-C, once what was under way is written down.
    """
    here, start = Path.cwd(), time.monotonic()  # before any plugin's code runs
    protocol = checked_suite(suite)
    explainers = [*explainers, given.explainer] if given else explainers
    world = _world(protocol, explainers, tasks, detector, detector_weights, device, seed, (timeout_s, memory_mb))
    tier: TierName = "full" if full else "quick"
    budget = protocol.budgets[tier]
    _check(limit, max_failures, timeout_s, memory_mb)
    plan = make_plan(world, budget, tier, limit, recipes, shard_of(shard) if shard is not None else (1, 1))
    world.locate(here / (out if out is not None else Path("runs") / default_name(world, plan)))
    engine = engine_of(executor, job_count(jobs, device), memory_mb)
    request = Request(limit, seed, device, engine.describe(), str(detector_weights or "") or None, faithfulness, causal, shard)
    with (
        RunFolder(world.folder, fresh) as folder,
        Journal(world.folder / JOURNAL) as journal,
        LogFile(world.folder / RUN_LOG),
        Drain() as drain,
    ):
        slow = _slow(world, folder)
        folder.forget_done()
        manifest = describe(world, plan, request, slow)
        folder.write_json(MANIFEST, manifest.model_dump(mode="json"))
        session = Session(world, plan, folder, journal, Ticker(progress), drain, engine)
        if given:
            session.take_given(given, label_of(given.explainer))
        session.explain(retry_errors)
        curves = {task: curves_of(world.tasks[task], budget, slow[name]) for task, name in world.detector_of.items() if faithfulness}
        truths = causal_of(world, budget, slow, causal)
        session.score(curves, retry_errors, truths, budget.sanity)
        if drain.requested:
            raise KeyboardInterrupt(f"interrupted; the same command goes on in {world.folder}")
        tally = finish(session, curves, slow, truths)
        told = {"coverage": tally.coverage, "seconds": round(time.monotonic() - start, 1)}
        folder.write_json(MANIFEST, manifest.model_copy(update=told).model_dump(mode="json"))
        folder.write(DONE, f"{plan.id}\n".encode())
    _judge(world, tally, world.folder, max_failures)
    return Results.read(world.folder)


def _check(limit: int | None, max_failures: int | None, timeout_s: float | None, memory_mb: int | None) -> None:
    if timeout_s is not None and timeout_s <= 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s:g}; leave it out for no limit")
    if memory_mb is not None and memory_mb < 1:
        raise ValueError(f"memory_mb must be at least 1, got {memory_mb}; leave it out for no limit")
    if max_failures is not None and max_failures < 0:
        raise ValueError(f"max_failures must be at least 0, got {max_failures}; leave it out for any number")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; leave it out for the whole tier")


def curves_of(task: Task, budget: Budget, slow: bool) -> Curves:
    """Return the curves that a budget gives to a task; where there are no twins, without occluders that need them."""
    curves = budget.slow_curves if slow else budget.curves
    return curves.without_twins() if task.truth in ("time", "none") else curves


def causal_of(world: World, budget: Budget, slow: dict[str, bool], wanted: bool | None) -> dict[str, Causal]:
    """Return the budget of the causal truth for each task that has twins; empty where none is wanted."""
    fast, long = budget.causal, budget.slow_causal
    if wanted and fast is None:
        fast, long = ON_REQUEST
    if wanted is False or fast is None:
        return {}
    found = {task: (long or fast) if slow[name] else fast for task, name in world.detector_of.items()}
    return {task: chosen for task, chosen in found.items() if world.tasks[task].truth not in ("time", "none")}


def _world(
    suite: Suite,
    explainers: Sequence[str | Explainer],
    tasks: Sequence[str | Task],
    detector: str | Detector | None,
    weights: str | Path | None,
    device: str,
    seed: int,
    limits: tuple[float | None, int | None],
) -> World:
    loaded = load_tasks(tasks)
    detectors, detector_of = load_detectors(loaded, detector, weights, device)
    return World(suite, loaded, detectors, detector_of, load_explainers(explainers, suite), seed, *limits)


def default_name(world: World, plan: Plan) -> str:
    """Name a run folder after what is new in it, and by the hash of its plan."""
    own = [label for label, explainer in world.explainers.items() if not explainer.control] or ["controls"]
    words = "-".join((*own[:2], *(("more",) if len(own) > 2 else ()), *world.tasks))
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', words)[:60]}-{plan.id[:12]}"


def job_count(jobs: int | None, device: str) -> int:
    """Choose the number of workers; forked ones cannot share an accelerator."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}; leave it out for one per processor")
    if device != "cpu":
        return 1
    return jobs if jobs is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def engine_of(executor: str | Executor | None, jobs: int, memory_mb: int | None = None) -> Executor:
    """Return the engine: the one asked for, or as many workers as jobs; one job works in this process, unless a leak must be contained.

    Raises:
        TypeError: If it is neither a specification nor an engine.
    """
    if executor is None:
        executor = "serial" if jobs == 1 and memory_mb is None else f"local:jobs={jobs}"
    engine = EXECUTORS.load(executor) if isinstance(executor, str) else executor
    if not isinstance(engine, Executor):
        raise TypeError(f"executor must be a specification or an Executor, got {executor!r}; write for example 'dask:workers=4'")
    return engine


def _slow(world: World, folder: RunFolder) -> dict[str, bool]:
    """Tell which detectors get the budget for slow ones; measured once, then remembered in the manifest so that a resumed run agrees."""
    try:
        known = read_manifest(folder.path / MANIFEST).detectors
    except FileNotFoundError:
        known = {}
    found = {}
    for label, detector in world.detectors.items():
        before = known.get(label)
        same = before is not None and before.fingerprint == detector.fingerprint()
        found[label] = before.slow if before is not None and same else forward_seconds(detector) > world.suite.slow_forward_s
    return found


def forward_seconds(detector: Detector) -> float:
    """Measure one forward pass of one clip, the best of three after a warm-up, with one thread."""
    device = next((p.device for p in detector.parameters()), torch.device("cpu"))
    clip = torch.zeros(1, detector.input_samples, device=device)
    seconds = []
    with one_thread(), torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            float(detector.spoof_logit(clip))
            seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _judge(world: World, tally: Tally, place: Path, max_failures: int | None) -> None:
    """Turn too many failures into an error, after everything is written; controls count only where nothing else was asked for."""
    own = [label for label in world.explainers if not world.is_control(label)] or list(world.explainers)
    measured = any(tally.by_label[label]["ok"] for label in own)
    for label in own:
        if not tally.by_label[label]["ok"] and (tally.failed(label) or not measured):
            # one that does not apply has answered, as long as another was measured
            raise NothingMeasuredError(
                f"explainer must succeed on at least one clip, got {label} with none ({tally.reasons.get(label, 'no clip')}); "
                f"see `why` in {place}/units.parquet"
            )
    count = sum(map(tally.failed, own))
    if max_failures is not None and count > max_failures:
        raise UnitsFailedError(f"at most {max_failures} explanations may fail, got {count}; see `why` in {place}/units.parquet")
