"""How long the metrics take beside the libraries that one would use otherwise: ``python -m xaibench.benchmark.bench_metrics``.

Localisation: all rank and area scores of clips of 513 x 253 cells, against Quantus where it has the metric (pointing game, relevance
mass and rank) and scikit-learn for average precision, AUROC and Dice. Curves: one probe against the bare forwards of as many inputs in
equal batches, and against masking and asking one clip at a time with gradients off and convolutions in torch's default memory layout.
Causal truth: CPU seconds of one clip of the embedded corpus, and how steady it is. Times are of the process (CPU seconds, the least of
a few runs), so that other work on the machine weighs little. Quantus is optional: pip install 'xaibench[quantus]'.
"""

import argparse
import copy
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from xaibench.benchmark.metrics.inputs import Floats
from xaibench.benchmark.metrics.probe import Probe
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


def localization(clips: int) -> dict[str, float | str]:
    """Time the localisation metrics, in ms per clip; without Quantus the ratio is to scikit-learn's three metrics alone."""
    rng = np.random.default_rng(0)
    heatmaps = rng.normal(size=(clips, *SHAPE)).astype(np.float32)
    masks = rng.random(heatmaps.shape) < 0.05
    magnitudes = rng.exponential(size=heatmaps.shape).astype(np.float32)
    per_clip = 1e3 / clips
    ours_ms = seconds(lambda: ours(heatmaps, masks, magnitudes)) * per_clip
    theirs_ms = seconds(lambda: scikit_learn(heatmaps, masks)) * per_clip
    result: dict[str, float | str] = {"ours_ms": ours_ms, "scikit_learn_ms": theirs_ms}
    try:
        quantus_ms = seconds(lambda: quantus_scores(heatmaps, masks)) * per_clip
    except ImportError:
        return {**result, "ratio_to_scikit_learn": theirs_ms / ours_ms, "quantus": "pip install 'xaibench[quantus]' (LGPL-3.0)"}
    return {**result, "quantus_ms": quantus_ms, "ratio": (theirs_ms + quantus_ms) / ours_ms}


def curves(detector: Detector, steps: int, repeats: int) -> dict[str, float]:
    """Time one heatmap's curves, in ms: beside the bare forwards of as many clips, and beside one clip at a time."""
    clip = 0.1 * torch.randn(CLIP_SAMPLES, generator=torch.Generator().manual_seed(0))
    heatmap = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    probe = Probe(clip, detector.eval())
    traced = probe.curves(heatmap, steps=steps)
    batches = torch.split(clip.repeat(2 * (steps - 1), 1), probe.batch)
    plain = in_default_layout(detector)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                detector.spoof_logit(batch)

    tasks = (lambda: probe.curves(heatmap, steps=steps), bare, lambda: one_at_a_time(probe, plain, heatmap, steps))
    rounds = np.array([[seconds(task, 1) for task in tasks] for _ in range(repeats)])  # in turn, so that other work meets all alike
    ours_ms, bare_ms, naive_ms = (1e3 * rounds.min(0)).tolist()
    expected = np.stack([traced.deletion[1:-1], traced.insertion[1:-1]], 1).reshape(-1)
    furthest = float(np.abs(one_at_a_time(probe, plain, heatmap, steps) - expected).max())
    times_ms = {"curves_ms": ours_ms, "forwards_ms": bare_ms, "naive_ms": naive_ms}
    return {**times_ms, "ratio": ours_ms / bare_ms, "ratio_to_naive": ours_ms / naive_ms, "largest_difference": furthest}


def in_default_layout(detector: Detector) -> Detector:
    """Return a copy whose convolutions get their input channel by channel, whatever the detector prefers."""
    plain = copy.deepcopy(detector).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in plain.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs: tuple(one.contiguous() for one in inputs))
    found: Detector = plain
    return found


def one_at_a_time(probe: Probe, detector: Detector, heatmap: torch.Tensor, steps: int) -> Floats:
    """Mask, rebuild and ask clip by clip, as one would without a probe; return deletion and insertion, step by step."""
    order = heatmap.flatten().argsort(descending=True, stable=True)
    found: list[float] = []
    for i in range(1, steps):
        top = torch.zeros(heatmap.numel(), dtype=torch.bool)
        top[order[: round(i / steps * heatmap.numel())]] = True
        for removed in (top, ~top):
            part = torch.where(removed.reshape(heatmap.shape), probe.change, torch.zeros_like(probe.change))
            with torch.no_grad():
                clip = probe.waveform - inverse(part[None], len(probe.waveform), probe.config)
                found.append(float(detector.spoof_logit(clip)))
    return np.array(found)


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
    parser.add_argument("--clips", type=int, default=64, help="clips of the localisation benchmark")
    parser.add_argument("--aasist", default="random", help="checkpoint of AASIST; an untrained one takes as long")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "localization": localization(options.clips),
        "curves": {
            "spectrogram_cnn": curves(DETECTORS.load("spectrogram_cnn"), steps=10, repeats=9),
            "aasist": curves(DETECTORS.load("aasist", weights=options.aasist), steps=4, repeats=3),
        },
        "causal_truth": causal_truth(),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
