"""The processes of a training run: one by itself, or several that torchrun started and accelerate joins.

A step's batch is that of the whole run; every process takes its share of it, and randomness belongs to the example's place in the batch.
Two processes therefore train as one does, up to rounding.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import MissingExtraError


class Fleet:
    """This process among those of the run.

    Args:
        device: ``cpu``, ``cuda``, ...; several processes take a GPU each.

    Raises:
        MissingExtraError: If torchrun started several processes and accelerate is not installed.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.accelerator: Any = None
        self.rank, self.count, self.device = 0, 1, device
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self.accelerator = _accelerator(device)
            self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
            self.device = str(self.accelerator.device)

    @property
    def first(self) -> bool:
        """Whether this process writes, scores and reports."""
        return self.rank == 0

    def share(self, batch: Sequence[int]) -> list[int]:
        """Return this process's places of a batch.

        Raises:
            ValueError: If the batch cannot be dealt out evenly.
        """
        if len(batch) % self.count:
            raise ValueError(f"batch_size must be a multiple of the {self.count} processes, got {len(batch)}; change one of them")
        return list(batch[self.rank :: self.count])

    def join(self, objective: nn.Module) -> nn.Module:
        """Return the objective such that its gradients are averaged over processes."""
        joined: nn.Module = objective if self.accelerator is None else self.accelerator.prepare_model(objective)
        return joined

    def mean(self, value: Tensor) -> Tensor:
        """Return the average of a number over processes."""
        averaged: Tensor = value if self.accelerator is None else self.accelerator.reduce(value, reduction="mean")
        return averaged

    def wait(self) -> None:
        """Let the others catch up."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def _accelerator(device: str) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("training in several processes needs accelerate; run `pip install 'xaibench[train]'`") from error
    return Accelerator(cpu=torch.device(device).type == "cpu")
