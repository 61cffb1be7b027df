"""How long a large report takes: ``python -m xaibench.leaderboard.bench_site`` makes a run by numbers alone and builds it.

40 explainers and 9 controls on 3 tasks of 300 clips, with sample pages for 24 clips of each task and heatmaps of 6 explainers. The clips
are the embedded corpus's; scores are drawn, heatmaps are real files. Prints processor and wall seconds of the build.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

import xaibench
from xaibench.benchmark.heatmaps import write_heatmap
from xaibench.leaderboard.site import build
from xaibench.tasks.spectrogram import DEFAULT_STFT
from xaibench.types import CLIP_SAMPLES, Task

RECIPES = ("sym-floor60-v1", "grinberg-rel-linear-v1")
LOCALIZATION = ("generalized_dice", "generalized_dice_corrected", "average_precision", "auroc", "stratified_auc", "pointing_game")
CURVES = ("deletion", "insertion", "srg", "out_of_range")
OCCLUDERS = ("twin_complex", "floor")


@dataclass(frozen=True)
class Size:
    """How large the run is."""

    explainers: int = 40
    controls: int = 9
    tasks: int = 3
    clips: int = 300
    samples: int = 24
    maps: int = 6
    """Explainers with heatmaps; the others have scores alone."""


def write_run(folder: Path, size: Size, task: Task) -> dict[str, Task]:
    """Write the files of a run; returns its tasks by label."""
    rng = np.random.default_rng(0)
    labels = [f"task_{i}" for i in range(size.tasks)]
    names = [f"explainer_{i:02}" for i in range(size.explainers)] + [f"control_{i}" for i in range(size.controls)]
    (folder / "heatmaps").mkdir(parents=True)
    grid = (DEFAULT_STFT.bins, DEFAULT_STFT.frames(CLIP_SAMPLES))
    digests = [write_heatmap(folder, torch.from_numpy(rng.random(grid, dtype=np.float32))) for _ in range(size.maps)]
    _table(folder / "units.parquet", list(_units(size, task, labels, names, digests, rng)))
    _table(folder / "curves.parquet", list(_curves(size, task, labels, names, rng)))
    known = {"detector": "spectrogram_cnn", "n_clips": size.clips, "n_gated": size.clips - 5, "gap_gate": 2.0}
    summary = {
        "run": "bench",
        "tier": "full",
        "suite": "xaibench-v1",
        "detectors": [known | {"task": label} for label in labels],
        "tasks": [{"name": label, "title": label, "truth": "artifact", "recipes": list(RECIPES)} for label in labels],
        "rows": list(_rows(size, task, labels, names, rng)),
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"argv": ["xaibench", "run"], "seed": 0}), encoding="utf-8")
    return dict.fromkeys(labels, task)


def _table(path: Path, records: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, compression="zstd")


def _clips(size: Size, task: Task) -> list[Any]:
    return task.pairs("test")[: size.clips]


def _units(size: Size, task: Task, labels: list[str], names: list[str], digests: list[str], rng: Any) -> Iterator[dict[str, Any]]:
    for label, (at, name), pair, recipe in product(labels, enumerate(names), _clips(size, task), RECIPES):
        yield {
            "key": f"{label}{name}{pair.id}",
            "task": label,
            "detector": "spectrogram_cnn",
            "pair": pair.id,
            "utterance": pair.utterance,
            "speaker": pair.speaker,
            "vocoder": pair.vocoder,
            "seen_vocoder": pair.seen_vocoder,
            "explainer": name,
            "recipe": recipe,
            "polarity": "declared",
            "occluder": "",
            "metric": "generalized_dice",
            "value": float(rng.random()),
            "status": "ok",
            "heatmap_sha256": digests[at] if at < len(digests) else "",
        }


def _curves(size: Size, task: Task, labels: list[str], names: list[str], rng: Any) -> Iterator[dict[str, Any]]:
    fractions = [i / 20 for i in range(21)]
    orders = ("most_first_deletion", "most_first_insertion")
    for label, name, pair, occluder, order in product(labels, names, _clips(size, task)[:40], OCCLUDERS, orders):
        place = {"task": label, "detector": "spectrogram_cnn", "pair": pair.id, "explainer": name, "polarity": "declared"}
        yield {**place, "occluder": occluder, "order": order, "fractions": fractions, "log_odds": rng.normal(size=21).tolist()}


def _rows(size: Size, task: Task, labels: list[str], names: list[str], rng: Any) -> Iterator[dict[str, Any]]:
    parts = ["all", "seen", "unseen", *sorted({f"vocoder:{p.vocoder}" for p in _clips(size, task)})]
    for label, (at, name) in product(labels, enumerate(names)):
        control = at >= size.explainers
        base = {"task": label, "detector": "spectrogram_cnn", "explainer": name, "title": name, "control": control, "oracle": False}
        for recipe, metric, part in product(RECIPES, LOCALIZATION, parts):
            yield {**base, **_score(rng, size, None if control else 1 + at // 8), "recipe": recipe, "metric": metric, "slice": part}
        for occluder, metric in product(OCCLUDERS, CURVES):
            yield {**base, **_score(rng, size, None), "occluder": occluder, "metric": metric}


def _score(rng: Any, size: Size, tier: int | None) -> dict[str, Any]:
    mean = float(0.6 * rng.random())
    place = {
        "recipe": "",
        "polarity": "declared",
        "occluder": "",
        "slice": "all",
        "tier": tier,
        "beats_best_control": tier == 1,
        "note": "",
    }
    return {**place, "mean": mean, "low": mean - 0.03, "high": mean + 0.03, "n": size.clips, "n_total": size.clips}


def main(size: Size | None = None) -> dict[str, float]:
    """Build the run and return what it took."""
    chosen = size or Size()
    task = xaibench.load("task", "minivoc")
    detector = xaibench.load("detector", "spectrogram_cnn").eval()
    with TemporaryDirectory() as folder:
        tasks = write_run(Path(folder) / "run", chosen, task)
        wall, processor = time.perf_counter(), time.process_time()
        index = build(Path(folder) / "run", tasks=tasks, detectors={"spectrogram_cnn": detector}, samples=chosen.samples)
        took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - processor}
        took["megabytes"] = sum(p.stat().st_size for p in index.parent.rglob("*") if p.is_file()) / 1e6
        took["pages"] = float(len(list(index.parent.rglob("*.html"))))
    return took


if __name__ == "__main__":
    for name, value in main().items():
        sys.stdout.write(f"{name:10} {value:8.1f}\n")
