"""Where a training computes: a plain loop on one device, or through accelerate, which adds several GPUs and mixed precision."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import MissingExtraError

PRECISIONS = {"float32": "no", "bf16": "bf16"}
"""Names of precisions, and accelerate's."""


@dataclass
class Launch:
    """One process of a training.

    Args:
        device: Torch device.
        accelerator: accelerate's ``Accelerator``, or None for the plain loop.
    """

    device: torch.device
    accelerator: Any = None

    @property
    def rank(self) -> int:
        """Number of this process; 0 writes files."""
        return int(self.accelerator.process_index) if self.accelerator else 0

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return int(self.accelerator.num_processes) if self.accelerator else 1

    def prepare(self, detector: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the detector as it is to be called in training, and its optimizer."""
        if not self.accelerator:
            return detector, optimizer
        model, optimizer = self.accelerator.prepare(detector, optimizer)
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, summed over all processes."""
        if self.accelerator:
            self.accelerator.backward(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    def finish(self, model: nn.Module) -> None:
        """Wait for the other processes, and take off what ``prepare`` put around the detector."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()
            self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def launch(device: str, precision: str = "float32") -> Launch:
    """Choose how to compute: through accelerate for a GPU, for several processes and for mixed precision, where it is installed.

    Raises:
        ValueError: If the precision is unknown.
        MissingExtraError: If mixed precision or several processes need accelerate and it is not installed.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}; use float32")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = torch.device(device).type == "cpu"
    installed = importlib.util.find_spec("accelerate") is not None
    if not installed and (several or precision != "float32"):
        raise MissingExtraError(
            f"precision {precision} in {os.environ.get('WORLD_SIZE', '1')} process(es) needs accelerate; run: pip install 'xaibench[train]'"
        )
    if not installed or (cpu and not several and precision == "float32"):
        return Launch(torch.device(device))
    from accelerate import Accelerator, DistributedDataParallelKwargs

    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # AASIST's checkpoints have normalizations that take no part
    accelerator = Accelerator(cpu=cpu, mixed_precision=PRECISIONS[precision], kwargs_handlers=[unused])
    return Launch(accelerator.device, accelerator)
