"""Planted truth with explainers: the last causal check, and the verdict on every kind of artifact.

The first three checks ask the detector alone (``tasks/planted_checks.py``). The last one asks whether the region can be found at all by
methods that know the detector and nothing else: integrated gradients and occlusion as shipped. A kind that they miss is no ruler. The
size of their maps counts: inside a region a net weighs cells against each other, with both signs, and where it looks is the question
here. How much the declared signs find is measured too and bounds nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from xaibench.benchmark.metrics.causal import tile_relevance
from xaibench.benchmark.metrics.localization import average_precision, generalized_dice
from xaibench.registry import EXPLAINERS
from xaibench.tasks.causal import CausalConfig, causal_truth
from xaibench.tasks.corpora.planted import PlantedTask
from xaibench.tasks.planted_checks import Evidence, causal_evidence
from xaibench.types import Clip, Detector, Explainer, Pair

FINDERS = ("integrated_gradients", "occlusion")
"""Explainers that must find a plant, with their default options."""

COVERED = 0.25
"""Share of a tile that must be planted for it to count as planted: with less, a rim that an artifact fades out in would count."""


def verify(
    task: PlantedTask,
    detector: Detector,
    *,
    clips: int | None = None,
    explained: int | None = None,
    measured: int = 0,
    progress: Callable[[Evidence], None] | None = None,
) -> list[Evidence]:
    """Run all causal checks on every kind that a task plants, on test clips.

    Args:
        task: Kinds, grades and recordings.
        detector: In ``eval()`` mode.
        clips: Clips per kind for the detector's own checks, spread over voices; all by default.
        explained: Clips per kind that are explained; as many as ``clips`` by default.
        measured: Clips per kind whose causal truth is measured, 1 000 forwards each, to see whether it recovers the region.
        progress: Called with the evidence of each kind.
    """
    evidence = []
    for kind in task.kinds:
        own = causal_evidence(task, kind, detector, clips=clips)
        every = [p for p in task.pairs("test") if p.family == kind]
        pairs = every[: clips if explained is None else explained]
        dice = {name: mean_dice(task, pairs, EXPLAINERS.load(name), detector) for name in FINDERS} if pairs else {}
        found, signed = ({name: both[i] for name, both in dice.items()} for i in range(2))
        tiles = [recovered(task.load(pair), detector) for pair in every[:measured]]
        counted = [score for score in tiles if not math.isnan(score)]
        recovery = sum(counted) / len(counted) if counted else math.nan
        evidence.append(replace(own, found=found, found_signed=signed, recovered=recovery, refused=len(tiles) - len(counted)))
        if progress:
            progress(evidence[-1])
    return evidence


def mean_dice(task: PlantedTask, pairs: Sequence[Pair], explainer: Explainer, detector: Detector) -> tuple[float, float]:
    """Return the mean Generalized Dice of an explainer against the planted regions of some pairs, by size and as signed."""
    sizes, signed = [], []
    for pair in pairs:
        clip = task.load(pair)
        references = task.references(pair) if "references" in explainer.needs else None
        heatmap = explainer.explain(clip.spoof[None], detector, references=references, generator=torch.Generator().manual_seed(0))
        region = clip.planted if clip.planted is not None else torch.zeros_like(heatmap[0], dtype=torch.bool)
        sizes.append(float(generalized_dice(heatmap.abs(), region[None])))
        signed.append(float(generalized_dice(heatmap, region[None])))
    return sum(sizes) / len(sizes), sum(signed) / len(signed)


def recovered(clip: Clip, detector: Detector, config: CausalConfig | None = None) -> float:
    """Return how well the causal truth of a planted clip ranks the planted tiles first: average precision, NaN where the clip is refused.

    Args:
        clip: With a planted region.
        detector: In ``eval()`` mode.
        config: How the causal truth is measured; the default of the official suite.

    Raises:
        ValueError: If the clip has no planted region.
    """
    if clip.planted is None:
        raise ValueError("clip must have a planted region, got none; use a clip of the planted task")
    config = config or CausalConfig()
    truth = causal_truth(clip, detector, config)
    if truth.refused:
        return math.nan
    shares = tile_relevance(clip.planted[None].float(), config.grid.cells(len(clip.spoof), clip.valid_samples))
    return float(average_precision(truth.values.reshape(1, 1, -1), (shares >= COVERED).reshape(1, 1, -1)))
