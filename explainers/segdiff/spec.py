"""SpecSegDiff: a conditional diffusion draws the mask of vocoder artifacts from the spectrogram (Grinberg et al. 2025, arXiv:2506.03425).

The detector is never asked: this explainer shows where the sound looks vocoded, which need not be what the detector hears. The network is
``network``, noising and samplers are ``diffusion``, how many masks are drawn and averaged is ``sampling``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from xaibench.errors import WeightsError
from xaibench.explainers.segdiff.data import from_clips
from xaibench.explainers.segdiff.diffusion import Sampler
from xaibench.explainers.segdiff.features import Maps
from xaibench.explainers.segdiff.frontend import FrontEnd
from xaibench.explainers.segdiff.sampling import Posterior, Sampling, posterior
from xaibench.explainers.segdiff.training import TrainingConfig, train
from xaibench.explainers.segdiff.weights import Model, load, preset, shipped
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Clip, Detector, Generators, TrainableExplainer, Weights, clip_generators, content_hash

FALLBACK = "minivoc"
CHOICES = {
    "protocol": ("fast", "paper"),
    "output": ("probability", "deviation"),
    "sampler": ("ancestral", "ddim", "dpm"),
    "start": ("noise", "one_shot"),
}
PAPER = Sampling(steps=100, samples=32, sampler="ancestral", first_share=0.0)


@dataclass(frozen=True)
class SegDiffExplainer(TrainableExplainer):
    """What SpecSegDiff and its ablation share: weights by task, one output channel per recipe, the grid of training."""

    reference = "Grinberg et al. 2025, arXiv:2506.03425"
    polarity = "magnitude"
    needs = frozenset({"training_pairs"})
    recipe: str = "sym-floor60-v1"
    weights: str = "auto"
    """Task whose shipped weights are used, or path of a .safetensors file; ``auto`` is the task at hand, minivoc where none ship for it."""
    stft: STFTConfig = DEFAULT_STFT

    @property
    def decision_threshold(self) -> float | None:
        """The papers' 0.5 of the mask's probability."""
        return 0.5

    def sampling(self) -> Sampling:
        """Return how the posterior is sampled."""
        return Sampling()

    def heard(self, waveform: Tensor, detector: Detector | None) -> Maps:
        """Return the detector's features that the network reads: none, for networks that see the spectrogram alone."""
        del waveform, detector
        return ()

    def beginning(self, waveform: Tensor) -> Tensor | None:
        """Return masks in [-1, 1], (B, R, F, N padded), from which samples are drawn; ``None`` for noise."""
        del waveform
        return None

    def model(self, detector: Detector | None = None) -> Model:
        """Return the network; it is read once per process. ``detector`` chooses among networks that were trained on one.

        Raises:
            WeightsError: If weights are missing, damaged, of another method, or were not trained for the recipe.
            ValueError: If they were trained on another grid.
        """
        model = load(self.name, self.chosen(detector))
        if self.recipe not in model.config.recipes:
            known = ", ".join(model.config.recipes)
            raise WeightsError(f"recipe must be one that the weights were trained for, got {self.recipe!r}; available: {known}")
        if self.stft != model.config.stft:
            grids = [f"{c.window_samples}/{c.hop_samples}" for c in (model.config.stft, self.stft)]
            raise ValueError(f"stft must be the grid of the weights, {grids[0]}, got {grids[1]}; train weights for it")
        return model

    def draw(self, waveform: Tensor, generator: Generators = None, detector: Detector | None = None) -> Posterior:
        """Return mean and variance over samples of the mask's probability on the grid, both (B, F, N), for clips (B, T).

        The variance tells how far the samples disagree; it is zero for ``one_shot``. Only ``addsegdiff`` listens to the detector.
        """
        model = self.model(detector)
        network = model.network.to(waveform.device)
        channel = model.config.recipes.index(self.recipe)
        image = model.config.front.image(waveform, self.stft)
        maps = self.heard(waveform, detector)
        frames = self.stft.frames(waveform.shape[-1])
        generators = clip_generators(generator, len(waveform))
        drawn = posterior(network, model.config, image, generators, self.sampling(), maps, frames, self.beginning(waveform))
        mean, variance = (FrontEnd.restore(part[:, channel], self.stft, waveform.shape[-1]) for part in drawn)
        return Posterior(mean, variance)

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the probability that each cell lies in the mask, (B, F, N) in [0, 1]; the detector is not asked."""
        return self.draw(waveform, generator).mean

    def chosen(self, detector: Detector | None) -> str:
        """Return the weights to load."""
        del detector
        return FALLBACK if self.weights == "auto" else self.weights

    def fit(self, pairs: Iterable[Clip]) -> Weights:
        """Train the small network on clips with the default settings; takes minutes."""
        config = TrainingConfig(model=replace(preset(self.name, "small"), stft=self.stft))
        examples = from_clips(pairs, config.examples())
        run = train(config, examples)
        return run.best_weights

    def bind(self, task: str) -> Self:
        """Take the weights shipped for the task, those of minivoc where there are none."""
        if self.weights != "auto":
            return self
        return replace(self, weights=task if task in shipped(self.name) else FALLBACK)

    def state_hash(self) -> str:
        """Hash the weights."""
        return self.model().sha256


@EXPLAINERS.register("specsegdiff")
@dataclass(frozen=True)
class SpecSegDiff(SegDiffExplainer):
    """Samples of the mask, averaged; few steps by default, ``protocol=paper`` for 100 ancestral steps x 32 samples."""

    deterministic = False
    steps: int = Sampling.steps
    samples: int = Sampling.samples
    protocol: Literal["fast", "paper"] = "fast"
    sampler: Sampler = Sampling.sampler
    """``dpm`` (DPM-Solver++) needs the extra ``diffusion``."""
    start: Literal["noise", "one_shot"] = "noise"
    """``one_shot`` starts half-way down the schedule from what ``one_shot``'s weights of the same name say, instead of from noise."""
    output: Literal["probability", "deviation"] = "probability"
    """``deviation`` shows the standard deviation over samples instead: where the explainer is unsure."""

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        for name in ("steps", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; use the default")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                *others, last = known
                raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {getattr(self, name)!r}; use {known[0]}")

    def sampling(self) -> Sampling:
        """Return the paper's sampling, or the default one with the fields' counts."""
        return PAPER if self.protocol == "paper" else Sampling(steps=self.steps, samples=self.samples, sampler=self.sampler)

    def state_hash(self) -> str:
        """Hash the weights, those of the start included."""
        own = super().state_hash()
        return own if self.start == "noise" else content_hash([own, load("one_shot", self.chosen(None)).sha256])

    @property
    def decision_threshold(self) -> float | None:
        """The papers' 0.5 of the mask's probability; a deviation decides nothing."""
        return super().decision_threshold if self.output == "probability" else None

    @torch.no_grad()
    def beginning(self, waveform: Tensor) -> Tensor | None:
        """Return what the one-shot network of the same name says, where ``start`` asks for it."""
        if self.start == "noise":
            return None
        known, mine = load("one_shot", self.chosen(None)), self.model().config
        if known.config.recipes != mine.recipes:
            raise WeightsError(f"one_shot's weights must be of recipes {mine.recipes}, got {known.config.recipes}; use start=noise")
        image = known.config.front.image(waveform, self.stft)
        generators = clip_generators(None, len(waveform))
        return 2 * posterior(known.network.to(waveform.device), known.config, image, generators, Sampling()).mean - 1

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the mask's probability, or its deviation over samples, (B, F, N) in [0, 1]; the detector is not asked."""
        drawn = self.draw(waveform, generator)
        return drawn.mean if self.output == "probability" else torch.sqrt(drawn.variance)
