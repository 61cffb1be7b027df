"""The objects of a run: tasks, detectors and explainers as loaded, and how an explainer is made ready for one clip."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from xaibench.benchmark.aggregate import RowInfo
from xaibench.benchmark.suite import Suite
from xaibench.benchmark.units import first_line
from xaibench.errors import PluginError
from xaibench.registry import DETECTORS, EXPLAINERS, TASKS
from xaibench.tasks.recipes import CLEAN, PLANTED
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Control, Detector, Explainer, Pair, Task

INJECTED = ("recipe", "stft")
"""Fields of an explainer that the harness sets; they are no part of its row label."""


@dataclass(frozen=True)
class World:
    """Everything that a worker needs besides the units; it can be forked or pickled."""

    suite: Suite
    tasks: dict[str, Task]
    detectors: dict[str, Detector]
    detector_of: dict[str, str]
    """Task label to detector label."""
    explainers: dict[str, Explainer]
    seed: int
    timeout_s: float | None = None
    memory_mb: int | None = None
    """Memory that an explanation may take beyond what its process held before it began to work."""
    variants: dict[tuple[str, str, str], Explainer] = field(default_factory=dict, repr=False)
    place: dict[str, Path] = field(default_factory=dict, repr=False)
    described: dict[str, RowInfo] = field(default_factory=dict, repr=False)
    """What is known of the rows where the explainers themselves are not loaded: a run that is scored again needs no plugin of its past."""

    def locate(self, folder: Path) -> None:
        """Set the run folder, which is named after the plan and so is known last."""
        self.place["folder"] = folder.absolute()  # a plugin may change the working directory

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.place["folder"]

    def stft(self, task: str) -> STFTConfig:
        """Return the grid of a task."""
        grid: STFTConfig = getattr(self.tasks[task], "stft", DEFAULT_STFT)
        return grid

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what another machine finds by itself: lists that tasks keep, and variants."""
        tasks = {label: replace(task) for label, task in self.tasks.items()}
        return {**self.__dict__, "tasks": tasks, "variants": {}}

    @property
    def rows(self) -> dict[str, RowInfo]:
        """What the tables must know of every explainer, by label."""
        return self.described or {label: RowInfo(label, label, self.is_control(label), self.is_oracle(label)) for label in self.explainers}

    def is_control(self, label: str) -> bool:
        """Tell whether an explainer is one of the house's controls; those of third parties compete like anybody."""
        kind = type(self.explainers[label])
        return label in self.suite.controls or (kind.control and kind.__module__.startswith("xaibench.explainers.controls"))

    def is_oracle(self, label: str) -> bool:
        """Tell whether an explainer is handed the bona fide twin: an oracle of the house, never one that merely says so."""
        return self.explainers[label].oracle and self.is_control(label)

    def variant(self, label: str, recipe: str, task: str) -> Explainer:
        """Return the explainer with the task's grid, the recipe, and the weights that it ships for the task."""
        known = self.variants.get((label, recipe, task))
        if known is None:
            known = self.explainers[label]
            names = {f.name for f in fields(known)}
            told = (
                recipe if recipe not in (PLANTED.name, CLEAN.name) or self.is_control(label) else ""
            )  # a segmenter looks for what it was trained for
            wanted: dict[str, Any] = {"recipe": told, "stft": self.stft(task)}
            known = replace(known, **{name: value for name, value in wanted.items() if name in names and value != ""})
            known = known.bind(self.tasks[task].name)
            self.variants[label, recipe, task] = known
        return known

    def ready(self, label: str, recipe: str, task: str, pair: Pair) -> Explainer:
        """Return the variant as it explains this pair; the house's controls alone are handed the task and the pair."""
        explainer = self.variant(label, recipe, task)
        if isinstance(explainer, Control) and self.is_control(label):
            return explainer.prepare(self.tasks[task], pair)
        return explainer


def label_of(plugin: Any, hidden: Sequence[str] = INJECTED) -> str:
    """Write a plugin as its shortest specification: the name and the options that differ from the defaults."""
    options = [
        f"{f.name}={_plain(value)}"
        for f in fields(plugin)
        if f.metadata.get("config", True) and f.name not in hidden and (value := getattr(plugin, f.name)) != f.default
    ]
    return f"{plugin.name}:{','.join(options)}" if options else str(plugin.name)


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def load_explainers(wanted: Sequence[str | Explainer], suite: Suite) -> dict[str, Explainer]:
    """Load the explainers asked for, after the controls of the suite, by row label.

    Raises:
        PluginError: If two different explainers would share a row.
        TypeError: If something is neither a specification nor an explainer.
    """
    found: dict[str, Explainer] = {}
    for item in (*suite.controls, *wanted):
        explainer = EXPLAINERS.load(item) if isinstance(item, str) else item
        if not isinstance(explainer, Explainer):
            raise TypeError(f"explainers must be names or Explainer objects, got {item!r}; write for example 'gradient_shap:n_samples=20'")
        label = label_of(explainer)
        if label in found and found[label] != explainer:
            raise PluginError(f"explainers must have distinct options, got two different ones called {label!r}; rename one")
        found.setdefault(label, explainer)
    return found


def load_tasks(wanted: Sequence[str | Task]) -> dict[str, Task]:
    """Load tasks by label.

    Raises:
        TypeError: If something is neither a specification nor a task.
        ValueError: If there is none.
    """
    if isinstance(wanted, (str, Task)) or not wanted:
        raise ValueError(f"tasks must be a list with at least one task, got {wanted!r}; use for example ['minivoc']")
    loaded = [TASKS.load(item) if isinstance(item, str) else item for item in wanted]
    for item, task in zip(wanted, loaded, strict=True):
        if not isinstance(task, Task):
            raise TypeError(f"tasks must be names or Task objects, got {item!r}; use for example 'minivoc'")
    return {label_of(task): task for task in loaded}


def check_device(device: str) -> None:
    """Try a device before anything is loaded onto it.

    Raises:
        ValueError: If it is unknown, not there, or holds no values.
    """
    try:
        usable = bool(torch.zeros(1, device=device).item() == 0)
        reason = ""
    except Exception as error:  # which one depends on how torch was built
        usable, reason = False, f" ({first_line(error)})"
    if not usable:
        raise ValueError(f"device must be one that torch can use here, got {device!r}{reason}; use cpu")


def load_detectors(
    tasks: dict[str, Task], wanted: str | Detector | None, weights: str | Path | None, device: str
) -> tuple[dict[str, Detector], dict[str, str]]:
    """Load the detector of each task (its default, unless one is wanted for all) in ``eval()`` mode with frozen parameters.

    Returns:
        The detectors by label, and the label of each task's detector.

    Raises:
        ValueError: If the device is unknown or not there.
    """
    check_device(device)
    detectors: dict[str, Detector] = {}
    detector_of: dict[str, str] = {}
    for name, task in tasks.items():
        choice = task.default_detector if wanted is None else wanted
        label = choice if isinstance(choice, str) else choice.name
        if label not in detectors:
            options = {} if weights is None else {"weights": str(weights)}
            detector = DETECTORS.load(choice, **options) if isinstance(choice, str) else choice
            detectors[label] = detector.to(device).eval().requires_grad_(False)
        detector_of[name] = label
    return detectors, detector_of
