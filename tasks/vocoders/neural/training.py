"""Train a vocoder on crops of recordings, alone or against discriminators, and resume it bit for bit.

A step's crops and noise depend on the seed, its number and the place in the batch alone. What ships is the average of the weights, whose
memory grows with the steps.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import RunError, WeightsError
from xaibench.tasks.cache import atomic_path
from xaibench.tasks.fleet import Fleet
from xaibench.tasks.vocoders.neural.discriminators import Discriminators
from xaibench.tasks.vocoders.neural.features import HOP, MARGIN, Condition, log_mel
from xaibench.tasks.vocoders.neural.network import Network
from xaibench.tasks.vocoders.neural.speech import Speech
from xaibench.types import Weights, content_hash

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.jsonl"
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingConfig:
    """A training run of one vocoder."""

    vocoder: str
    size: str = "small"
    steps: int = 20_000
    batch_size: int = 8
    frames: int = 40
    """Length of a crop, in frames of 12.5 ms."""
    learning_rate: float = 1e-3
    warmup: int = 100
    clip_norm: float = 5.0
    ema: float = 0.999
    adversarial_after: int = 4000
    """Step from which on discriminators judge, for networks that may be judged; -1 for never."""
    adversarial_weight: float = 0.1
    judge_channels: int = 8
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse runs that cannot be."""
        for name in ("steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; raise it")
        if self.frames < 8:
            raise ValueError(f"frames must be at least 8, the window of the widest spectrum that is compared, got {self.frames}; raise it")


@dataclass
class Run:
    """The state of a run between two steps."""

    network: Network
    optimizer: torch.optim.Optimizer
    average: Weights
    judges: Discriminators | None = None
    judges_optimizer: torch.optim.Optimizer | None = None
    step: int = 0
    seconds: float = 0.0


def train(
    config: TrainingConfig,
    kind: type[Network],
    speech: Speech,
    *,
    out: Path | None = None,
    device: str = "cpu",
    report: Report | None = None,
    minutes: float | None = None,
    stop_after: int | None = None,
) -> Run:
    """Train, and resume where ``out`` holds a checkpoint of the same configuration and recordings.

    Args:
        config: The run.
        kind: The network's class.
        speech: Recordings.
        out: Folder of the checkpoint and of ``history.jsonl``; ``None`` keeps nothing.
        device: ``cpu``, ``cuda``, ...; under torchrun each process takes one of its kind.
        report: Called with a record after every step.
        minutes: End after so long although the run is longer; the same call goes on from there.
        stop_after: End after this step although the run is longer.

    Raises:
        WeightsError: If the checkpoint belongs to another run.
        RunError: If the loss is no longer finite.
    """
    fleet = Fleet(device)
    key = content_hash({"config": asdict(config), "speech": speech.fingerprint})
    run = start(config, kind, fleet.device)
    if out is not None:
        _resume(run, Path(out), key, fleet)
    objective = fleet.join(run.network)
    judge = None if run.judges is None else fleet.join(run.judges)
    last, deadline = min(config.steps, stop_after or config.steps), math.inf if minutes is None else time.monotonic() + 60 * minutes
    while run.step < last:
        began = time.perf_counter()
        record = step(run, config, speech, objective, judge, fleet)
        run.seconds += time.perf_counter() - began
        over = bool(fleet.mean(torch.tensor(float(time.monotonic() >= deadline), device=fleet.device)) > 0)
        if fleet.first:
            _log(record, out)
            if run.step % config.save_every == 0 or run.step == last or over:
                _save(run, out, key)
            if report is not None:
                report(record)
        if over:
            break
    fleet.wait()
    return run


def start(config: TrainingConfig, kind: type[Network], device: str = "cpu") -> Run:
    """Return a run at step 0, its weights drawn from the seed."""
    if config.size not in kind.presets:
        raise ValueError(f"size must be one of {', '.join(kind.presets)}, got {config.size!r}; use small")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = kind(kind.presets[config.size]).to(device)
        judges = Discriminators(config.judge_channels).to(device) if kind.adversarial and config.adversarial_after >= 0 else None
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    return Run(network, _optimizer(network, config), average, judges, _optimizer(judges, config) if judges is not None else None)


def _optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=config.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)


