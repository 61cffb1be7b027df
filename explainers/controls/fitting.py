"""Fit the tables of the priors on a task's train split, for every official recipe, and write them beside the code."""

from pathlib import Path

from safetensors.torch import save_file

from xaibench.errors import DataError
from xaibench.explainers.controls.priors import TABLES
from xaibench.registry import EXPLAINERS
from xaibench.types import Task, Weights

PRIORS = ("frequency_prior", "frequency_level_prior")


def fit_tables(task: Task, out: Path | None = None) -> list[Path]:
    """Fit every prior for every recipe of the task and write one safetensors file per prior.

    Raises:
        DataError: If the task has no train split; then the harness fits priors leaving the speaker out.
    """
    pairs = task.pairs("train")
    if not pairs:
        raise DataError(
            f"task must have a train split to fit a table, got {task.name!r} without one; its priors are fitted leaving the speaker out"
        )
    folder = out or TABLES
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in PRIORS:
        tables: Weights = {}
        for recipe in task.recipes:
            fitted = EXPLAINERS.load(name, recipe=recipe).fit(task.load(p) for p in pairs)
            tables |= {f"{recipe}/{key}": value.float().contiguous() for key, value in fitted.items()}
        path = folder / f"{name}-{task.name}.safetensors"
        save_file(tables, path, metadata={"task": task.name, "fingerprint": task.fingerprint(), "pairs": str(len(pairs))})
        paths.append(path)
    return paths
