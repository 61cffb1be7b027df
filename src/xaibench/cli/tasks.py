"""Tasks as the command line names them: a specification, and a folder for each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xaibench.errors import UnknownNameError
from xaibench.registry import TASKS

if TYPE_CHECKING:
    from xaibench.types import Task


def tasks_with_data(specs: Sequence[str], folders: Sequence[str]) -> "list[str | Task]":
    """Return the tasks; with folders, each task is loaded with its own.

    Raises:
        UnknownNameError: If there is neither one folder for each task nor none at all.
    """
    if not folders:
        return list(specs)
    if len(folders) != len(specs):
        raise UnknownNameError(
            f"--data must be given once for each --task ({len(specs)}), got {len(folders)}; write --task vocv4:data=DIR for some alone"
        )
    return [TASKS.load(spec, data=folder) for spec, folder in zip(specs, folders, strict=True)]


def by_label(tasks: "Sequence[str | Task]") -> "dict[str, Task]":
    """Return the tasks that are loaded already under their labels, so that a report finds their folders."""
    from xaibench.benchmark.world import label_of

    return {label_of(task): task for task in tasks if not isinstance(task, str)}
