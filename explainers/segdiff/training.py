"""Train a SegDiff network, or the same network as a plain segmenter, on the training pairs of a task.

Most of a mask survives most noise, hence a share of all steps is at the last time, where only the spectrogram can help (``objective``).
``one_shot`` is the ablation: it sees an empty mask instead of a noisy one, always at the last time step.

A step's randomness depends on the seed, its number and the place in the batch alone, so a run that was killed and resumed gives the
losses of one that was not.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xaibench.errors import WeightsError
from xaibench.explainers.segdiff.augmentation import Augmentation
from xaibench.explainers.segdiff.backbone import Backbone
from xaibench.explainers.segdiff.checkpoints import Run, log, resume, save
from xaibench.explainers.segdiff.data import Batch, Examples, Recipe
from xaibench.explainers.segdiff.evaluation import evaluate
from xaibench.explainers.segdiff.mixture import Mixture
from xaibench.explainers.segdiff.network import SegDiffNetwork
from xaibench.explainers.segdiff.objective import Objective, draw, generator_of, known_cells
from xaibench.explainers.segdiff.weights import ModelConfig, assemble, read
from xaibench.tasks.fleet import Fleet
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
    backbone: str = ""
    """Folder of a pretrained diffusers ``UNet2DModel`` whose weights the denoiser starts from; the model must have been built for it."""
    teacher: str = ""
    """Weights file of a network of the same configuration from which the student learns; empty for training on the masks."""
    student_steps: int = 0
    """Steps that the student is to need; training then happens at their times alone."""
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
        if bool(self.teacher) != bool(self.student_steps) or (self.teacher and self.model.method == "one_shot"):
            raise ValueError(f"teacher and student_steps must come together, got {self.teacher!r} and {self.student_steps}; set both")
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
    minutes: float | None = None,
) -> Run:
    """Train, and resume where ``out`` holds a checkpoint of the same configuration and data.

    Args:
        config: The run.
        examples: Training examples.
        dev: Development examples; the average weights that score best on them are kept. Without them the last ones are.
        out: Folder of the checkpoint and of ``history.jsonl``; ``None`` keeps nothing.
        device: ``cpu``, ``cuda``, ...; under torchrun each process takes one of its kind.
        report: Called with a record after every step and every evaluation.
        stop_after: End after this step although the run is longer.
        minutes: End after so long although the run is longer; the same call goes on from there.

    Returns:
        The run; ``best_weights`` are what to ship.

    Raises:
        WeightsError: If the checkpoint belongs to another run, or the initial weights to another network.
    """
    key = content_hash({"config": asdict(config), "examples": len(examples), "pairs": examples.pairs})
    fleet = Fleet(device)
    run = start(config, fleet.device, examples)
    if out is not None:
        resume(run, Path(out), key, write=fleet.first)
    objective = fleet.join(Objective(run.network, config, _teacher(config, fleet.device)))
    last, deadline = min(config.steps, stop_after or config.steps), math.inf if minutes is None else time.monotonic() + 60 * minutes
    while run.step < last:
        over = bool(fleet.mean(torch.tensor(float(time.monotonic() >= deadline), device=fleet.device)) > 0)
        began = time.perf_counter()
        record: dict[str, Any] = {"step": run.step + 1, "loss": step(run, config, examples, objective, fleet)}
        run.seconds += time.perf_counter() - began
        if run.step % config.evaluate_every == 0 or run.step == config.steps or over:
            if fleet.first:
                record |= _assess(run, config, dev, fleet.device)
                save(run, out, key)
            fleet.wait()
        if fleet.first:
            log(record, out)
            if report is not None:
                report(record)
        if over:
            break
    return run


def start(config: TrainingConfig, device: str = "cpu", examples: Source | None = None) -> Run:
    """Return a run at step 0; a network with a table has it counted on the examples."""
    torch.manual_seed(config.seed)
    network = config.model.build().to(device)
    if config.backbone and isinstance(network.unet, Backbone):
        network.unet.load(Path(config.backbone))
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


def _teacher(config: TrainingConfig, device: str) -> SegDiffNetwork | None:
    """Return the network that a student learns from.

    Raises:
        WeightsError: If it is another network than the student.
    """
    if not config.teacher:
        return None
    model = assemble(*read(Path(config.teacher)))
    if (model.config.network, model.config.diffusion) != (config.model.network, config.model.diffusion):
        raise WeightsError(f"teacher must be the network that is trained, got {config.teacher} of another; distil equal networks")
    return model.network.to(device)


def step(run: Run, config: TrainingConfig, examples: Source, objective: nn.Module, fleet: Fleet) -> float:
    """Train on one batch, of which this process takes its share, and return the loss of the whole."""
    order = _order(len(examples), config, run.step)
    places = fleet.share(range(len(order)))
    batch = examples.batch([order[place] for place in places], fleet.device)
    batch = crop(batch, config.crop_frames, [generator_of(config.seed, run.step, -2 - place) for place in places])
    drawn = draw(config, run.step, places, tuple(batch.mask.shape[1:]))
    drawn = drawn._replace(times=drawn.times.to(fleet.device), noise=drawn.noise.to(fleet.device))
    for group in run.optimizer.param_groups:
        group["lr"] = config.learning_rate * _schedule(run.step, config)
    run.network.train()
    kind = torch.device(fleet.device).type
    with torch.autocast(kind, torch.bfloat16) if config.precision == "bf16" else nullcontext():
        value = objective(batch, drawn, examples.frames or None, fleet.mean(known_cells(batch)))
    run.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(value)
    nn.utils.clip_grad_norm_(run.network.parameters(), config.clip_norm)
    run.optimizer.step()
    run.step += 1
    decay = min(config.ema, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.average.values()), list(run.network.state_dict().values()), 1 - decay)
    return float(fleet.mean(value.detach()))


def crop(batch: Batch, frames: int, generators: Sequence[torch.Generator]) -> Batch:
    """Cut ``frames`` frames from each example at a place of its own; 0 keeps the batch as it is."""
    total = batch.image.shape[-1]
    if not 0 < frames < total:
        return batch
    starts = [int(torch.randint(0, total - frames + 1, (), generator=g)) for g in generators]
    image, mask, weight = (torch.stack([t[i, ..., s : s + frames] for i, s in enumerate(starts)]) for t in batch[:3])
    return Batch(image, mask, weight)


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
