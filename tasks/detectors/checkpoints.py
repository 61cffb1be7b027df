"""The state of a training between two steps, written whole or not at all, so that a training that was stopped goes on where it was."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xaibench.errors import RunError
from xaibench.tasks.cache import atomic_path
from xaibench.types import Weights, content_hash


@dataclass
class Progress:
    """What changes while a detector is trained."""

    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    kept: Weights = field(default_factory=dict)
    """The weights with the best dev loss so far."""


@dataclass
class Checkpoint:
    """A file that holds the state of one training.

    Args:
        path: The file; None for a training that is not kept.
        key: Hash of everything that decides the training; a file of another one is refused.
        rank: Number of this process. All processes read the file and the first one writes it, with its own random states; the others go on
            from new ones, so that several processes do not repeat their batches, nor themselves to the bit.
        every_s: Least time between two writings.
    """

    path: Path | None
    key: str
    rank: int = 0
    every_s: float = 120.0
    _last: float = field(default_factory=time.monotonic)

    def save(self, progress: Progress, detector: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
        """Write the state, unless the last writing is less than ``every_s`` ago."""
        if self.path is None or self.rank or time.monotonic() - self._last < self.every_s:
            return
        state = {
            "key": self.key,
            "numbers": {"step": progress.step, "seconds": progress.seconds, "best": progress.best},
            "kept": progress.kept,
            "detector": detector.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": {"batches": generator.get_state(), "torch": torch.get_rng_state(), "cuda": _cuda_states()},
        }
        with atomic_path(self.path) as part:
            torch.save(state, part)
        self._last = time.monotonic()

    def resume(self, detector: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> Progress:
        """Restore everything from the file where there is one, and return how far the training had come.

        Raises:
            RunError: If the file belongs to another training.
        """
        if self.path is None or not self.path.exists():
            return Progress()
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["key"] != self.key:
            raise RunError(
                f"out must be free or hold a checkpoint of this training, got {self.path} of another; remove it or choose another"
            )
        detector.load_state_dict(state["detector"])
        optimizer.load_state_dict(state["optimizer"])
        now = Progress(**state["numbers"], kept=state["kept"])
        if self.rank:
            seed = int(content_hash([self.key, self.rank, now.step])[:15], 16)
            generator.manual_seed(seed)
            torch.manual_seed(seed)
            return now
        generator.set_state(state["random"]["batches"])
        torch.set_rng_state(state["random"]["torch"])
        if state["random"]["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random"]["cuda"])
        return now

    def remove(self) -> None:
        """Delete the file: the training is done."""
        if self.path is not None and not self.rank:
            self.path.unlink(missing_ok=True)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
