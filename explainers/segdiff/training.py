"""Train a SegDiff network, or the same network as a plain segmenter, on the training pairs of a task.

The denoiser predicts the mask itself: binary cross-entropy (and soft Dice) between its logits and the clean mask, so that its estimate is
the posterior mean. Most of a mask survives most noise, hence a share of all steps is at the last time, where only the spectrogram can help.
``one_shot`` is the ablation: it sees an empty mask instead of a noisy one, always at the last time step.

A step's randomness depends on the seed and its number alone, so a run that was killed and resumed gives the losses of one that was not.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import WeightsError
from xaibench.explainers.segdiff.augmentation import Augmentation
from xaibench.explainers.segdiff.checkpoints import Run, log, resume, save
from xaibench.explainers.segdiff.data import Batch, Examples, Recipe
from xaibench.explainers.segdiff.evaluation import evaluate
from xaibench.explainers.segdiff.mixture import Mixture
from xaibench.explainers.segdiff.network import SegDiffNetwork
from xaibench.explainers.segdiff.weights import ModelConfig, read
from xaibench.types import content_hash

STANDARDISED = 64
"""Examples from which the scale of a detector's features is taken."""


@dataclass(frozen=True)
class TrainingConfig:
    """A training run: what is trained, how long, and with which loss."""

    model: ModelConfig = field(default_factory=ModelConfig)
    steps: int = 5500
    batch_size: int = 4
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.01
    ema: float = 0.998
    positive_weight: float = 1.0
    """Weight of masked cells in the cross-entropy; above 1 the logits are no longer calibrated."""
    dice_weight: float = 0.0
    terminal_share: float = 0.4
    """Share of examples drawn at the last time, where only the spectrogram can help."""
    crop_frames: int = 0
    """Frames of the random crop that a step sees of each example; 0 for all."""
    clip_norm: float = 1.0
    evaluate_every: int = 300
    seed: int = 0
    initial: str = ""
    """Weights file to start from; empty for random ones."""
    precision: str = "float32"
    """``bf16`` runs the network under autocast."""
    copies: int = 2
    """Examples made of each pair: itself and augmented ones."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    recount: bool = False
    """Count the table of a network with initial weights again on these examples: for weights that come from another task."""

    def __post_init__(self) -> None:
        """Refuse runs that cannot be."""
        for name in ("steps", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; raise it")
        if self.crop_frames and self.model.network.features:
            raise ValueError(f"crop_frames must be 0 where a detector's features are read, got {self.crop_frames}; leave it out")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"precision must be float32 or bf16, got {self.precision!r}; use float32 on a CPU")

    def examples(self) -> Recipe:
        """Return what is to be cached for this run."""
        model = self.model
        return Recipe(model.front, model.recipes, model.stft, self.copies, self.seed, self.augmentation, model.detector)

    def plain_examples(self) -> Recipe:
        """Return the same without augmented copies, for the development split."""
        return replace(self.examples(), copies=1)


Source = Examples | Mixture
Report = Callable[[dict[str, Any]], None]


def train(
    config: TrainingConfig,
    examples: Source,
    dev: Examples | None = None,
    *,
    out: Path | None = None,
    device: str = "cpu",
    report: Report | None = None,
    stop_after: int | None = None,
) -> Run:
    """Train, and resume where ``out`` holds a checkpoint of the same configuration and data.

    Args:
        config: The run.
        examples: Training examples.
        dev: Development examples; the average weights that score best on them are kept. Without them the last ones are.
        out: Folder of the checkpoint and of ``history.jsonl``; ``None`` keeps nothing.
        device: ``cpu``, ``cuda``, ...
        report: Called with a record after every step and every evaluation.
        stop_after: End after this step although the run is longer.

    Returns:
        The run; ``best_weights`` are what to ship.

    Raises:
        WeightsError: If the checkpoint belongs to another run, or the initial weights to another network.
    """
    key = content_hash({"config": asdict(config), "examples": len(examples), "pairs": examples.pairs})
    run = start(config, device, examples)
    if out is not None:
        resume(run, Path(out), key)
    last = min(config.steps, stop_after or config.steps)
    while run.step < last:
        began = time.perf_counter()
        record: dict[str, Any] = {"step": run.step + 1, "loss": step(run, config, examples, device)}
        run.seconds += time.perf_counter() - began
        if run.step % config.evaluate_every == 0 or run.step == config.steps:
            record |= _assess(run, config, dev, device)
            save(run, out, key)
        log(record, out)
        if report is not None:
            report(record)
    return run


def start(config: TrainingConfig, device: str = "cpu", examples: Source | None = None) -> Run:
    """Return a run at step 0; a network with a table has it counted on the examples."""
    torch.manual_seed(config.seed)
    network = config.model.build().to(device)
    if config.initial:
        found, tensors = read(Path(config.initial))
        wanted = config.model.network
        if found.network not in (wanted, replace(wanted, detail=0)):
            raise WeightsError(f"initial must hold the network that is trained, got {config.initial} of another; train from nothing")
        network.load_state_dict(tensors, strict=found.network == wanted)  # a refinement may join a network that had none
    if network.table is not None and examples is not None and (config.recount or not config.initial):
        network.table.log_odds.copy_(examples.log_odds(network.table.rows, *network.table.log_odds.shape[1:]))
    if network.features is not None and examples is not None and not config.initial:
        network.features.standardise([examples.batch([i]).maps for i in range(0, len(examples), -(-len(examples) // STANDARDISED))])
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
    )
    return Run(network, {k: v.detach().clone() for k, v in network.state_dict().items()}, optimizer)


def step(run: Run, config: TrainingConfig, examples: Source, device: str = "cpu") -> float:
    """Train on one batch and return its loss."""
    generator = torch.Generator().manual_seed(int(content_hash({"seed": config.seed, "step": run.step})[:15], 16))
    drawn = crop(examples.batch(_order(len(examples), config, run.step)), config.crop_frames, generator)
    batch = drawn.to(device)
    for group in run.optimizer.param_groups:
        group["lr"] = config.learning_rate * _schedule(run.step, config)
    run.network.train()
    with torch.autocast(torch.device(device).type, torch.bfloat16) if config.precision == "bf16" else nullcontext():
        value = loss(run.network, config, batch, generator, examples.frames)
    run.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(value)
    nn.utils.clip_grad_norm_(run.network.parameters(), config.clip_norm)
    run.optimizer.step()
    run.step += 1
    decay = min(config.ema, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.average.values()), list(run.network.state_dict().values()), 1 - decay)
    return float(value.detach())


def crop(batch: Batch, frames: int, generator: torch.Generator) -> Batch:
    """Cut ``frames`` frames from each example at a place of its own; 0 keeps the batch as it is."""
    total = batch.image.shape[-1]
    if not 0 < frames < total:
        return batch
    starts = torch.randint(0, total - frames + 1, (len(batch.image),), generator=generator).tolist()
    image, mask, weight = (torch.stack([t[i, ..., s : s + frames] for i, s in enumerate(starts)]) for t in batch[:3])
    return Batch(image, mask, weight)


def loss(network: SegDiffNetwork, config: TrainingConfig, batch: Batch, generator: torch.Generator, frames: int | None = None) -> Tensor:
    """Return the loss of a batch: one draw of time and noise for each example; a detector's maps span ``frames`` frames."""
    diffusion, target = config.model.diffusion, 2 * batch.mask - 1
    count, last = len(target), diffusion.steps - 1
    times = torch.randint(0, diffusion.steps, (count,), generator=generator)
    times = torch.where(torch.rand(count, generator=generator) < config.terminal_share, last, times).to(target.device)
    noise = torch.randn(target.shape, generator=generator).to(target.device)
    if config.model.method == "one_shot":
        times, noisy = torch.full_like(times, last), torch.zeros_like(target)
    else:
        noisy = diffusion.noisy(target, times, noise)
        if diffusion.empty_start:
            noisy = noisy * (times < last)[:, None, None, None]
    condition = network.condition(batch.image, batch.maps, frames)
    estimate = None
    if network.config.self_conditioning and float(torch.rand((), generator=generator)) < 0.5:
        with torch.no_grad():
            estimate = diffusion.read(network(noisy, times, condition), noisy, times).mask
    output = network(noisy, times, condition, estimate).float()
    if diffusion.prediction == "logit" or config.model.method == "one_shot":
        return segmentation_loss(output, batch, config.positive_weight, config.dice_weight)
    wanted = {"noise": noise, "mask": target, "velocity": diffusion.velocity(target, times, noise)}[diffusion.prediction]
    error: Tensor = ((output - wanted) ** 2 * batch.weight).sum() / _cells(batch)
    return error


