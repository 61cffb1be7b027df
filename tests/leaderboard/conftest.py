"""A run folder as the harness writes it, made by hand on a toy task: two vocoders, six clips, four explainers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch import Tensor

from xaibench.benchmark.heatmaps import write_heatmap
from xaibench.tasks import masks
from xaibench.tasks.spectrogram import magnitude
from xaibench.types import CLIP_SAMPLES, Clip, Detector, Pair, Split, Task

OCCLUDERS = ("twin_complex", "floor")
OUTSIDE = {("saliency", "twin_complex"), ("saliency", "floor"), ("energy", "floor")}
"""Rows whose masked clips leave what the detector knows."""
DERIVED = {
    "generalized_dice_corrected": (1.1, -0.105),
    "average_precision": (0.9, 0.0),
    "auroc": (0.5, 0.5),
    "stratified_auc": (0.33, 0.5),
    "pointing_game": (1.0, 0.0),
}
RECIPES = ("sym-floor60-v1", "grinberg-rel-linear-v1")
TIME = torch.arange(CLIP_SAMPLES) / 16_000


@dataclass(frozen=True)
class ToyTask(Task):
    """Harmonic tones; the "vocoder" adds noise in a band."""

    prefix: str = ""
    n_pairs: int = 6

    def pairs(self, split: Split) -> list[Pair]:
        p = self.prefix
        return [
            Pair(f"{p}pair-{i}", f"{p}utterance-{i // 2}", f"{p}speaker-{i // 3}", f"{p}vocoder-{i % 2}", "", "", seen_vocoder=i % 2 == 0)
            for i in range(self.n_pairs if split == "test" else 0)
        ]

    def load(self, pair: Pair) -> Clip:
        number = int(pair.id.rsplit("-", 1)[1])
        generator = torch.Generator().manual_seed(number)
        tone = sum(torch.sin(2 * torch.pi * (120 + 10 * number) * k * TIME) / k for k in range(1, 12))
        real = 0.1 * tone + 0.002 * torch.randn(CLIP_SAMPLES, generator=generator)
        spoof = real + 0.05 * torch.randn(CLIP_SAMPLES, generator=generator) * (TIME.frac() < 0.2)
        return Clip(pair, real, spoof, CLIP_SAMPLES if number else CLIP_SAMPLES // 2)

    def references(self, pair: Pair) -> Tensor:
        return torch.zeros(20, CLIP_SAMPLES)

    def fingerprint(self) -> str:
        return "toy"


class ToyDetector(Detector):
    """Log-odds rise with the level of the signal."""

    name = "toy_detector"

    def forward(self, waveform: Tensor) -> Tensor:
        return 10 * waveform.square().mean(-1) - 1


Explain = Callable[[Clip, masks.Truth], Tensor]


def _random(clip: Clip, truth: masks.Truth) -> Tensor:
    return torch.rand(truth.mask.shape, generator=torch.Generator().manual_seed(len(clip.pair.id)))


EXPLAINERS: dict[str, tuple[str, Explain]] = {
    "specsegdiff": ("", lambda clip, truth: truth.difference + 0.4 * _random(clip, truth)),
    "saliency": ("", lambda clip, truth: truth.difference + 1.5 * _random(clip, truth)),
    "energy": ("control", lambda clip, truth: magnitude(clip.spoof[None])[0]),
    "random": ("control", _random),
    "oracle_mask": ("oracle", lambda clip, truth: truth.difference),
}


def gdice(chosen: Tensor, mask: Tensor) -> float:
    """Generalized Dice of two masks of equal area, square weights, both classes (metrics.md 2.1)."""
    m, dice = float(mask.float().mean()), float((chosen & mask).sum()) / max(int(mask.sum()), 1)
    return dice * ((1 - m) + m * m / (1 - m)) + m * (1 - 2 * m) / (1 - m)


@dataclass(frozen=True)
class RunWriter:
    """Writes the files of a run; ``prefix`` stands before every name that comes from outside."""

    folder: Path
    task: Task
    explainers: Mapping[str, tuple[str, Explain]]
    pairs: Sequence[Pair]
    prefix: str = ""
    task_name: str = "toy"
    recipes: Sequence[str] = RECIPES
    values: dict[tuple[str, str, str], float] = field(default_factory=dict)
    digests: dict[tuple[str, str], str] = field(default_factory=dict)

    def write(self) -> Path:
        (self.folder / "heatmaps").mkdir(parents=True)
        self.score()
        self.table("units", list(self.units()))
        self.table("curves", list(self.curves()))
        n = len(self.pairs)
        detector = {**self.base(), "n_gated": max(n - 1, 0), "n_clips": n, "gap_gate": 2.0}
        rows = [*self.localization_rows(), *self.curve_rows()]
        p = self.prefix
        summary = {"run": p + "run", "suite": "xaibench-v1", "tier": p + "quick", "detectors": [detector], "rows": rows}
        manifest = {"argv": ["xaibench", "run", p + "x"], "seed": 0, "packages": {p + "torch": p + "2.11"}, "suite": "xaibench-v1"}
        (self.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        (self.folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return self.folder

    def base(self) -> dict[str, str]:
        return {"task": self.prefix + self.task_name, "detector": self.prefix + "toy_detector"}

    def score(self) -> None:
        for pair in self.pairs:
            clip = self.task.load(pair)
            truths = {recipe: masks.truth(clip, recipe) for recipe in self.recipes}
            for name, (_, explain) in self.explainers.items():
                heatmap = explain(clip, truths[self.recipes[0]]).float()
                self.digests[name, pair.id] = write_heatmap(self.folder, heatmap)
                for recipe, truth in truths.items():
                    chosen = masks.top_cells(heatmap[None], int(truth.mask.sum()), truth.valid[None])[0][0]
                    self.values[name, recipe, pair.id] = gdice(chosen, truth.mask)

    def table(self, name: str, records: list[dict[str, Any]]) -> None:
        if records:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), self.folder / f"{name}.parquet")

    def units(self) -> Iterator[dict[str, Any]]:
        pairs = {pair.id: pair for pair in self.pairs}
        for (name, recipe, pair_id), value in self.values.items():
            pair = pairs[pair_id]
            about = {"pair": pair.id, "utterance": pair.utterance, "speaker": pair.speaker, "vocoder": pair.vocoder}
            place = {"recipe": recipe, "polarity": "declared", "occluder": "", "metric": "generalized_dice", "value": value}
            state = {"status": "ok", "heatmap_sha256": self.digests[name, pair_id], "seen_vocoder": pair.seen_vocoder}
            yield {**self.base(), **about, **place, **state, "key": f"{name}{pair_id}", "explainer": self.prefix + name}

    def curves(self) -> Iterator[dict[str, Any]]:
        fractions = [i / 10 for i in range(11)]
        orders = {"most_first_deletion": (4.0, -3.0), "most_first_insertion": (-3.0, 4.0)}
        for pair, (n, name), occluder, order in product(self.pairs[:4], enumerate(self.explainers), OCCLUDERS, orders):
            start, end = orders[order]
            values = [start + (end - start) * x ** (0.25 + 0.2 * n) * (1 + 9 * x * (occluder == "floor")) for x in fractions]
            place = {"polarity": "declared", "occluder": self.prefix + occluder, "order": order}
            yield {**self.base(), **place, "pair": pair.id, "explainer": self.prefix + name, "fractions": fractions, "log_odds": values}

    def row(self, name: str, metric: str, mean: float, half: float, n: int, **place: Any) -> dict[str, Any]:
        kind, title = self.explainers[name][0], self.prefix + name
        counts = {"n": n, "n_total": len(self.pairs), "n_undefined": 0, "n_failed": int(name == "saliency")}
        clusters = {"clusters_utterance": 3, "clusters_speaker": 2, "interval_by": "utterance"}
        default = {"recipe": "", "polarity": "declared", "occluder": "", "slice": "all", "tier": None, "beats_best_control": None}
        kinds = {"control": kind != "", "oracle": kind == "oracle", "note": self.prefix and f"{self.prefix}note"}
        numbers = {"metric": metric, "mean": mean, "low": mean - half, "high": mean + half}
        return {**self.base(), "explainer": title, "title": title, **kinds, **default, **numbers, **counts, **clusters, **place}

    def mean(self, name: str, recipe: str, part: str = "all") -> tuple[float, int]:
        inside = {pair.id for pair in self.pairs if part in ("all", f"vocoder:{pair.vocoder}", "seen" if pair.seen_vocoder else "unseen")}
        kept = [value for (n, r, pair), value in self.values.items() if (n, r) == (name, recipe) and pair in inside]
        return (sum(kept) / len(kept) if kept else float("nan")), len(kept)

    def localization_rows(self) -> Iterator[dict[str, Any]]:
        parts = ["all", "seen", "unseen", *sorted({f"vocoder:{pair.vocoder}" for pair in self.pairs})]
        for recipe, name in product(self.recipes if self.pairs else [], self.explainers):
            controls = [n for n, (kind, _) in self.explainers.items() if kind == "control"]
            best = max(self.mean(n, recipe)[0] for n in controls)
            for part in parts:
                value, n = self.mean(name, recipe, part)
                half = 0.08 / max(n, 1) ** 0.5
                ranked = part == "all" and self.explainers[name][0] == ""
                standing = {"tier": 1 + (value < 0.5), "beats_best_control": value - half > best} if ranked else {}
                if n:
                    yield self.row(name, "generalized_dice", value, half, n, recipe=recipe, slice=part, **standing)
            value, n = self.mean(name, recipe)
            yield self.row(name, "generalized_dice", 0.9 * value, 0.02, n, recipe=recipe, polarity="magnitude")
            for metric, (slope, start) in DERIVED.items():
                yield self.row(name, metric, start + slope * value, 0.02, n, recipe=recipe)

    def curve_rows(self) -> Iterator[dict[str, Any]]:
        for name, occluder in product(self.explainers if self.pairs else [], OCCLUDERS):
            outside = 0.6 if (name, occluder) in OUTSIDE else 0.01
            for metric, value in (("deletion", -1.5), ("insertion", 1.25), ("srg", 2.0), ("out_of_range", outside)):
                yield self.row(name, metric, value, 0.5, 4, occluder=self.prefix + occluder)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished toy run; read only."""
    task = ToyTask()
    return RunWriter(tmp_path_factory.mktemp("run") / "toy", task, EXPLAINERS, task.pairs("test")).write()


@pytest.fixture(scope="session")
def toys() -> dict[str, Any]:
    """Arguments of ``build`` that bring the toy task and detector."""
    return {"tasks": {"toy": ToyTask()}, "detectors": {"toy_detector": ToyDetector().eval()}}


@pytest.fixture
def make_run() -> Callable[[Path, str], tuple[Path, dict[str, Any]]]:
    """Make a run in which every outside name begins with a prefix, and the arguments of ``build`` that bring its task and detector."""

    def make(folder: Path, prefix: str) -> tuple[Path, dict[str, Any]]:
        task = ToyTask(prefix=prefix, n_pairs=2)
        run = RunWriter(folder, task, EXPLAINERS, task.pairs("test"), prefix).write()
        return run, {"tasks": {f"{prefix}toy": task}, "detectors": {f"{prefix}toy_detector": ToyDetector().eval()}}

    return make
