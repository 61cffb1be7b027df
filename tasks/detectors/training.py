"""Training a detector on twins.

The loss is binary cross-entropy plus a ranking term on each pair, so that a detector is asked whether a clip is spoof and also which of two
twins is. The state with the lowest loss on the dev split is kept, if that split is large enough to tell. Test pairs are scored once, at the
end, for the card alone (``card``).
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import RunError
from xaibench.registry import DETECTORS
from xaibench.tasks.cache import atomic_write
from xaibench.tasks.detectors.batches import BatchRecipe, PairBatches
from xaibench.tasks.detectors.card import assess, hardware, plain
from xaibench.tasks.detectors.weights import write_safetensors
from xaibench.types import Clip, Detector, Task, Weights

Progress = Callable[[float, dict[str, float]], None]
"""Called with the share done (0..1) and the latest figures."""
CHECKS = 12
"""How often the dev split is scored during a training."""

SELECTION_PAIRS = 40
"""Dev pairs needed to select a state; with fewer, whose mean loss hangs on a few voices, the last state is kept."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Optimizer and losses; stored in the card of the weights."""

    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warm_up: float = 0.05
    """Share of the training in which the learning rate rises; a cosine leads it down again."""
    ranking_weight: float = 0.5
    start: str = "random"
    """Weights to start from: a shipped name or a path."""
    batches: BatchRecipe = field(default_factory=BatchRecipe)


def train_detector(
    task: Task,
    detector_name: str,
    *,
    out: str | Path,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    recipe: TrainingRecipe | None = None,
) -> dict[str, Any]:
    """Train a detector on the train split of a task, and write its weights and their card.

    Args:
        task: Task with train, dev and test splits.
        detector_name: Registered detector that takes ``weights`` and ``seed``.
        out: File for the weights (``.safetensors``), or a folder; the card is written beside it with the suffix ``.json``.
        minutes: Time budget; a training bounded by time is not reproducible to the bit, one bounded by steps is (on one machine).
        steps: Number of batches; takes precedence over the time budget.
        seed: Seed of initial values and batches.
        device: Torch device.
        progress: Called after each step.
        recipe: Optimizer, losses, batches and start; the default trained the shipped weights, but for what their card says.

    Returns:
        The card.

    Raises:
        ValueError: If neither budget is given, or the task has no training pairs.
        RunError: If the training diverges.
    """
    if steps is None and minutes is None:
        raise ValueError("steps or minutes must be given, got neither; use for example minutes=5")
    path = Path(out) if str(out).endswith(".safetensors") else Path(out) / f"{detector_name}-{task.name}.safetensors"
    recipe = recipe or TrainingRecipe()
    detector: Detector = DETECTORS.load(detector_name, weights=recipe.start, seed=seed).to(device)
    began = time.monotonic()
    done, dev_loss, state = _fit(detector, task, recipe, _batches(task, recipe.batches, seed), (steps, minutes), progress)
    seconds = round(time.monotonic() - began)
    detector.load_state_dict(state)
    folded: Callable[[], Detector] | None = getattr(detector, "folded", None)
    detector = folded() if folded else detector
    write_safetensors(path, detector.state_dict(), _metadata(detector))
    training = {"seed": seed, "steps": done, "seconds": seconds, "dev_loss": dev_loss, "recipe": asdict(recipe)}
    card = plain(_origin(detector, task, device) | training | assess(detector, task))
    atomic_write(path.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
    return dict(card)


def _batches(task: Task, recipe: BatchRecipe, seed: int) -> PairBatches:
    """Return the task's own training batches where it makes some (``training_batches``), else its twins."""
    make: Callable[[BatchRecipe, int], PairBatches] | None = getattr(task, "training_batches", None)
    return make(recipe, seed) if make else PairBatches(task, recipe, seed)


def _origin(detector: Detector, task: Task, device: str) -> dict[str, Any]:
    """Return what the weights are and what they were trained on."""
    return {
        "detector": detector.name,
        "fingerprint": detector.fingerprint(),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "task": task.name,
        "task_fingerprint": task.fingerprint(),
        "train_pairs": len(task.pairs("train")),
        "hardware": hardware(device),
        "torch": torch.__version__.split("+")[0],
    }


def _fit(
    detector: Detector,
    task: Task,
    recipe: TrainingRecipe,
    batches: PairBatches,
    budget: tuple[int | None, float | None],
    progress: Progress | None,
) -> tuple[int, float, Weights]:
    """Train, and return the number of steps, the dev loss of the kept state and that state."""
    device = next(detector.parameters()).device
    dev = [task.load(p) for p in task.pairs("dev")]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    began, step, share, best, kept = time.monotonic(), 0, 0.0, float("inf"), _state(detector)
    figures: dict[str, float] = {}
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(share, recipe.warm_up)
        figures["loss"] = _step(detector.train(), optimizer, batches, recipe, device)
        before, step = share, step + 1
        share = min(1.0, step / budget[0] if budget[0] is not None else (time.monotonic() - began) / 60 / (budget[1] or 1e-9))
        if int(share * CHECKS) > int(before * CHECKS):
            figures["dev_loss"] = _dev_loss(detector.eval(), dev, recipe, device)
            if figures["dev_loss"] <= best or len(dev) < SELECTION_PAIRS:
                best, kept = figures["dev_loss"], _state(detector)
        if progress:
            progress(share, figures)
    detector.eval()
    return step, best, kept


def _step(
    detector: nn.Module, optimizer: torch.optim.Optimizer, batches: PairBatches, recipe: TrainingRecipe, device: torch.device
) -> float:
    waveform, target = (t.to(device) for t in batches.batch())
    own: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = getattr(batches, "loss", None)
    loss = own(detector, waveform, target) if own else _loss(detector(waveform), target, batches.recipe.n_pairs, recipe)
    if not loss.isfinite():
        raise RunError(f"the loss must stay finite, got {float(loss)}; lower learning_rate, {recipe.learning_rate}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _loss(logits: Tensor, target: Tensor, n_pairs: int, recipe: TrainingRecipe) -> Tensor:
    """Return cross-entropy of all clips plus the ranking loss of the pairs (Burges et al. 2005, eq. 3)."""
    ranking = nn.functional.softplus(logits[:n_pairs] - logits[n_pairs : 2 * n_pairs]).mean()
    return nn.functional.binary_cross_entropy_with_logits(logits, target) + recipe.ranking_weight * ranking


def _dev_loss(detector: Detector, dev: list[Clip], recipe: TrainingRecipe, device: torch.device) -> float:
    """Return the loss on full-length dev clips; without a dev split 0, so that the last state is kept."""
    if not dev:
        return 0.0
    losses = []
    with torch.no_grad():
        for clip in dev:
            logits = detector(torch.stack([clip.bonafide, clip.spoof]).to(device))
            losses.append(float(_loss(logits, torch.tensor([0.0, 1.0], device=device), 1, recipe)))
    return sum(losses) / len(losses)


def _schedule(share: float, warm_up: float) -> float:
    """Rise linearly, then fall along a cosine to zero."""
    if share < warm_up:
        return 0.05 + 0.95 * share / warm_up
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (share - warm_up) / (1 - warm_up)))))


def _state(detector: nn.Module) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in detector.state_dict().items()}


def _metadata(detector: Detector) -> dict[str, str]:
    """Return the detector's sizes for its file, where it has a configuration."""
    config = getattr(detector, "config", None)
    return {"config": json.dumps(asdict(config), sort_keys=True)} if is_dataclass(config) and not isinstance(config, type) else {}
