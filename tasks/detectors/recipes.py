"""How detectors are trained: optimizer, losses, batches and length in one value that goes into the card, and recipes that have a name."""

from dataclasses import dataclass, field
from typing import Literal

from xaibench.errors import UnknownNameError
from xaibench.tasks.detectors.batches import BatchRecipe
from xaibench.types import CLIP_SAMPLES, SAMPLE_RATE


@dataclass(frozen=True)
class TrainingRecipe:
    """Optimizer, losses and batches; stored in the card of the weights."""

    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    warm_up: float = 0.05
    """Share of the training in which the learning rate rises; a cosine leads it down again."""
    ranking_weight: float = 0.5
    class_weights: tuple[float, float] | None = None
    """Weights of recordings and of spoofs in the cross-entropy, whose mean is weighted; None for the plain mean."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    epochs: int = 0
    """Length where the caller gives none: passes over the training pairs; 0 where the caller must."""
    checks: int = 12
    """How often the dev split is scored; 1 for the end alone, so that the last state is kept."""
    precision: str = "float32"
    """``float32``, or ``bf16`` for the steps on a GPU."""
    start: str = "random"
    """Weights to start from: a shipped name or a path."""
    channels: tuple[int, ...] | None = None
    """Layers and their channels, for detectors whose ``config`` has some and which start at random; by default the detector's own."""
    level: float | None = None
    """RMS that such detectors hear as 1 in every clip; by default each clip's own (``levels.py``)."""
    batches: BatchRecipe = field(default_factory=BatchRecipe)


CLIP_S = CLIP_SAMPLES / SAMPLE_RATE
RECIPES: dict[str, TrainingRecipe] = {
    "twins": TrainingRecipe(),
    "tiny": TrainingRecipe(checks=1, batches=BatchRecipe(shortest_s=0.8, longest_s=1.8, per_speaker=8)),
    "planted": TrainingRecipe(channels=(12, 24, 48), level=0.015, batches=BatchRecipe(n_pairs=4, speed=0.2)),
    "ssl_antispoofing": TrainingRecipe(
        learning_rate=1e-6, weight_decay=1e-4, optimizer="adam", schedule="constant",
        ranking_weight=0.0, class_weights=(0.9, 0.1), clip_norm=0.0, epochs=100, checks=100,
        batches=BatchRecipe(n_pairs=7, shortest_s=CLIP_S, longest_s=CLIP_S, gain_db=0, tilt_db=0, noise_share=0, n_empty=0, rawboost=5),
    ),
}  # fmt: skip
"""``twins`` trains small detectors from scratch, ``tiny`` likewise in less time: the shipped ``wav2vec2_aasist_tiny``. ``planted`` those of
planted truth: three layers, not four, as what a place hears beyond a region's edge blurs the region; one level for all clips; and voices at
other speeds. ``ssl_antispoofing`` fine-tunes as Tak et al. 2022 (arXiv:2202.12233) published it: Adam at 1e-6, batches of 14, class weights
.9 and .1, RawBoost 5, 100 epochs, best dev loss; but both twins of a pair are in the same batch and are disturbed alike, and the vocoders
take turns."""


def named_recipe(name: str) -> TrainingRecipe:
    """Return a recipe by name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in RECIPES:
        raise UnknownNameError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}; use for example twins")
    return RECIPES[name]
