"""Can a corpus tell explainers apart at all? The quality of its ground truth, before any explainer is run.

For every vocoder: where its masks lie in frequency, how much of them is added and how much lost energy, how far they survive a shift and a
gain error, and what each control scores for free. Over vocoders: how alike their masks are on one utterance. Over recipes: what another
density or kernel changes. A corpus whose masks a control finds, or whose vocoders share one mask, ranks explainers by luck.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from hashlib import sha256
from itertools import combinations, groupby
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from xaibench.benchmark.metrics.localization import generalized_dice
from xaibench.errors import AudioError, NothingMeasuredError, PairError
from xaibench.registry import DETECTORS, EXPLAINERS
from xaibench.tasks.masks import recipe as named_recipe
from xaibench.tasks.masks import truth
from xaibench.tasks.recipes import MaskRecipe
from xaibench.tasks.spectrogram import DEFAULT_STFT
from xaibench.types import Clip, Control, Detector, Explainer, Pair, Task

BANDS = 16
SHIFTS = (1, 8, 32, 128)
GAIN = 0.9
DENSITIES = (0.01, 0.02, 0.1, 0.2)
KERNELS = ((1, 1), (3, 3), (5, 21))
CONTROLS = ("random", "energy", "inverse_energy", "edge", "frequency_prior", "frequency_level_prior")
Progress = Callable[[int, int], None]


@dataclass
class VocoderQuality:
    """The masks of one vocoder, averaged over clips."""

    vocoder: str
    clips: int = 0
    empty: int = 0
    """Clips whose twins are one recording."""
    profile: list[float] = field(default_factory=list)
    """Share of the mask in each of 16 equal bands up to 8 kHz; sums to 1."""
    added: float | None = None
    """Share of the mask where the spoof has more energy than its twin; the rest is lost energy."""
    stability: dict[str, float] = field(default_factory=dict)
    """Dice with the undisturbed mask after a shift (samples) or a gain of the spoof."""
    controls: dict[str, float] = field(default_factory=dict)
    """Generalized Dice of each control."""


@dataclass
class MaskQuality:
    """The report."""

    task: str
    recipe: str
    clips: int
    refused: dict[str, str]
    vocoders: list[VocoderQuality]
    similarity: dict[str, float]
    """Mean Dice of the masks of one utterance under two vocoders, ``a|b``."""
    sweep: dict[str, dict[str, float]]
    """Other densities and kernels: Dice with the recipe's mask, and Generalized Dice of the best control that sees the sound alone."""

    def as_json(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "MaskQuality":
        """Read what ``as_json`` gave.

        Raises:
            TypeError, KeyError: If it is not that.
        """
        return cls(**{**values, "vocoders": [VocoderQuality(**one) for one in values["vocoders"]]})


def mask_quality(
    task: Task, recipe: str = "sym-floor60-v1", limit: int | None = 48, split: str = "test", progress: Progress | None = None
) -> MaskQuality:
    """Measure the ground truth of a task; one clip is in memory at a time, and the masks of one utterance.

    Args:
        task: A task with twins.
        recipe: The mask recipe.
        limit: Clips, taken utterance by utterance so that vocoders can be compared; ``None`` for all.
        split: train, dev or test.
        progress: Called with clips done and clips in all.

    Raises:
        NothingMeasuredError: If the task has no twins, or no pair of the split can be used.
        UnknownNameError: If the recipe is not known.
    """
    if task.truth in ("time", "none"):
        raise NothingMeasuredError(f"task must hold twins to have masks, got {task.name}; its clips are scored on the detector")
    chosen = named_recipe(recipe)
    pairs = _by_utterance(task.pairs(split))[:limit]  # type: ignore[arg-type]  # pairs() says what a split must be
    measured: dict[str, list[dict[str, object]]] = defaultdict(list)
    alike: dict[str, list[float]] = defaultdict(list)
    sweeps: dict[str, list[tuple[float, float]]] = defaultdict(list)
    refused: dict[str, str] = {}
    done = 0
    for _, group in groupby(pairs, key=lambda p: p.utterance):
        masks: dict[str, Tensor] = {}
        for pair in group:
            done += 1
            try:
                clip = task.load(task.complete(pair))
            except (PairError, AudioError) as error:
                refused[pair.id] = str(error)
                continue
            row, found = _measure(clip, chosen, task)
            measured[pair.vocoder].append(row)
            for other, seen in masks.items():
                alike["|".join(sorted((other, pair.vocoder)))].append(_dice(seen, found))
            masks[pair.vocoder] = found
            for name, values in _sweep(clip, chosen, found):
                sweeps[name].append(values)
            if progress is not None:
                progress(done, len(pairs))
    if not measured:
        raise NothingMeasuredError(f"task must hold pairs with masks, got none in {task.name}: {next(iter(refused.values()), 'no pairs')}")
    return MaskQuality(
        task=task.name,
        recipe=chosen.name,
        clips=sum(map(len, measured.values())),
        refused=refused,
        vocoders=[_average(name, rows) for name, rows in sorted(measured.items())],
        similarity={name: fmean(values) for name, values in sorted(alike.items())},
        sweep={name: {"dice": fmean(d for d, _ in v), "best_control": fmean(c for _, c in v)} for name, v in sweeps.items()},
    )


def _by_utterance(pairs: Sequence[Pair]) -> list[Pair]:
    """Order by utterance, those of many vocoders first, else by hash: nobody's choice."""
    counts: dict[str, int] = defaultdict(int)
    for pair in pairs:
        counts[pair.utterance] += 1
    return sorted(pairs, key=lambda p: (-counts[p.utterance], sha256(p.utterance.encode()).digest(), p.vocoder))


def _measure(clip: Clip, recipe: MaskRecipe, task: Task) -> tuple[dict[str, object], Tensor]:
    found = truth(clip, recipe)
    if found.empty:
        return {"empty": True}, found.mask
    counts = found.mask.sum(1).double()
    bands = [float(part.sum()) for part in counts.tensor_split(BANDS)]
    stability = {f"{s} samples": _dice(found.mask, truth(_shifted(clip, s), recipe).mask) for s in SHIFTS}
    stability[f"gain {GAIN}"] = _dice(found.mask, truth(replace(clip, spoof=GAIN * clip.spoof), recipe).mask)
    controls = {name: _score(control, clip, found.mask, found.valid) for name, control in _controls(recipe, task, clip.pair).items()}
    return {
        "empty": False,
        "profile": [b / sum(bands) for b in bands],
        "added": found.share_added,
        "stability": stability,
        "controls": controls,
    }, found.mask


def _shifted(clip: Clip, samples: int) -> Clip:
    """Make the spoof late; what is pushed over the end comes back at the start, as tiling does."""
    return replace(clip, spoof=clip.spoof.roll(samples))


def _controls(recipe: MaskRecipe, task: Task, pair: Pair) -> dict[str, Explainer]:
    found: dict[str, Explainer] = {}
    for name in CONTROLS:
        control = EXPLAINERS.load(name, **({"recipe": recipe.name} if name.endswith("prior") else {}))
        found[name] = control.prepare(task, pair) if isinstance(control, Control) else control
    return found


def _score(control: Explainer, clip: Clip, mask: Tensor, valid: Tensor) -> float:
    heatmap = control.explain(clip.spoof[None], _unheard())
    return float(generalized_dice(heatmap, mask[None], valid[None])[0])


@cache
def _unheard() -> Detector:
    """Return a detector for the signature's sake: no control asks it."""
    found: Detector = DETECTORS.load("spectrogram_cnn")
    return found.eval()


def _sweep(clip: Clip, recipe: MaskRecipe, mask: Tensor) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield other densities and kernels with Dice to the recipe's own mask and the best trivial control."""
    others = {f"density {d:g}": replace(recipe, name="sweep", density=d) for d in DENSITIES}
    others |= {f"kernel {t} x {f}": replace(recipe, name="sweep", kernel_frames=t, kernel_bins=f) for t, f in KERNELS}
    trivial = {name: EXPLAINERS.load(name) for name in ("energy", "inverse_energy", "edge")}
    for name, other in others.items():
        found = truth(clip, other)
        if not found.empty:
            best = max(_score(control, clip, found.mask, found.valid) for control in trivial.values())
            yield name, (_dice(mask, found.mask), best)


def _dice(first: Tensor, second: Tensor) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else float("nan")


def _average(name: str, rows: Sequence[dict[str, object]]) -> VocoderQuality:
    full = [row for row in rows if not row["empty"]]
    quality = VocoderQuality(name, clips=len(rows), empty=len(rows) - len(full))
    if full:
        quality.profile = torch.tensor([row["profile"] for row in full], dtype=torch.float64).mean(0).tolist()
        quality.added = fmean(float(str(row["added"])) for row in full)
        quality.stability = _means([row["stability"] for row in full])
        quality.controls = _means([row["controls"] for row in full])
    return quality


def _means(rows: Sequence[object]) -> dict[str, float]:
    tables = [row for row in rows if isinstance(row, dict)]
    return {name: fmean(table[name] for table in tables) for name in tables[0]}


def verdicts(quality: MaskQuality) -> list[str]:
    """Say in words what stands out: masks that a control finds, that move with a millisecond, or that all vocoders share."""
    said = []
    for v in quality.vocoders:
        best = max(v.controls, key=lambda name: v.controls[name], default="")
        if best and v.controls[best] > 0.3:
            said.append(
                f"{v.vocoder}: the control {best} alone scores {100 * v.controls[best]:.0f} GDice; explainers have little room above"
            )
        if v.empty:
            said.append(f"{v.vocoder}: {v.empty} of {v.clips} clips have no mask, since the twins are one recording")
        if v.added is not None and not 0.05 < v.added < 0.95:
            said.append(f"{v.vocoder}: {100 * v.added:.0f} % of the mask is added energy; the other kind is not tested")
    pairs = list(combinations(quality.vocoders, 2))
    if quality.similarity and pairs and fmean(quality.similarity.values()) > 0.5:
        said.append(f"vocoders share their masks (mean Dice {fmean(quality.similarity.values()):.2f}): one map fits all")
    return said or ["nothing stands out"]


FREQUENCIES = [float(DEFAULT_STFT.frequencies_hz()[-1]) * (i + 0.5) / BANDS for i in range(BANDS)]
"""Centre of each band in hertz."""