def segmentation_loss(logits: Tensor, batch: Batch, positive_weight: float, dice_weight: float) -> Tensor:
    """Return mean cross-entropy over known cells, plus ``dice_weight`` times one minus soft Dice (Milletari et al. 2016)."""
    weight = batch.weight * (1 + (positive_weight - 1) * batch.mask)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, batch.mask, weight=weight.expand_as(logits), reduction="sum")
    total = entropy / _cells(batch)
    if dice_weight:
        soft = logits.sigmoid() * batch.weight
        overlap = 2 * (soft * batch.mask).sum((2, 3)) + 1
        total = total + dice_weight * (1 - overlap / (soft.sum((2, 3)) + (batch.mask * batch.weight).sum((2, 3)) + 1)).mean()
    return total


def _cells(batch: Batch) -> Tensor:
    return (batch.weight.sum() * batch.mask.shape[2]).clamp(min=1)


def _order(count: int, config: TrainingConfig, number: int) -> list[int]:
    """Return the examples of a step: epochs are permutations, drawn from seed and epoch."""
    first = number * config.batch_size
    return [_permutation(count, config.seed, i // count)[i % count] for i in range(first, first + config.batch_size)]


_PERMUTATIONS: dict[tuple[int, int, int], list[int]] = {}


def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    key = (count, seed, epoch)
    if key not in _PERMUTATIONS:
        _PERMUTATIONS.clear()
        generator = torch.Generator().manual_seed(int(content_hash({"seed": seed, "epoch": epoch})[:15], 16))
        _PERMUTATIONS[key] = torch.randperm(count, generator=generator).tolist()
    return _PERMUTATIONS[key]


def _schedule(number: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine to 1 %."""
    if number < config.warmup:
        return (number + 1) / config.warmup
    done = (number - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _assess(run: Run, config: TrainingConfig, dev: Examples | None, device: str) -> dict[str, Any]:
    """Score the average weights on the development split and keep them where they are the best so far."""
    if dev is None:
        run.best_weights = {k: v.clone() for k, v in run.average.items()}
        return {}
    network = config.model.build().to(device)
    network.load_state_dict(run.average)
    scores = evaluate(network.eval(), config.model, dev, device=device)
    if scores["mean"] > run.best:
        run.best, run.best_scores = scores["mean"], scores | {"step": run.step}
        run.best_weights = {k: v.clone() for k, v in run.average.items()}
    return {"dev": scores, "seconds": round(run.seconds, 1)}
