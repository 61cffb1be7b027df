"""Planted truth with explainers: the last causal check, and the verdict on every kind of artifact.

The first three checks ask the detector alone (``tasks/planted_checks.py``). The last one asks whether the region can be found at all by
methods that know the detector and nothing else: integrated gradients and occlusion as shipped. A kind that they miss is no ruler.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from xaibench.benchmark.metrics.localization import generalized_dice
from xaibench.registry import EXPLAINERS
from xaibench.tasks.corpora.planted import PlantedTask
from xaibench.tasks.corpora.planted.kinds import KINDS, Kind
from xaibench.tasks.pairs import spread
from xaibench.tasks.planted_checks import Evidence, causal_evidence
from xaibench.types import Detector, Explainer, Pair

FINDERS = ("integrated_gradients", "occlusion")
"""Explainers that must find a plant, with their default options and polarity."""


def verify(
    task: PlantedTask,
    detector: Detector,
    *,
    kinds: Sequence[Kind] = KINDS,
    clips: int | None = None,
    found_clips: int | None = None,
    progress: Callable[[Evidence], None] | None = None,
) -> list[Evidence]:
    """Run all causal checks on every kind.

    Args:
        task: Source of recordings; its own choice of kinds is ignored.
        detector: In ``eval()`` mode.
        kinds: What to check.
        clips: Clips per kind for the detector's own checks; all by default.
        found_clips: Clips per kind that are explained; as many as ``clips`` by default.
        progress: Called with the evidence of each kind.
    """
    every = replace(task, kind="all")
    explained = found_clips if found_clips is not None else clips
    evidence = []
    for kind in kinds:
        measured = causal_evidence(every, kind, detector, clips=clips)
        pairs = [p for p in spread(every.pairs("test")) if p.family == kind][:explained]
        found = {name: mean_dice(every, pairs, EXPLAINERS.load(name), detector) for name in FINDERS}
        evidence.append(replace(measured, found=found))
        if progress:
            progress(evidence[-1])
    return evidence


def mean_dice(task: PlantedTask, pairs: Sequence[Pair], explainer: Explainer, detector: Detector) -> float:
    """Return the mean Generalized Dice of an explainer, in its declared polarity, against the planted regions of some pairs."""
    scores = []
    for pair in pairs:
        clip = task.load(pair)
        references = task.references(pair) if "references" in explainer.needs else None
        heatmap = explainer.explain(clip.spoof[None], detector, references=references, generator=torch.Generator().manual_seed(0))
        heatmap = heatmap.abs() if explainer.polarity == "magnitude" else heatmap
        region = clip.planted if clip.planted is not None else torch.zeros_like(heatmap[0], dtype=torch.bool)
        scores.append(float(generalized_dice(heatmap, region[None])))
    return sum(scores) / len(scores)
