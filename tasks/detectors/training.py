"""Training a detector on twins.

The loss is binary cross-entropy plus a ranking term on each pair, so that a detector is asked whether a clip is spoof and also which of two
twins is. The state with the lowest loss on the dev split is kept, if that split is large enough to tell. Test pairs are scored once, at the
end, for the card alone (``card``).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import RunError
from xaibench.registry import DETECTORS
from xaibench.tasks.cache import atomic_write
from xaibench.tasks.detectors.batches import BatchRecipe, PairBatches, beginning
from xaibench.tasks.detectors.card import assess, hardware, plain
from xaibench.tasks.detectors.checkpoints import Checkpoint, Progress
from xaibench.tasks.detectors.launch import Launch, launch
from xaibench.tasks.detectors.recipes import TrainingRecipe
from xaibench.tasks.detectors.weights import write_safetensors
from xaibench.types import Clip, Detector, Task, Weights, content_hash

Report = Callable[[float, dict[str, float]], None]
"""Called with the share done (0..1) and the latest figures."""
SELECTION_PAIRS = 40
"""Dev pairs needed to select a state; with fewer, whose mean loss hangs on a few voices, the last state is kept."""


def train_detector(
    task: Task,
    detector_name: str,
    *,
    out: str | Path,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Report | None = None,
    recipe: TrainingRecipe | None = None,
) -> dict[str, Any]:
    """Train a detector on the train split of a task, and write its weights and their card.

    Args:
        task: Task with train, dev and test splits.
        detector_name: Registered detector that takes ``weights`` and ``seed``, also with options: ``wav2vec2_aasist:back_end=random``.
        out: File for the weights (``.safetensors``), or a folder; the card is written beside it with the suffix ``.json``.
        minutes: Time budget; a training bounded by time is not reproducible to the bit, one bounded by steps is (on one machine).
        steps: Number of batches; takes precedence over the time budget, and both over the recipe's epochs.
        seed: Seed of initial values and batches.
        device: Torch device.
        progress: Called after each step.
        recipe: Optimizer, losses, batches and start; the default trained the shipped weights, but for what their card says.

    Returns:
        The card; of the processes that accelerate started, the first one's.

    Raises:
        ValueError: If neither budget is given, or a time for several processes, or channels where there is no choice, or the task has no
            training pairs.
        RunError: If the training diverges.
    """
    recipe = recipe or TrainingRecipe()
    place = launch(device, recipe.precision)
    pairs = beginning(task.pairs("train"), recipe.batches.per_speaker)
    steps = _steps(steps, minutes, recipe, len(pairs), place.processes)
    detector = _start(detector_name, recipe, seed).to(place.device)
    path = Path(out) if str(out).endswith(".safetensors") else Path(out) / f"{detector.name}-{task.name}.safetensors"
    key = content_hash([detector.name, detector.fingerprint(), asdict(recipe), task.fingerprint(), steps, minutes, seed])
    job = _Job(task, recipe, steps, minutes, seed, place, Checkpoint(path.with_suffix(".checkpoint"), key, place.rank))
    with _seeded(seed + place.rank):
        done = _fit(detector, job, progress)
    detector.load_state_dict(done.kept)
    folded: Callable[[], Detector] | None = getattr(detector, "folded", None)
    detector = folded() if folded else detector
    training = {"seed": seed, "steps": done.step, "seconds": round(done.seconds), "dev_loss": done.best, "recipe": asdict(recipe)}
    origin = _origin(detector, task, device) | {"train_pairs": len(pairs)}
    card = plain(origin | training | assess(detector, task, pairs))
    if place.rank == 0:
        write_safetensors(path, detector.state_dict(), _metadata(detector))
        card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        atomic_write(path.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
        job.checkpoint.remove()
    return dict(card)


def _start(name: str, recipe: TrainingRecipe, seed: int) -> Detector:
    """Load what is trained.

    Raises:
        ValueError: If other channels or another level are wanted than weights to start from have.
    """
    detector: Detector = DETECTORS.load(name, weights=recipe.start, seed=seed)
    config: Any = getattr(detector, "config", None)
    named = {key: value for key in ("channels", "level") if (value := getattr(recipe, key)) is not None}
    wanted = {key: value for key, value in named.items() if getattr(config, key, None) != value}
    if not wanted:
        return detector
    if recipe.start != "random" or not all(hasattr(config, key) for key in wanted):
        what, got = " and ".join(wanted), " and ".join(map(str, wanted.values()))
        raise ValueError(f"{what} must be left out for {name} from {recipe.start}, got {got}; only untrained CNNs have a choice")
    detector = DETECTORS.load(name, weights=recipe.start, seed=seed, config=replace(config, **wanted))
    return detector


def _batches(task: Task, recipe: BatchRecipe, seed: int) -> PairBatches:
    """Return the task's own training batches where it makes some (``training_batches``), else its twins."""
    make: Callable[[BatchRecipe, int], PairBatches] | None = getattr(task, "training_batches", None)
    return make(recipe, seed) if make else PairBatches(task, recipe, seed)


