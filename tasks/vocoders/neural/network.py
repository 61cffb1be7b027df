"""The contract of a trainable vocoder: features in, as many samples as were asked for out, and a loss of its own.

Random numbers come from one generator per example, on the CPU, so that a copy depends neither on its batch nor on the device.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xaibench.tasks.vocoders.neural.features import Condition

Generators = Sequence[torch.Generator]


class Network(nn.Module, ABC):
    """A vocoder's network; ``sizes`` is the frozen dataclass that it was built from."""

    adversarial: ClassVar[bool] = True
    """Whether training may set discriminators against it."""
    pitched: ClassVar[bool] = False
    """Whether it listens to F0."""
    presets: ClassVar[dict[str, Any]] = {}
    """Sizes by name: ``tiny`` for tests, ``small`` for a CPU overnight, ``base`` for a GPU."""

    def __init__(self, sizes: Any) -> None:
        super().__init__()
        self.sizes = sizes

    @abstractmethod
    def generate(self, condition: Condition, samples: int, generators: Generators) -> Tensor:
        """Return ``(B, samples)``; ``samples`` is at most 200 N, of N frames."""

    @abstractmethod
    def forward(self, waveform: Tensor, condition: Condition, generators: Generators) -> tuple[Tensor, Tensor | None]:
        """Return the loss on ``(B, T)`` and, for discriminators, what was generated ``(B, T)``."""

    def size_fields(self) -> dict[str, Any]:
        """Return the sizes as JSON can hold them."""
        return asdict(self.sizes)


def normal(generators: Generators, shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw ``(B, *shape)`` standard normal numbers, a row from each generator."""
    return torch.stack([torch.randn(*shape, generator=g) for g in generators]).to(like)
