"""How long the metrics take beside the libraries that one would use otherwise: ``python -m xaibench.benchmark.bench_metrics``.

Localisation: all rank and area scores of clips of 513 x 253 cells, against Quantus where it has the metric (pointing game, relevance
mass and rank) and scikit-learn for average precision, AUROC and Dice. Curves: one probe against the bare forwards of the same inputs.
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
from xaibench.registry import DETECTORS
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
    return {**found, "ratio": found["curves_ms"] / found["forwards_ms"]}


def main() -> None:
    """Measure and write one JSON object to the standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=16, help="clips of the localisation benchmark")
    parser.add_argument("--detector", default="spectrogram_cnn", help="spec of the detector of the curves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {"localization": localization(options.clips), "curves": curves(DETECTORS.load(options.detector))}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
