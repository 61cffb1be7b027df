"""Priors: where masks lie on average, fitted on training pairs and blind to the artifact of the clip at hand.

``frequency_prior`` knows the frequency of a cell, ``frequency_level_prior`` its frequency and its level under the clip's maximum. An
explainer that does not beat them has found nothing that a table of averages does not know. The table holds the share of training cells that
lie in the mask: averaging the continuous difference instead is as good for the symmetric recipe and far weaker for the paper's
(GDice 11 against 24 on real pairs), because that difference has no upper bound. Tables are sums and counts, so that leaving one speaker
out is a subtraction: that is how tasks without a train split are fitted.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor

from xaibench.errors import DataError, WeightsError
from xaibench.registry import EXPLAINERS
from xaibench.tasks.masks import recipe, smooth
from xaibench.tasks.pairs import spread
from xaibench.tasks.shelf import kept_mask
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, magnitude
from xaibench.types import Clip, Control, Detector, Generators, Pair, Task, TrainableExplainer, Weights, tensors_hash

TABLES = Path(__file__).parent / "tables"
LEVEL_STEP_DB = 3.0
LEVELS = 34
"""Levels 0 to -102 dB under the loudest cell of the clip; quieter cells share the last one."""
FIT_PAIRS = 120
"""Training pairs that a table is fitted on where none ships, spread over speakers and vocoders: 16 million cells are enough for averages,
and a corpus of ten thousand pairs must not be read before a run begins."""
PRIOR_STRENGTH = 50.0
"""Cells with few training observations lean on the average of their frequency, as if it had been seen this often."""


@dataclass(frozen=True)
class _Prior(Control, TrainableExplainer):
    """A table of mask shares; fields name the recipe it was fitted for and the task whose table is used."""

    polarity = "magnitude"
    needs = frozenset({"training_pairs"})
    recipe: str = "sym-floor60-v1"
    table: str = "minivoc"
    stft: STFTConfig = DEFAULT_STFT
    weights: Weights | None = field(default=None, repr=False, compare=False, metadata={"config": False})

    def levels(self, waveform: Tensor) -> Tensor:
        """Return the row of the table for each cell, (B, F, N) int64."""
        raise NotImplementedError

    def fit(self, pairs: Iterable[Clip]) -> Weights:
        """Count masked cells and all cells by place in the table: ``sum`` and ``count``, (F, LEVELS) float64."""
        totals = {name: torch.zeros(self.stft.bins, LEVELS, dtype=torch.float64) for name in ("sum", "count")}
        for clip in pairs:
            mask, valid = kept_mask(clip, self.recipe, self.stft)
            rows = self.levels(clip.spoof[None])[0]
            totals["sum"].scatter_add_(1, rows, mask.double())
            totals["count"].scatter_add_(1, rows, valid.double())
        return totals

    def means(self) -> Tensor:
        """Return the table that scores a cell, (F, LEVELS) float32; thinly filled cells lean on their frequency's mean."""
        table = self._table()
        total, count = table["sum"].double(), table["count"].double()
        by_frequency = total.sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp(min=1)
        return ((total + PRIOR_STRENGTH * by_frequency) / (count + PRIOR_STRENGTH)).float()

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the training share of each cell's place in the table, (B, F, N)."""
        table = self.means().to(waveform.device)
        bins = torch.arange(self.stft.bins, device=waveform.device)[None, :, None]
        return table[bins, self.levels(waveform)]

    def prepare(self, task: Task, pair: Pair) -> Self:
        """Take the task's table: shipped, fitted on its train split, or fitted on all other test speakers where none is at hand.

        A corpus without twins has no masks to fit on; there the table of the embedded corpus stands.
        """
        if task.truth in ("time", "none"):
            return self
        if self.stft == DEFAULT_STFT and _ships(self.name, task.name, self.recipe):
            return replace(self, table=task.name)
        if task.pairs("train"):
            with contextlib.suppress(DataError):  # a train split that is listed and was not made or fetched
                return replace(self, table=f"{task.name}/train", weights=_fitted(self, task, "train")[""])
        return replace(self, table=f"{task.name}/speaker left out", weights=_without(_fitted(self, task, "test"), pair.speaker))

    def state_hash(self) -> str:
        """Hash the table."""
        return tensors_hash(self._table())

    def _table(self) -> Weights:
        return self.weights if self.weights is not None else _shipped(self.name, self.table, self.recipe)


