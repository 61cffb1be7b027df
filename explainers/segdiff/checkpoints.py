"""Checkpoints and history of a training run."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from xaibench.errors import WeightsError
from xaibench.explainers.segdiff.network import SegDiffNetwork
from xaibench.tasks.cache import atomic_path
from xaibench.types import Weights

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.jsonl"


@dataclass
class Run:
    """The state of a run between two steps."""

    network: SegDiffNetwork
    average: Weights
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    best_weights: Weights = field(default_factory=dict)
    best_scores: dict[str, Any] = field(default_factory=dict)


def save(run: Run, out: Path | None, key: str) -> None:
    """Write the checkpoint of a run, whole or not at all; ``key`` says which run it is."""
    if out is None:
        return
    state = {
        "key": key,
        "network": run.network.state_dict(),
        "average": run.average,
        "optimizer": run.optimizer.state_dict(),
        "numbers": {"step": run.step, "seconds": run.seconds, "best": run.best},
        "best_weights": run.best_weights,
        "best_scores": json.dumps(run.best_scores),
    }
    with atomic_path(Path(out) / CHECKPOINT) as part:
        torch.save(state, part)


def resume(run: Run, out: Path, key: str, *, write: bool = True) -> None:
    """Continue from the checkpoint in ``out`` where there is one; records after it are dropped, they are about to be made again.

    Raises:
        WeightsError: If it belongs to another run.
    """
    path = out / CHECKPOINT
    if not path.exists():
        if write:
            _truncate(out / HISTORY, 0)
        return
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["key"] != key:
        raise WeightsError(f"out must be empty or hold a checkpoint of this run, got {path} of another; choose another folder")
    run.network.load_state_dict(state["network"])
    run.optimizer.load_state_dict(state["optimizer"])
    device = next(run.network.parameters()).device
    run.average = {k: v.to(device) for k, v in state["average"].items()}
    run.best_weights, run.best_scores = state["best_weights"], json.loads(state["best_scores"])
    run.step, run.seconds, run.best = (state["numbers"][k] for k in ("step", "seconds", "best"))
    if write:
        _truncate(out / HISTORY, run.step)


def _truncate(history: Path, step: int) -> None:
    if history.exists():
        kept = [line for line in history.read_text().splitlines() if json.loads(line)["step"] <= step]
        history.write_text("".join(line + "\n" for line in kept))


def records(out: Path) -> Iterator[dict[str, Any]]:
    """Read a run's history."""
    for line in (Path(out) / HISTORY).read_text().splitlines():
        yield json.loads(line)


def log(record: dict[str, Any], out: Path | None) -> None:
    """Append a record to the run's history."""
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        with (Path(out) / HISTORY).open("a") as stream:
            stream.write(json.dumps(record) + "\n")
