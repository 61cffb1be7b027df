"""From a task to shipped weights: cache, train, select, write weights and card; the command `xaibench train` calls this."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xaibench.errors import MissingExtraError
from xaibench.explainers.segdiff import features
from xaibench.explainers.segdiff.checkpoints import Run
from xaibench.explainers.segdiff.data import cached
from xaibench.explainers.segdiff.evaluation import calibration
from xaibench.explainers.segdiff.mixture import Mixture
from xaibench.explainers.segdiff.network import parameters
from xaibench.explainers.segdiff.training import Report, Source, TrainingConfig, train
from xaibench.explainers.segdiff.weights import dump, write
from xaibench.tasks.cache import cache_dir
from xaibench.types import Detector, Task, tensors_hash


class Further(NamedTuple):
    """A further task to learn from."""

    task: Task
    copies: int
    """Examples made of each pair."""
    repeats: int = 1
    """How often they are seen for each time that the task's own are."""


def train_explainer(
    task: Task,
    config: TrainingConfig,
    *,
    out: Path,
    device: str = "cpu",
    examples_dir: Path | None = None,
    report: Report | None = None,
    also: Sequence[Further] = (),
    detector: Detector | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Train on the task's train split, select on its dev split, and write ``<method>-<task>.safetensors`` and its card into ``out``.

    A run that was stopped goes on from its last checkpoint in ``out``.

    Args:
        task: Task with a train split; without a dev split the last weights are taken.
        config: The run; ``TrainingConfig(model=preset("specsegdiff", "small"))`` made the shipped weights but for what their card says.
        out: Folder for weights, card, checkpoint and history.
        device: ``cpu``, ``cuda``, ...
        examples_dir: Folder of the cached examples; the cache by default.
        report: Called with a record after every step and every evaluation, e.g. ``board`` or a progress bar.
        also: Further tasks whose train splits are learned from.
        detector: The detector whose features are read, for the ``addsegdiff`` pair.
        minutes: End after so long although the run is longer, with the best weights so far; the same call goes on from there.

    Returns:
        The card.

    Raises:
        DataError: If the task has no training pairs.
        WeightsError: If ``out`` holds the checkpoint of another run.
    """
    folder = examples_dir or cache_dir() / "segdiff"
    own = cached(task, "train", config.examples(), folder, detector)
    parts = [cached(f.task, "train", replace(config.examples(), copies=f.copies), folder, detector) for f in also]
    examples: Source = Mixture([own, *parts], [1] + [f.repeats for f in also]) if parts else own
    dev = cached(task, "dev", config.plain_examples(), folder, detector) if task.pairs("dev") else None

    run = train(config, examples, dev, out=out, device=device, report=report, minutes=minutes)
    run.network.load_state_dict(run.best_weights)
    if dev is not None:
        run.best_scores = run.best_scores | {"calibration": calibration(run.network.eval(), config.model, dev, device=device)}
    known = card(config, run, task=task.name, data=task.fingerprint(), examples=len(examples), device=device)
    if also:
        known["also"] = [
            {"task": f.task.name, "data_fingerprint": f.task.fingerprint(), "copies": f.copies, "repeats": f.repeats} for f in also
        ]
    if detector is not None:
        known["detector"] = {"name": detector.name, "fingerprint": config.model.detector}
    write(Path(out) / f"{config.model.method}-{task.name}.safetensors", config.model, run.best_weights, known)
    return known


@contextmanager
def board(folder: Path) -> Iterator[Report]:
    """Yield a report that writes losses and scores for TensorBoard into a folder.

    Raises:
        MissingExtraError: If tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("--tensorboard needs tensorboard, which is not installed; run `pip install 'xaibench[train]'`") from error
    with SummaryWriter(str(folder)) as writer:

        def report(record: dict[str, Any]) -> None:
            writer.add_scalar("loss", record["loss"], record["step"])
            for name, score in record.get("dev", {}).items():
                writer.add_scalar(f"dev/{name}", score, record["step"])

        yield report


class Listener(NamedTuple):
    """A detector as an ``addsegdiff`` explainer hears it."""

    heard: Detector
    """The detector, or its blank copy."""
    preset: dict[str, Any]
    """What ``weights.preset`` must know of it."""


def listener(method: str, detector: Detector) -> Listener:
    """Return what training ``addsegdiff`` or ``addsegdiff_random`` on a detector needs."""
    heard = features.randomised(detector) if method == "addsegdiff_random" else detector
    shapes = tuple((m.shape[1], m.shape[2]) for m in features.read(heard, torch.zeros(1, detector.input_samples)))
    return Listener(heard, {"features": shapes, "detector": heard.fingerprint()})


def card(config: TrainingConfig, run: Run, *, task: str, data: str, examples: int, device: str = "cpu") -> dict[str, Any]:
    """Return what must be known about the best weights of a run.

    Args:
        config: The run's configuration.
        run: The finished run.
        task: Name of the task.
        data: Fingerprint of the task.
        examples: Training examples, augmented copies included.
        device: Where it ran.
    """
    weights = run.best_weights or run.average
    half = {name: t.half().float() for name, t in weights.items()}
    return {
        "method": config.model.method,
        "task": task,
        "data_fingerprint": data,
        "training": asdict(config) | {name: Path(getattr(config, name)).name for name in ("initial", "backbone", "teacher")},
        "examples": examples,
        "steps": run.step,
        "parameters": parameters(run.network),
        "seconds": round(run.seconds),
        "hardware": _hardware(device),
        "torch": torch.__version__.split("+")[0],
        "dev": run.best_scores,
        "weights_sha256": tensors_hash(half),
        "file_bytes": len(dump(config.model, weights)),
    }


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
