"""A diffusion vocoder after DiffWave (Kong et al. 2021, arXiv:2009.09761): noise, cleaned step by step.

Training adds noise of a random time to a recording and asks for the noise (algorithm 1); copies start from noise alone and take a few steps
whose levels lie on the training schedule (algorithm 2 on a shorter schedule, appendix B).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.registry import VOCODERS
from xaibench.tasks.vocoders.neural.blocks import GatedStack
from xaibench.tasks.vocoders.neural.features import BANDS, LEVEL, Condition, to_samples
from xaibench.tasks.vocoders.neural.network import Generators, Network, normal
from xaibench.tasks.vocoders.neural.vocoder import NeuralVocoder

TIMES = 50
BETAS = (1e-4, 0.05)
FAST = (0, 2, 6, 12, 22, 35, 49)
"""Times of the steps that a copy takes, from clean to noise."""


@dataclass(frozen=True)
class DiffWaveSizes:
    """Width, layers, layers until the dilation is 1 again, width of the condition."""

    channels: int = 32
    layers: int = 12
    cycle: int = 6
    conditions: int = 64


@dataclass(frozen=True)
class Schedule:
    """Levels of noise: after time t a sample is ``sqrt(kept) x + sqrt(1 - kept) noise``."""

    kept: Tensor
    """Product of ``1 - beta`` up to each time, (S,), falling."""

    @classmethod
    def linear(cls) -> "Schedule":
        """Return the schedule of training: 50 times, beta from 1e-4 to 0.05."""
        return cls(torch.cumprod(1 - torch.linspace(*BETAS, TIMES, dtype=torch.double), 0))

    def at(self, times: tuple[int, ...]) -> "Schedule":
        """Return the shorter schedule that visits these times."""
        return Schedule(self.kept[list(times)])

    @property
    def beta(self) -> Tensor:
        """Share of noise that each step adds, (S,)."""
        before = torch.cat([self.kept.new_ones(1), self.kept[:-1]])
        return 1 - self.kept / before

    @property
    def posterior_variance(self) -> Tensor:
        """Variance of the step before, given this one and the clean sample (eq. 6), (S,); 0 at the first."""
        before = torch.cat([self.kept.new_ones(1), self.kept[:-1]])
        return (1 - before) / (1 - self.kept) * self.beta

    def noised(self, clean: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """Add noise of times ``(B,)`` to ``(B, T)``."""
        kept = self.kept.to(clean)[index][:, None]
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def step(self, sample: Tensor, predicted: Tensor, index: int, fresh: Tensor) -> Tensor:
        """Go one step towards the clean sample, given the predicted noise (eq. 7), with fresh noise of the posterior's variance."""
        beta, kept = float(self.beta[index]), float(self.kept[index])
        mean = (sample - beta / math.sqrt(1 - kept) * predicted) / math.sqrt(1 - beta)
        return mean + math.sqrt(float(self.posterior_variance[index])) * fresh


class DiffWaveNetwork(Network):
    """Noisy waveform, level of noise and mel to the noise."""

    adversarial: ClassVar[bool] = False
    presets: ClassVar[dict[str, DiffWaveSizes]] = {
        "tiny": DiffWaveSizes(16, 4, 4, 16),
        "small": DiffWaveSizes(32, 12, 6, 64),
        "base": DiffWaveSizes(64, 30, 10, 128),
    }

    def __init__(self, sizes: DiffWaveSizes) -> None:
        super().__init__(sizes)
        self.listen = nn.Sequential(nn.Conv1d(BANDS, sizes.conditions, 5, padding=2), nn.GELU())
        self.level = nn.Sequential(nn.Linear(64, sizes.conditions), nn.SiLU(), nn.Linear(sizes.conditions, sizes.conditions))
        self.enter = nn.Conv1d(1, sizes.channels, 1)
        self.stack = GatedStack(sizes.channels, sizes.layers, sizes.conditions, sizes.cycle)
        last = nn.Conv1d(sizes.channels, 1, 1)
        nn.init.zeros_(last.weight)
        self.leave = nn.Sequential(nn.Conv1d(sizes.channels, sizes.channels, 1), nn.ReLU(), last)

    def predict(self, noisy: Tensor, kept: Tensor, condition: Condition) -> Tensor:
        """Return the noise in ``(B, T)`` whose level is ``kept`` ``(B,)``; the level is continuous, so that any schedule will do."""
        place = torch.arange(32, device=noisy.device, dtype=noisy.dtype)
        angle = 1000 * kept.to(noisy).sqrt()[:, None] * 10 ** (-4 * place / 31)
        level = self.level(torch.cat([angle.sin(), angle.cos()], dim=1))[:, :, None]
        given = to_samples(self.listen(condition.mel) + level, noisy.shape[-1])
        predicted: Tensor = self.leave(self.stack(self.enter(noisy[:, None]), given))[:, 0]
        return predicted

    def generate(self, condition: Condition, samples: int, generators: Generators) -> Tensor:
        """Return ``(B, samples)``."""
        schedule = Schedule.linear().at(FAST)
        sample = normal(generators, (samples,), condition.mel)
        for index in reversed(range(len(FAST))):
            kept = schedule.kept[index].expand(len(sample)).to(sample)
            fresh = normal(generators, (samples,), sample) if index else torch.zeros_like(sample)
            sample = schedule.step(sample, self.predict(sample, kept, condition), index, fresh)
        return sample * LEVEL

    def forward(self, waveform: Tensor, condition: Condition, generators: Generators) -> tuple[Tensor, Tensor | None]:
        """Return the mean absolute error of the predicted noise."""
        schedule = Schedule.linear()
        index = torch.stack([torch.randint(TIMES, (), generator=g) for g in generators])
        noise = normal(generators, (waveform.shape[-1],), waveform)
        noisy = schedule.noised(waveform / LEVEL, noise, index)
        return (self.predict(noisy, schedule.kept[index].to(waveform), condition) - noise).abs().mean(), None


@VOCODERS.register("diffwave")
@dataclass(frozen=True)
class DiffWave(NeuralVocoder):
    """Seven steps from noise."""

    title: ClassVar[str] = "Diffusion vocoder (DiffWave-like)"
    kind: ClassVar[str] = "neural-diffusion"
    reference: ClassVar[str] = "Kong et al. 2021, arXiv:2009.09761"
    network: ClassVar[type[Network]] = DiffWaveNetwork
