"""Broken rules of a contract, and the clips on which the rules are tried."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.errors import PluginError
from xaibench.types import SAMPLE_RATE

TOLERANCE = 1e-5
"""Largest difference between a batch and its singles, relative to the largest value."""


@dataclass(frozen=True)
class Finding:
    """A broken rule and what was seen."""

    rule: str
    detail: str

    def __str__(self) -> str:
        """Return ``rule (detail)``."""
        return f"{self.rule} ({self.detail})"


def require(findings: Sequence[Finding], name: str) -> None:
    """Raise if there are findings.

    Raises:
        PluginError: Naming every broken rule.
    """
    if findings:
        raise PluginError(f"{name} must keep the contract, got {len(findings)} broken rule(s): {'; '.join(map(str, findings))}; mend them")


def example_clips(samples: int, count: int = 2) -> Tensor:
    """Return ``(count, samples)`` of harmonic sound with pauses and a noise floor, each of another pitch and level, always the same."""
    time = torch.arange(samples) / SAMPLE_RATE
    clips = []
    for index in range(count):
        noise = torch.randn(samples, generator=torch.Generator().manual_seed(index))
        pitch = 110.0 * 1.3**index
        tone = sum(torch.sin(2 * torch.pi * pitch * k * time + k) / k for k in range(1, 24))
        syllables = torch.sin(2 * torch.pi * (3 + index) * time).clamp(min=0)
        clips.append(0.1 / (index + 1) * tone * syllables + 0.002 * noise)
    return torch.stack(clips)
