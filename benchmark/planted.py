"""Planted truth with explainers: the last causal check, and the verdict on every kind of artifact.

The first three checks ask the detector alone (``tasks/planted_checks.py``). The last one asks whether the region can be found at all by
methods that know the detector and nothing else: integrated gradients and occlusion as shipped. A kind that they miss is no ruler. The
size of their maps counts: inside a region a net weighs cells against each other, with both signs, and where it looks is the question
here. How much the declared signs find is measured too and bounds nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from xaibench.benchmark.metrics.localization import generalized_dice
from xaibench.registry import EXPLAINERS
from xaibench.tasks.corpora.planted import PlantedTask
from xaibench.tasks.planted_checks import Evidence, causal_evidence
from xaibench.types import Detector, Explainer, Pair

FINDERS = ("integrated_gradients", "occlusion")
"""Explainers that must find a plant, with their default options."""


def verify(
    task: PlantedTask,
    detector: Detector,
    *,
    clips: int | None = None,
    explained: int | None = None,
    progress: Callable[[Evidence], None] | None = None,
) -> list[Evidence]:
    """Run all causal checks on every kind that a task plants, on test clips.

    Args:
        task: Kinds, grades and recordings.
        detector: In ``eval()`` mode.
        clips: Clips per kind for the detector's own checks, spread over voices; all by default.
        explained: Clips per kind that are explained; as many as ``clips`` by default.
        progress: Called with the evidence of each kind.
    """
    evidence = []
    for kind in task.kinds:
        measured = causal_evidence(task, kind, detector, clips=clips)
        pairs = [p for p in task.pairs("test") if p.family == kind][: clips if explained is None else explained]
        dice = {name: mean_dice(task, pairs, EXPLAINERS.load(name), detector) for name in FINDERS}
        found, signed = ({name: both[i] for name, both in dice.items()} for i in range(2))
        evidence.append(replace(measured, found=found, found_signed=signed))
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