@EXPLAINERS.register("frequency_prior")
@dataclass(frozen=True)
class FrequencyPrior(_Prior):
    """The share of training masks at each frequency: the same picture for every clip."""

    reference = "mean training mask by frequency"

    def levels(self, waveform: Tensor) -> Tensor:
        """Return row 0 for every cell."""
        frames = self.stft.frames(waveform.shape[-1])
        return torch.zeros(len(waveform), self.stft.bins, frames, dtype=torch.int64, device=waveform.device)


@EXPLAINERS.register("frequency_level_prior")
@dataclass(frozen=True)
class FrequencyLevelPrior(_Prior):
    """The share of training masks by frequency and by smoothed level under the clip's maximum: the strongest control."""

    reference = "mean training mask by frequency and level"

    def levels(self, waveform: Tensor) -> Tensor:
        """Return the level of each cell, smoothed as the recipe smooths it, in steps of 3 dB under the clip's loudest cell."""
        level = smooth(magnitude(waveform, self.stft), *recipe(self.recipe).kernels())
        loudest = level.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(level.dtype).tiny)
        decibels = -20 * torch.log10((level / loudest).clamp(min=1e-6))
        return (decibels / LEVEL_STEP_DB).long().clamp(0, LEVELS - 1)


def _table_path(control: str, task: str) -> Path:
    return TABLES / f"{control}-{task}.safetensors"


def _ships(control: str, task: str, recipe: str) -> bool:
    try:
        _shipped(control, task, recipe)
    except WeightsError:
        return False
    return True


@lru_cache(maxsize=32)
def _shipped(control: str, task: str, recipe: str) -> Weights:
    """Read a shipped table.

    Raises:
        WeightsError: If there is none for this task or recipe.
    """
    path = _table_path(control, task)
    if not path.exists():
        known = sorted(p.stem.removeprefix(f"{control}-") for p in TABLES.glob(f"{control}-*.safetensors"))
        raise WeightsError(f"table must name a task with a shipped table, got {task!r}; available: {', '.join(known) or 'none'}")
    with safe_open(path, framework="pt") as file:
        if f"{recipe}/sum" not in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            raise WeightsError(f"recipe must be one that {path.name} was fitted for, got {recipe!r}; fit it with `xaibench train priors`")
        return {name: file.get_tensor(f"{recipe}/{name}") for name in ("sum", "count")}


_FITTED: dict[tuple[str, ...], dict[str, Weights]] = {}


def _fitted(prior: _Prior, task: Task, split: str) -> dict[str, Weights]:
    """Fit once per process: the train split as a whole (key ""), a test split speaker by speaker."""
    key = (prior.name, prior.recipe, prior.stft.content_hash(), task.fingerprint(), split)
    if key not in _FITTED:
        groups: dict[str, list[Pair]] = {}
        pairs = spread(task.pairs("train"))[:FIT_PAIRS] if split == "train" else task.pairs("test")
        for pair in pairs:
            groups.setdefault("" if split == "train" else pair.speaker, []).append(pair)
        _FITTED[key] = {speaker: prior.fit(task.load(p) for p in pairs) for speaker, pairs in groups.items()}
    return _FITTED[key]


def _without(tables: dict[str, Weights], speaker: str) -> Weights:
    """Sum the tables of all speakers but one.

    Raises:
        WeightsError: If no other speaker is left.
    """
    others = [table for name, table in tables.items() if name != speaker]
    if not others:
        raise WeightsError(
            f"the task must have at least two speakers to fit a prior without {speaker!r}, got one; add recordings of another"
        )
    return {name: torch.stack([t[name] for t in others]).sum(0) for name in ("sum", "count")}
