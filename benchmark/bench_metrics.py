"""How long the metrics take beside the libraries that one would use otherwise: ``python -m xaibench.benchmark.bench_metrics``.

Localisation: all rank and area scores of clips of 513 x 253 cells, against Quantus where it has the metric (pointing game, relevance
mass and rank) and scikit-learn for average precision, AUROC and Dice. Curves: one probe against the bare forwards of as many inputs,
and against masking and asking one clip at a time. Causal truth: CPU seconds of one clip of the embedded corpus, and how steady it is.
Times are of the process (CPU seconds), so that other work on the machine weighs little. Quantus is optional: pip install quantus.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from xaibench.benchmark.metrics.inputs import Floats
from xaibench.benchmark.metrics.probe import BATCH, Probe
from xaibench.benchmark.metrics.target import Target
from xaibench.registry import DETECTORS, TASKS
from xaibench.tasks.causal import measure
from xaibench.tasks.spectrogram import inverse
from xaibench.types import CLIP_SAMPLES, Detector

SHAPE = (513, 253)


def seconds(task: Callable[[], Any], repeats: int = 3) -> float:
    """Return the least CPU time of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        times.append(time.process_time() - start)
    return min(times)


def ours(heatmaps: Floats, masks: Floats, magnitudes: Floats) -> None:
    """Score every clip by every localisation metric."""
    for heatmap, mask, level in zip(heatmaps, masks, magnitudes, strict=True):
        Target.of(mask, magnitude=level, difference=level).score(heatmap)


def scikit_learn(heatmaps: Floats, masks: Floats) -> None:
    """Score average precision, AUROC and Dice at equal area."""
    from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

    for heatmap, mask in zip(heatmaps, masks, strict=True):
        scores, truth = heatmap.ravel(), mask.ravel()
        average_precision_score(truth, scores)
        roc_auc_score(truth, scores)
        f1_score(truth, scores > np.partition(scores, -truth.sum() - 1)[-truth.sum() - 1])


def quantus_scores(heatmaps: Floats, masks: Floats) -> None:
    """Score pointing game, relevance mass and relevance rank by Quantus."""
    quantus: Any = importlib.import_module("quantus")

    class Nothing(torch.nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return clips.flatten(1)[:, :2]

    clips, labels = heatmaps[:, None], np.zeros(len(heatmaps), int)
    for metric in (quantus.PointingGame, quantus.RelevanceMassAccuracy, quantus.RelevanceRankAccuracy):
        measure = metric(disable_warnings=True, display_progressbar=False)
        measure(model=Nothing().eval(), x_batch=clips, y_batch=labels, a_batch=clips, s_batch=masks[:, None].astype(int), device="cpu")


def localization(clips: int) -> dict[str, float]:
    """Time the localisation metrics, in ms per clip."""
    rng = np.random.default_rng(0)
    heatmaps = rng.normal(size=(clips, *SHAPE)).astype(np.float32)
    masks = rng.random(heatmaps.shape) < 0.05
    magnitudes = rng.exponential(size=heatmaps.shape).astype(np.float32)
    per_clip = 1e3 / clips
    result = {"ours_ms": seconds(lambda: ours(heatmaps, masks, magnitudes)) * per_clip}
    result["scikit_learn_ms"] = seconds(lambda: scikit_learn(heatmaps, masks)) * per_clip
    try:
        result["quantus_ms"] = seconds(lambda: quantus_scores(heatmaps, masks)) * per_clip
    except ImportError:
        result["quantus_ms"] = float("nan")
    result["ratio"] = (result["scikit_learn_ms"] + result["quantus_ms"]) / result["ours_ms"]
    return result


def curves(detector: Detector, steps: int = 10) -> dict[str, float]:
    """Time one heatmap's curves against the bare forwards of as many clips in equal batches, in ms."""
    clip = 0.1 * torch.randn(CLIP_SAMPLES, generator=torch.Generator().manual_seed(0))
    heatmap = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    probe = Probe(clip, detector.eval())
    probe.curves(heatmap, steps=steps)
    batches = torch.split(clip.repeat(2 * (steps - 1), 1), BATCH)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                detector.spoof_logit(batch)

    found = {"curves_ms": 1e3 * seconds(lambda: probe.curves(heatmap, steps=steps)), "forwards_ms": 1e3 * seconds(bare)}
    naive_ms, furthest = one_at_a_time(probe, heatmap, steps)
    ratios = {"ratio": found["curves_ms"] / found["forwards_ms"], "ratio_to_naive": found["curves_ms"] / naive_ms}
    return {**found, "naive_ms": naive_ms, **ratios, "largest_difference": furthest}


def one_at_a_time(probe: Probe, heatmap: torch.Tensor, steps: int) -> tuple[float, float]:
    """Mask, rebuild and ask clip by clip, as one would without a probe; return ms and the largest difference in log-odds."""
    order = heatmap.flatten().argsort(descending=True, stable=True)
    found: list[float] = []

    def loop() -> None:
        found.clear()
        for i in range(1, steps):
            top = torch.zeros(heatmap.numel(), dtype=torch.bool)
            top[order[: round(i / steps * heatmap.numel())]] = True
            for removed in (top, ~top):
                part = torch.where(removed.reshape(heatmap.shape), probe.change, torch.zeros_like(probe.change))
                with torch.no_grad():
                    clip = probe.waveform - inverse(part[None], len(probe.waveform), probe.config)
                    found.append(float(probe.detector.spoof_logit(clip)))

    needed = 1e3 * seconds(loop)
    traced = probe.curves(heatmap, steps=steps)
    expected = np.stack([traced.deletion[1:-1], traced.insertion[1:-1]], 1).reshape(-1)
    return needed, float(np.abs(np.array(found) - expected).max())


def causal_truth() -> dict[str, float]:
    """Time the causal truth of one clip of the embedded corpus on its own detector, without the cache."""
    task = TASKS.load("minivoc")
    clip = task.load(task.pairs("test")[0])
    detector = DETECTORS.load(task.default_detector).eval()
    start = time.process_time()
    truth = measure(clip, detector)
    return {"seconds": time.process_time() - start, "split_half": truth.split_half, "forwards": truth.forwards}


def main() -> None:
    """Measure and write one JSON object to the standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=16, help="clips of the localisation benchmark")
    parser.add_argument("--detector", default="spectrogram_cnn", help="spec of the detector of the curves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "localization": localization(options.clips),
        "curves": curves(DETECTORS.load(options.detector)),
        "causal_truth": causal_truth(),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
