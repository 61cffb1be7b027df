"""Training a detector on twins, and the card that says what the weights are worth.

The loss is binary cross-entropy plus a ranking term on each pair, so that a detector is asked whether a clip is spoof and also which of two
twins is. The state with the lowest loss on the dev split is kept. Test pairs are scored once, at the end, for the card alone.
"""

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.registry import DETECTORS
from xaibench.tasks.cache import atomic_write
from xaibench.tasks.detectors.batches import BatchRecipe, PairBatches
from xaibench.tasks.detectors.quality import average_spectrum_control, figures_by_slice, score_pairs
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN
from xaibench.tasks.detectors.weights import write_safetensors
from xaibench.tasks.pairs import spread
from xaibench.tasks.spectrogram import inverse
from xaibench.types import CLIP_SAMPLES, Clip, Detector, Task, Weights

Progress = Callable[[float, dict[str, float]], None]
"""Called with the share done (0..1) and the latest figures."""
CHECKS = 12
"""How often the dev split is scored during a training."""

CONTROL_PAIRS = 240
"""Training pairs on which the shortcut control is fitted, at most."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Optimizer and losses; stored in the card of the weights."""

    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warm_up: float = 0.05
    """Share of the training in which the learning rate rises; a cosine leads it down again."""
    ranking_weight: float = 0.5


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
    start: str | Path = "random",
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
        start: Weights to start from.

    Returns:
        The card.

    Raises:
        ValueError: If neither budget is given, or the task has no training pairs.
    """
    if steps is None and minutes is None:
        raise ValueError("steps or minutes must be given, got neither; use for example minutes=5")
    path = Path(out) if str(out).endswith(".safetensors") else Path(out) / f"{detector_name}-{task.name}.safetensors"
    detector: Detector = DETECTORS.load(detector_name, weights=start, seed=seed).to(device)
    recipe, batch_recipe = TrainingRecipe(), BatchRecipe()
    began = time.monotonic()
    done, dev_loss, state = _fit(detector, task, recipe, PairBatches(task, batch_recipe, seed), (steps, minutes), progress)
    seconds = time.monotonic() - began
    detector.load_state_dict(state)
    detector = detector.folded() if isinstance(detector, SpectrogramCNN) else detector
    write_safetensors(path, detector.state_dict(), _metadata(detector))
    card = {
        "detector": detector_name,
        "task": task.name,
        "task_fingerprint": task.fingerprint(),
        "fingerprint": detector.fingerprint(),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "seed": seed,
        "started_from": "random" if start == "random" else Path(start).name,
        "steps": done,
        "seconds": round(seconds),
        "hardware": _hardware(device),
        "torch": torch.__version__.split("+")[0],
        "training": asdict(recipe),
        "batches": asdict(batch_recipe),
        "train_pairs": len(task.pairs("train")),
        "dev_loss": dev_loss,
        **assess(detector, task),
    }
    atomic_write(path.with_suffix(".json"), (json.dumps(_plain(card), indent=1) + "\n").encode())
    return card


def assess(detector: Detector, task: Task) -> dict[str, Any]:
    """Return the figures of a card: quality on dev and test, the shortcut control, and the log-odds of clips without evidence."""
    train = [task.load(p) for p in spread(task.pairs("train"))[:CONTROL_PAIRS]]
    splits = {split: [task.load(p) for p in task.pairs(split)] for split in ("dev", "test")}
    return {
        "quality": {split: figures_by_slice(score_pairs(detector, clips)) for split, clips in splits.items()},
        "average_spectrum_control": {
            split: figures_by_slice(average_spectrum_control(train, clips)) for split, clips in splits.items() if clips
        },
        "log_odds": baseline_log_odds(detector, splits["test"]),
    }


def baseline_log_odds(detector: Detector, clips: list[Clip]) -> dict[str, float]:
    """Return what the detector says of clips that attributions start from: a baseline must not be very spoof by accident.

    Silence, noise, the flat spectrum of magnitude one with the spoof's phase, and the mean over recordings and over spoofs.
    """
    device = next(detector.parameters()).device
    generator = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(1, CLIP_SAMPLES, generator=generator)
    phase = torch.rand(1, 513, CLIP_SAMPLES // 256 + 1, generator=generator) * 2 * torch.pi
    flat = inverse(torch.polar(torch.ones_like(phase), phase), CLIP_SAMPLES)
    sounds = {"silence": torch.zeros(1, CLIP_SAMPLES), "white_noise": noise, "flat_spectrum": flat}
    with torch.no_grad():
        answers = {name: float(detector.spoof_logit(sound.to(device))[0]) for name, sound in sounds.items()}
    scores = score_pairs(detector, clips)
    for name in ("bonafide", "spoof"):
        answers[name] = float(torch.tensor([getattr(s, name) for s in scores]).mean()) if scores else float("nan")
    return answers


def _fit(
    detector: Detector,
    task: Task,
    recipe: TrainingRecipe,
    batches: PairBatches,
    budget: tuple[int | None, float | None],
    progress: Progress | None,
) -> tuple[int, float, Weights]:
    """Train, and return the number of steps, the lowest dev loss and the state that reached it."""
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
            if figures["dev_loss"] <= best:
                best, kept = figures["dev_loss"], _state(detector)
        if progress:
            progress(share, figures)
    detector.eval()
    return step, best, kept


def _step(
    detector: nn.Module, optimizer: torch.optim.Optimizer, batches: PairBatches, recipe: TrainingRecipe, device: torch.device
) -> float:
    waveform, target = (t.to(device) for t in batches.batch())
    loss = _loss(detector(waveform), target, batches.recipe.n_pairs, recipe)
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


def _hardware(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def _plain(value: Any) -> Any:
    """Return JSON-ready values: floats with 6 decimals, NaN as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
