"""ADDSegDiff: SegDiff that sees what a detector hears instead of the spectrogram (Grinberg et al. 2025, arXiv:2506.03425).

The frozen detector's hidden layers (``features``) pass through small networks of their own and condition the same denoiser. It is trained
on the same masks as SpecSegDiff, so a good score says that the artifact can be found *from the detector's features*; whether the detector
learned them is another question, which ``addsegdiff_random`` answers: the same training on the features of the same architecture with
random parameters. Where the two rows do not differ beyond their interval, ADDSegDiff is *not detector-specific*.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from xaibench.errors import WeightsError
from xaibench.explainers.segdiff import features
from xaibench.explainers.segdiff.spec import FALLBACK, SpecSegDiff
from xaibench.explainers.segdiff.weights import load, shipped
from xaibench.registry import EXPLAINERS
from xaibench.types import Clip, Detector, Generators, Weights, content_hash


@EXPLAINERS.register("addsegdiff")
@dataclass(frozen=True)
class AddSegDiff(SpecSegDiff):
    """SegDiff on the detector's features; weights are trained for one detector, and refused for another."""

    reference = "Grinberg et al. 2025, arXiv:2506.03425, section 3"
    needs = frozenset({"training_pairs", "logits"})
    ablation = "addsegdiff_random"
    claim = "detector-specific"

    def applicable(self, detector: Detector) -> tuple[bool, str]:
        """Tell whether weights for this very detector, by fingerprint, are at hand."""
        if not features.readable(detector):
            return False, f"detector {detector.name!r} has neither hidden states nor 2-D convolutions"
        try:
            known = load(self.name, self.chosen(detector)).config.detector
        except WeightsError as error:
            return False, str(error)
        if known != self.source(detector).fingerprint():
            return False, f"its weights were trained on another detector than this {detector.name}; run `xaibench train {self.name}`"
        return True, ""

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled; the one-shot network sees the spectrogram, which is none of this explainer's business."""
        super().__post_init__()
        if self.start != "noise":
            raise ValueError(f"start must be noise for {self.name}, got {self.start!r}; it must not see the spectrogram")

    def source(self, detector: Detector) -> Detector:
        """Return the detector whose features are read."""
        return detector

    def heard(self, waveform: Tensor, detector: Detector | None) -> features.Maps:
        """Return the maps of the detector's layers."""
        if detector is None:
            raise ValueError(f"detector must be given to {self.name}, got None; it reads the detector's features")
        return features.read(self.source(detector), waveform)

    def chosen(self, detector: Detector | None) -> str:
        """Return the weights of the task for this detector: ``<task>-<detector>`` where they ship, else ``<task>``."""
        task = FALLBACK if self.weights == "auto" else self.weights
        own = f"{task}-{detector.name}" if detector is not None else ""
        return own if own in shipped(self.name) else task

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the mask's probability, or its deviation over samples, (B, F, N) in [0, 1], from the detector's features."""
        drawn = self.draw(waveform, generator, detector)
        return drawn.mean if self.output == "probability" else torch.sqrt(drawn.variance)

    def bind(self, task: str) -> Self:
        """Take the weights shipped for the task, those of minivoc where there are none."""
        if self.weights != "auto":
            return self
        return replace(self, weights=task if any(name.split("-")[0] == task for name in shipped(self.name)) else FALLBACK)

    def state_hash(self) -> str:
        """Hash the weights of the task for every detector they ship for."""
        task = FALLBACK if self.weights == "auto" else self.weights
        names = [name for name in shipped(self.name) if name.split("-")[0] == task] or [task]
        hashes = [load(self.name, name).sha256 for name in names]
        return hashes[0] if len(hashes) == 1 else content_hash(hashes)

    def fit(self, pairs: Iterable[Clip]) -> Weights:
        """Refuse: training needs a detector, which this door does not hand over.

        Raises:
            WeightsError: Always, with the command that trains.
        """
        raise WeightsError(
            f"{self.name} must be trained with a detector, got pairs alone; run `xaibench train {self.name} --detector NAME`"
        )


@EXPLAINERS.register("addsegdiff_random")
@dataclass(frozen=True)
class AddSegDiffRandom(AddSegDiff):
    """The same on a copy of the detector with random parameters: what the architecture tells without having learned anything."""

    reference = "ablation of Grinberg et al. 2025: features of a detector that learned nothing"
    ablation, claim = "", ""

    def source(self, detector: Detector) -> Detector:
        """Return the detector's blank copy."""
        return features.blank_of(detector)
