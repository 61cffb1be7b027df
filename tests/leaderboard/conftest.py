"""A run folder as the harness writes it, made by hand on a toy task: two vocoders, six clips, four explainers."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


def write_run(
    folder: Path,
    task: Task,
    *,
    prefix: str = "",
    explainers: dict[str, tuple[str, Explain]] | None = None,
    pairs: Sequence[Pair] | None = None,
    recipes: Sequence[str] = RECIPES,
    task_name: str = "toy",
    detector: str = "toy_detector",
) -> Path:
    """Write manifest, summary, units, curves and heatmaps; ``prefix`` stands before every name that comes from outside."""
    (folder / "heatmaps").mkdir(parents=True)
    known = EXPLAINERS if explainers is None else explainers
    values: dict[tuple[str, str, str], float] = {}
    digests: dict[tuple[str, str], str] = {}
    listed = task.pairs("test") if pairs is None else list(pairs)
    for pair in listed:
        clip = task.load(pair)
        truths = {recipe: masks.truth(clip, recipe) for recipe in recipes}
        for name, (_, explain) in known.items():
            heatmap = explain(clip, truths[recipes[0]]).float()
            digests[name, pair.id] = write_heatmap(folder, heatmap)
            for recipe, truth in truths.items():
                chosen = masks.top_cells(heatmap[None], int(truth.mask.sum()), truth.valid[None])[0][0]
                values[name, recipe, pair.id] = gdice(chosen, truth.mask)
    base = {"task": prefix + task_name, "detector": prefix + detector}
    kinds = {name: kind for name, (kind, _) in known.items()}
    _write_units(folder, base, prefix, listed, values, digests, kinds)
    _write_curves(folder, base, prefix, listed, known)
    rows = list(_rows(base, prefix, listed, values, kinds))
    summary = {
        "schema_version": 1, "run": prefix + "run", "suite": "xaibench-v1", "tier": prefix + "quick", "tasks": [prefix + task_name],
        "detectors": [{**base, "n_gated": max(len(listed) - 1, 0), "n_clips": len(listed), "gap_gate": 2.0}], "rows": rows,
    }  # fmt: skip
    manifest = {
        "argv": ["xaibench", "run", prefix + "x"],
        "seed": 0,
        "packages": {prefix + "torch": prefix + "2.11"},
        "suite": "xaibench-v1",
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _write_units(folder: Path, base: dict[str, str], prefix: str, pairs: Sequence[Pair], values: Any, digests: Any, kinds: Any) -> None:
    about = {p.id: p for p in pairs}
    records = [
        {
            **base, "key": f"{name}{recipe}{pair}", "split": "test", "pair": pair, "utterance": about[pair].utterance, "speaker": about[pair].speaker,
            "vocoder": about[pair].vocoder, "family": "", "seen_vocoder": about[pair].seen_vocoder, "explainer": prefix + name, "recipe": recipe,
            "polarity": "declared", "occluder": "", "metric": "generalized_dice", "value": value, "why": "", "status": "ok",
            "heatmap_sha256": digests[name, pair],
        }
        for (name, recipe, pair), value in values.items()
    ]  # fmt: skip
    if records:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "units.parquet")


def _write_curves(folder: Path, base: dict[str, str], prefix: str, pairs: Sequence[Pair], known: Iterable[str]) -> None:
    fractions = [i / 10 for i in range(11)]
    records = [
        {
            **base, "pair": pair.id, "explainer": prefix + name, "polarity": "declared", "occluder": prefix + occluder, "order": order,
            "fractions": fractions, "log_odds": [start + (end - start) * x ** (0.25 + 0.2 * n) * (1 if occluder != "floor" else 9 * x + 1) for x in fractions],
        }
        for pair in pairs[:4]
        for n, name in enumerate(known)
        for occluder in ("twin_complex", "floor")
        for order, start, end in (("most_first_deletion", 4.0, -3.0), ("most_first_insertion", -3.0, 4.0))
    ]  # fmt: skip
    if records:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "curves.parquet")


def _rows(
    base: dict[str, str], prefix: str, pairs: Sequence[Pair], values: dict[tuple[str, str, str], float], kinds: dict[str, str]
) -> Iterable[dict[str, Any]]:
    vocoders = {p.id: p.vocoder for p in pairs}
    seen = {p.id: p.seen_vocoder for p in pairs}
    slices = ["all", "seen", "unseen", *sorted({f"vocoder:{v}" for v in vocoders.values()})]
    recipes = dict.fromkeys(recipe for _, recipe, _ in values)

    def mean(name: str, recipe: str, part: str) -> tuple[float, int]:
        kept = [
            v for (n, r, p), v in values.items()
            if (n, r) == (name, recipe) and (part == "all" or part == f"vocoder:{vocoders[p]}" or part == ("seen" if seen[p] else "unseen"))
        ]  # fmt: skip
        return (sum(kept) / len(kept) if kept else float("nan")), len(kept)

    for recipe in recipes:
        best = max((mean(n, recipe, "all")[0] for n, kind in kinds.items() if kind == "control"), default=0.0)
        for name, kind in kinds.items():
            common = {
                **base, "explainer": prefix + name, "title": prefix + name, "control": kind == "control", "oracle": kind == "oracle", "recipe": recipe,
                "occluder": "", "n_total": len(pairs), "n_undefined": 0, "n_failed": 0, "clusters_utterance": 3, "clusters_speaker": 2,
                "interval_by": "utterance", "tier": None, "beats_best_control": None, "note": "",
            }  # fmt: skip
            for part in slices:
                value, n = mean(name, recipe, part)
                if not n:
                    continue
                width = 0.012 * 6.9 / n**0.5
                row = {
                    **common,
                    "polarity": "declared",
                    "metric": "generalized_dice",
                    "slice": part,
                    "mean": value,
                    "low": value - width,
                    "high": value + width,
                    "n": n,
                }
                if part == "all":
                    row["tier"] = 1 + (value < 0.5)
                    row["beats_best_control"] = value - width > best if kind == "" else None
                    row["note"] = prefix and f"{prefix}note"
                yield row
            value = mean(name, recipe, "all")[0]
            scores = {
                "generalized_dice_corrected": (value - 0.095) / 0.905,
                "average_precision": value * 0.9,
                "auroc": 0.5 + value / 2,
                "stratified_auc": 0.5 + value / 3,
                "pointing_game": min(1.0, value * 1.5),
            }
            yield {
                **common,
                "polarity": "magnitude",
                "metric": "generalized_dice",
                "slice": "all",
                "mean": value * 0.9,
                "low": None,
                "high": None,
                "n": len(pairs),
            }
            for metric, score in scores.items():
                yield {
                    **common,
                    "polarity": "declared",
                    "metric": metric,
                    "slice": "all",
                    "mean": score,
                    "low": score - 0.02,
                    "high": score + 0.02,
                    "n": len(pairs),
                }
    for name, kind in kinds.items():
        for occluder in ("twin_complex", "floor"):
            for metric, score in (("deletion", -1.5), ("insertion", 1.25), ("srg", 2.0)):
                yield {
                    **base, "explainer": prefix + name, "title": prefix + name, "control": kind == "control", "oracle": kind == "oracle", "recipe": "",
                    "polarity": "declared", "occluder": prefix + occluder, "metric": metric, "slice": "all", "mean": score, "low": score - 0.5, "high": score + 0.5,
                    "n": 4, "n_total": 4, "n_undefined": 0, "n_failed": 1 if name == "saliency" else 0, "clusters_utterance": 2, "clusters_speaker": 2,
                    "interval_by": "utterance", "tier": None, "beats_best_control": None, "note": "",
                }  # fmt: skip


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished toy run; read only."""
    return write_run(tmp_path_factory.mktemp("run") / "toy", ToyTask())


@pytest.fixture(scope="session")
def toys() -> dict[str, Any]:
    """Arguments of ``build`` that bring the toy task and detector."""
    return {"tasks": {"toy": ToyTask()}, "detectors": {"toy_detector": ToyDetector().eval()}}


@pytest.fixture
def make_run() -> Callable[[Path, str], tuple[Path, dict[str, Any]]]:
    """Make a run in which every outside name begins with a prefix, and the arguments of ``build`` that bring its task and detector."""

    def make(folder: Path, prefix: str) -> tuple[Path, dict[str, Any]]:
        task = ToyTask(prefix=prefix, n_pairs=2)
        run = write_run(folder, task, prefix=prefix)
        return run, {"tasks": {f"{prefix}toy": task}, "detectors": {f"{prefix}toy_detector": ToyDetector().eval()}}

    return make
