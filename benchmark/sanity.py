"""The sanity stage: does a map depend on what it should depend on? A few clips are explained again under one change at a time.

    another detector     all weights drawn anew: the map should become noise (eMPRT, and rank correlation with the first map)
    another seed         the map should stay
    an inaudible change  noise 60 dB under the clip: the map should stay
    the real twin        for methods with a threshold of their own: how much of a clip without artifact they call artifact
    another vocoder      the same utterance through other vocoders, from the stored maps: the strongest cells should move with the artifact

A map that cannot be made again under a change has no value there, and the reason stands in its place.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaibench.benchmark.explain import Variation, explain_varied, verdict
from xaibench.benchmark.metrics import sanity as pure
from xaibench.benchmark.metrics.localization import false_alarm_area, spearman
from xaibench.benchmark.plan import PlannedClip
from xaibench.benchmark.suite import Sanity
from xaibench.benchmark.units import Unit
from xaibench.benchmark.world import World
from xaibench.errors import RunError
from xaibench.types import Clip, Detector, content_hash

PLACE = "sanity"
"""Stands where other stages name what replaces cells."""


class Examiner:
    """Asks the sanity questions about the maps of one clip; the randomised detector is made once.

    Args:
        world: The run's objects.
        planned: The clip as planned.
        clip: The clip as loaded.
        valid: Cells that count, (F, N) bool.
    """

    def __init__(self, world: World, planned: PlannedClip, clip: Clip, valid: Tensor):
        self.world, self.planned, self.clip, self.valid = world, planned, clip, valid
        self._scrambled: Detector | None = None

    def score(self, unit: Unit, heatmap: Tensor, siblings: Sequence[Tensor], budget: Sanity, *, absolute: bool) -> dict[str, Any]:
        """Return values and reasons as a record holds them.

        Args:
            unit: The explanation's unit.
            heatmap: Its stored map, (F, N).
            siblings: Maps of the same utterance through other vocoders, each (F, N).
            budget: Seeds and perturbations.
            absolute: Whether magnitudes are compared.
        """
        values: dict[str, float | None] = {}
        why: dict[str, str] = {}
        decides = unit.threshold is not None and self.clip.has_twin
        for names, ask in (
            (("sanity_entropy_rise", "sanity_randomized_similarity"), self._randomized),
            (("sanity_repeatability",), self._repeated),
            (("sanity_maximum_sensitivity",), self._perturbed),
            *([(("false_alarm_area",), self._false_alarm)] if decides else []),
        ):
            try:
                found = ask(unit, heatmap, budget, absolute)
                reason = "the map is constant"
            except (KeyboardInterrupt, TimeoutError, MemoryError, RunError):
                raise  # the machine's fault or the limit's, not the map's: the whole score has failed and can be tried again
            except BaseException as error:  # a plugin may raise anything under a change, too
                found, problem = [math.nan] * len(names), verdict(error)[1]
                reason = f"{problem.kind}: {problem.message}"
            for name, value in zip(names, found, strict=True):
                _keep(name, value, reason, values, why)
        similarity = self._similarity(heatmap, siblings) if siblings else math.nan
        _keep("sanity_cross_vocoder_similarity", similarity, "no other vocoder of this utterance was explained", values, why)
        return {"values": values, "why": why}

    def _again(self, unit: Unit, variation: Variation, absolute: bool) -> Tensor:
        heatmap = explain_varied(self.world, self.planned, self.clip, unit, variation)
        return heatmap.abs() if absolute else heatmap

    def _randomized(self, unit: Unit, heatmap: Tensor, budget: Sanity, absolute: bool) -> list[float]:
        if self._scrambled is None:
            self._scrambled = pure.randomized(self.world.detectors[unit.detector], budget.seed).requires_grad_(False)
        other = self._again(unit, Variation(detector=self._scrambled), absolute)
        return [pure.entropy_rise(heatmap, other, self.valid), abs(self._correlation(heatmap, other))]

    def _repeated(self, unit: Unit, heatmap: Tensor, budget: Sanity, absolute: bool) -> list[float]:
        other = self._again(unit, Variation(seed=int(content_hash([unit.seed, budget.seed])[:15], 16)), absolute)
        return [1.0 if torch.equal(other, heatmap) else self._correlation(heatmap, other)]

    def _perturbed(self, unit: Unit, heatmap: Tensor, budget: Sanity, absolute: bool) -> list[float]:
        clip = self.clip.spoof
        level = clip[: self.clip.valid_samples].square().mean().sqrt() * 10 ** (budget.noise_db / 20)
        maps = []
        for i in range(budget.perturbations):
            generator = torch.Generator().manual_seed(int(content_hash([self.planned.seed, budget.seed, i])[:8], 16))
            heard = clip + level * torch.randn(clip.shape, generator=generator)
            maps.append(self._again(unit, Variation(waveform=heard), absolute))
        cells = self.valid.to(heatmap.dtype)
        return [float(pure.maximum_sensitivity((heatmap * cells)[None], torch.stack([(m * cells)[None] for m in maps]))[0])]

    def _false_alarm(self, unit: Unit, heatmap: Tensor, budget: Sanity, absolute: bool) -> list[float]:
        del heatmap, budget
        assert unit.threshold is not None  # or it is not asked
        twin = self._again(unit, Variation(waveform=self.clip.bonafide), absolute)
        return [float(false_alarm_area(twin[None], self.valid[None], threshold=unit.threshold)[0])]

    def _correlation(self, one: Tensor, other: Tensor) -> float:
        return float(spearman(one[None].double(), other[None].double(), self.valid[None])[0])

    def _similarity(self, heatmap: Tensor, siblings: Sequence[Tensor]) -> float:
        pairs = [torch.stack([heatmap, sibling]) for sibling in siblings]
        return sum(pure.cross_vocoder_similarity(pair, self.valid.expand_as(pair)) for pair in pairs) / len(pairs)


def _keep(name: str, value: float, reason: str, values: dict[str, float | None], why: dict[str, str]) -> None:
    values[name] = value if math.isfinite(value) else None
    if not math.isfinite(value):
        why[name] = reason