def _steps(steps: int | None, minutes: float | None, recipe: TrainingRecipe, pairs: int, processes: int) -> int | None:
    """Return the number of batches, by the recipe's epochs if no budget is given; None for a budget of time."""
    if steps is None and minutes is None and recipe.epochs:
        return recipe.epochs * -(-pairs // (recipe.batches.n_pairs * processes))
    if steps is None and minutes is None:
        raise ValueError("steps or minutes must be given, got neither; use for example minutes=5")
    if steps is None and processes > 1:
        raise ValueError(f"steps must be given for {processes} processes, whose clocks differ, got minutes={minutes}; give steps")
    return steps


@dataclass(frozen=True)
class _Job:
    """What does not change while a detector is trained."""

    task: Task
    recipe: TrainingRecipe
    steps: int | None
    minutes: float | None
    seed: int
    place: Launch
    checkpoint: Checkpoint

    def share(self, progress: Progress) -> float:
        """Return how much of the training is done, 0 to 1."""
        if self.steps is not None:
            return min(1.0, progress.step / self.steps)
        return min(1.0, progress.seconds / 60 / (self.minutes or 1e-9))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what dropout draws from, and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _origin(detector: Detector, task: Task, device: str) -> dict[str, Any]:
    """Return what the weights are and what they were trained on."""
    return {
        "detector": detector.name,
        "fingerprint": detector.fingerprint(),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "task": task.name,
        "task_fingerprint": task.fingerprint(),
        "hardware": hardware(device),
        "torch": torch.__version__.split("+")[0],
    }


def _fit(detector: Detector, job: _Job, report: Report | None) -> Progress:
    """Train from the checkpoint or from the start, and return the steps done with the kept state and its dev loss."""
    recipe, place = job.recipe, job.place
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer]
    optimizer: torch.optim.Optimizer = kind(detector.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = _batches(job.task, recipe.batches, job.seed + place.rank)
    own = hasattr(batches, "loss")  # twins say little of what such a task teaches: the last state is kept
    dev = [] if own else [job.task.load(p) for p in job.task.pairs("dev")]
    prepare: Callable[[nn.Module], None] | None = getattr(batches, "prepare", None)
    if prepare and recipe.start == "random":
        prepare(detector)
    now = job.checkpoint.resume(detector, optimizer, batches.generator)
    now.kept = now.kept or _state(detector)
    model, optimizer = place.prepare(detector, optimizer)
    began, figures = time.monotonic() - now.seconds, {}
    while (before := job.share(now)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(before, recipe)
        figures["loss"] = _step(model.train(), optimizer, batches, recipe, place)
        now.step, now.seconds = now.step + 1, time.monotonic() - began
        share = job.share(now)
        if int(share * recipe.checks) > int(before * recipe.checks):
            figures["dev_loss"] = _dev_loss(detector.eval(), dev, recipe, place.device)
            if figures["dev_loss"] <= now.best or len(dev) < SELECTION_PAIRS:
                now.best, now.kept = figures["dev_loss"], _state(detector)
        job.checkpoint.save(now, detector, optimizer, batches.generator)
        if report:
            report(share, figures)
    place.finish(model)
    detector.eval()
    return now


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: PairBatches, recipe: TrainingRecipe, place: Launch) -> float:
    waveform, target = (t.to(place.device) for t in batches.batch())
    own: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = getattr(batches, "loss", None)
    loss = own(model, waveform, target) if own else _loss(model(waveform), target, batches.recipe.n_pairs, recipe)
    if not loss.isfinite():
        raise RunError(f"the loss must stay finite, got {float(loss)}; lower learning_rate, {recipe.learning_rate}")
    optimizer.zero_grad(set_to_none=True)
    place.backward(loss)
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return float(loss.detach())


def _loss(logits: Tensor, target: Tensor, n_pairs: int, recipe: TrainingRecipe) -> Tensor:
    """Return cross-entropy of all clips plus the ranking loss of the pairs (Burges et al. 2005, eq. 3)."""
    bonafide, spoof = recipe.class_weights or (1.0, 1.0)
    weights = bonafide + (spoof - bonafide) * target
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    ranking = nn.functional.softplus(logits[:n_pairs] - logits[n_pairs : 2 * n_pairs]).mean()
    return (weights * entropy).sum() / weights.sum() + recipe.ranking_weight * ranking


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


def _schedule(share: float, recipe: TrainingRecipe) -> float:
    """Rise linearly, then fall along a cosine to zero; 1 throughout where the schedule is constant."""
    warm_up = recipe.warm_up
    if recipe.schedule == "constant":
        return 1.0
    if share < warm_up:
        return 0.05 + 0.95 * share / warm_up
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (share - warm_up) / (1 - warm_up)))))


def _state(detector: nn.Module) -> Weights:
    return {name: tensor.detach().cpu().clone() for name, tensor in detector.state_dict().items()}


def _metadata(detector: Detector) -> dict[str, str]:
    """Return the detector's sizes for its file, where it has a configuration."""
    config = getattr(detector, "config", None)
    return {"config": json.dumps(asdict(config), sort_keys=True)} if is_dataclass(config) and not isinstance(config, type) else {}