def step(
    run: Run, config: TrainingConfig, speech: Speech, objective: nn.Module, judge: nn.Module | None, fleet: Fleet
) -> dict[str, float | int]:
    """Train on one batch, of which this process takes its share, and return the losses of the whole."""
    places = fleet.share(range(config.batch_size))
    waveform, condition, generators = batch(config, speech, run.step, places, fleet.device)
    for optimizer in filter(None, (run.optimizer, run.judges_optimizer)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(run.step, config)
    run.network.train()
    loss, generated = objective(waveform, condition, generators)
    record: dict[str, float | int] = {"step": run.step + 1, "loss": float(fleet.mean(loss.detach()))}
    if judge is not None and run.judges is not None and generated is not None and run.step >= config.adversarial_after:
        record["judges"] = float(fleet.mean(_judge(run, judge, waveform, generated.detach(), config)))
        run.judges.requires_grad_(False)
        persuasion = run.judges.persuade(waveform, generated)
        run.judges.requires_grad_(True)
        record["persuasion"] = float(fleet.mean(persuasion.detach()))
        loss = loss + config.adversarial_weight * persuasion
    if not math.isfinite(record["loss"]):
        raise RunError(
            f"the loss must stay finite, got {record['loss']} at step {run.step + 1}; lower learning_rate, {config.learning_rate}"
        )
    _descend(loss, run.network, run.optimizer, config)
    run.step += 1
    decay = min(config.ema, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        own = run.network.state_dict()
        torch._foreach_lerp_(list(run.average.values()), [own[name] for name in run.average], 1 - decay)
    return record


def _judge(run: Run, judge: nn.Module, waveform: Tensor, generated: Tensor, config: TrainingConfig) -> Tensor:
    loss: Tensor = judge(waveform, generated)
    assert run.judges is not None
    assert run.judges_optimizer is not None
    _descend(loss, run.judges, run.judges_optimizer, config)
    return loss.detach()


def _descend(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
    optimizer.step()


def batch(
    config: TrainingConfig, speech: Speech, number: int, places: list[int], device: str
) -> tuple[Tensor, Condition, list[torch.Generator]]:
    """Return crops ``(B, 200 frames)``, their features and one generator each; long recordings are cropped more often."""
    lengths = torch.tensor([u.samples for u in speech.train], dtype=torch.double)
    ends = lengths.cumsum(0)
    waves, tracks, generators = [], [], []
    for place in places:
        seed = int(content_hash({"seed": config.seed, "step": number, "place": place})[:15], 16)
        generator = torch.Generator().manual_seed(seed)
        at = torch.rand(1, generator=generator, dtype=torch.double) * ends[-1]
        utterance = speech.train[min(int(torch.searchsorted(ends, at)), len(lengths) - 1)]
        starts = max(1, utterance.samples // HOP - config.frames + 1)
        wave, f0 = speech.crop(utterance, int(torch.randint(0, starts, (), generator=generator)), config.frames)
        waves.append(wave)
        tracks.append(f0)
        generators.append(generator)
    wide = torch.stack(waves).to(device)
    mel = log_mel(wide)[:, :, MARGIN : MARGIN + config.frames + 1]
    return wide[:, MARGIN * HOP : -MARGIN * HOP], Condition(mel, torch.stack(tracks).to(device)), generators


def _schedule(number: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine to 5 %."""
    if number < config.warmup:
        return (number + 1) / config.warmup
    done = (number - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _parts(run: Run) -> dict[str, Any]:
    parts: dict[str, Any] = {"network": run.network, "optimizer": run.optimizer}
    if run.judges is not None:
        parts |= {"judges": run.judges, "judges_optimizer": run.judges_optimizer}
    return parts


def _save(run: Run, out: Path | None, key: str) -> None:
    """Write the checkpoint, whole or not at all."""
    if out is None:
        return
    state = {"key": key, "average": run.average, "step": run.step, "seconds": run.seconds}
    with atomic_path(Path(out) / CHECKPOINT) as part:
        torch.save(state | {name: item.state_dict() for name, item in _parts(run).items()}, part)


def _resume(run: Run, out: Path, key: str, fleet: Fleet) -> None:
    path = out / CHECKPOINT
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["key"] != key:
            raise WeightsError(f"out must be empty or hold a checkpoint of this run, got {path} of another; choose another folder")
        for name, item in _parts(run).items():
            item.load_state_dict(state[name])
        run.average = {k: v.to(fleet.device) for k, v in state["average"].items()}
        run.step, run.seconds = state["step"], state["seconds"]
    history = out / HISTORY
    if fleet.first and history.exists():
        kept = [line for line in history.read_text().splitlines() if json.loads(line)["step"] <= run.step]
        history.write_text("".join(line + "\n" for line in kept))


def _log(record: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        with (Path(out) / HISTORY).open("a") as stream:
            stream.write(json.dumps(record) + "\n")
