"""Forward noising and samplers of a diffusion over masks in [-1, 1].

Ho et al. 2020 (arXiv:2006.11239, eqs. 4, 6, 7) with the strided posterior, DDIM (Song et al. 2021, arXiv:2010.02502, eqs. 12, 16), the
cosine schedule (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17), a terminal step without signal (Lin et al. 2024, arXiv:2305.08891,
algorithm 1) and bits as signals (Chen et al. 2023, arXiv:2208.04202): the mask is -1 or 1, its estimate the posterior mean
``tanh(logit / 2)``.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from xaibench.explainers.segdiff.schedulers import DPMSolver

Prediction = Literal["noise", "mask", "logit", "velocity"]
Sampler = Literal["ddim", "ancestral", "dpm"]


class Estimate(NamedTuple):
    """What a denoiser's output says about the clean mask and the noise, both (B, C, F, N)."""

    mask: Tensor
    noise: Tensor


class Start(NamedTuple):
    """Where a trajectory begins instead of at pure noise."""

    mask: Tensor
    """Estimate of the mask in [-1, 1], (1, C, F, N)."""
    time: int


@dataclass(frozen=True)
class Diffusion:
    """A noise schedule over ``steps`` integer times, and what the denoiser predicts.

    Raises:
        ValueError: If a name is unknown, or noise is predicted where the last step holds no signal.
    """

    steps: int = 100
    schedule: Literal["linear", "cosine"] = "linear"
    zero_terminal_snr: bool = False
    prediction: Prediction = "noise"
    shift: float = 1.0
    """Factor on the signal-to-noise amplitude at every time: below 1 more of the schedule is noise, which masks of large smooth blobs need
    (Hoogeboom et al. 2023, arXiv:2301.11093, section 3.1)."""

    variance: Literal["large", "posterior"] = "large"
    """Noise of ancestral steps: that of the forward step, as in SegDiff, or that of the posterior, which few steps need."""
    empty_start: bool = False
    """Start from the mean of pure noise, an empty mask, instead of a draw: the last time then holds no signal anyway, and the first
    estimate is shared by all samples. Needs ``zero_terminal_snr``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, got {self.steps}; use 100")
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule must be linear or cosine, got {self.schedule!r}; use linear")
        if self.prediction not in ("noise", "mask", "logit", "velocity"):
            raise ValueError(f"prediction must be noise, mask, logit or velocity, got {self.prediction!r}; use logit")
        if not self.zero_terminal_snr and self.empty_start:
            raise ValueError("empty_start must come with zero_terminal_snr, got it alone; set both")
        if self.zero_terminal_snr and self.variance == "large":
            raise ValueError("variance must be posterior where zero_terminal_snr is set, got large; the last step would add too much noise")
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, got {self.shift}; use 1")
        if self.zero_terminal_snr and self.prediction == "noise":
            raise ValueError("prediction must not be noise where zero_terminal_snr is set, got noise; use logit, mask or velocity")

    @cached_property
    def signal(self) -> Tensor:
        """Share of signal power left at each time, ``alpha_bar``, (steps,) float64, decreasing."""
        if self.schedule == "linear":
            scale = 1000 / self.steps
            alphas = 1 - torch.linspace(1e-4 * scale, min(0.02 * scale, 0.999), self.steps, dtype=torch.float64)
        else:
            edges = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            curve = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
            alphas = (curve[1:] / curve[:-1]).clamp(min=1e-3)
        root = alphas.cumprod(0).sqrt()
        if self.zero_terminal_snr:
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        signal = root**2
        return self.shift**2 * signal / (self.shift**2 * signal + 1 - signal)

    def at(self, times: Tensor) -> Tensor:
        """Return ``alpha_bar`` at integer times (B,), 1 at time -1, shaped (B, 1, 1, 1) float32."""
        table = torch.cat([self.signal, self.signal.new_ones(1)]).to(times.device)
        return table[times].float()[:, None, None, None]

    def noisy(self, mask: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Draw x_t from q(x_t | mask), (B, C, F, N), with unit Gaussian ``noise`` of that shape."""
        signal = self.at(times)
        return signal.sqrt() * mask + (1 - signal).sqrt() * noise

    def shown(self, state: Tensor, times: Tensor) -> Tensor:
        """Return what the denoiser is shown of noisy masks: an empty one at the last time of an empty start, else the state itself."""
        return state * (times < self.steps - 1)[:, None, None, None] if self.empty_start else state

    def read(self, output: Tensor, noisy: Tensor, times: Tensor) -> Estimate:
        """Turn a denoiser's output into its estimates of mask and noise."""
        signal = self.at(times)
        keep, spread = signal.sqrt(), (1 - signal).sqrt()
        if self.prediction == "noise":
            return Estimate((noisy - spread * output) / keep, output)
        if self.prediction == "velocity":
            return Estimate(keep * noisy - spread * output, keep * output + spread * noisy)
        mask = torch.tanh(output / 2) if self.prediction == "logit" else output
        return Estimate(mask, (noisy - keep * mask) / spread)

    def velocity(self, mask: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Return the target of velocity prediction (Salimans & Ho 2022, arXiv:2202.00512)."""
        signal = self.at(times)
        return signal.sqrt() * noise - (1 - signal).sqrt() * mask

    def times(self, n_steps: int, first: int | None = None) -> list[int]:
        """Return ``n_steps`` times from ``first`` (by default the last one) down, evenly spaced ("trailing", Lin et al. 2024, table 2).

        Raises:
            ValueError: If there are fewer times than steps.
        """
        count = self.steps if first is None else first + 1
        if not 1 <= n_steps <= count <= self.steps:
            raise ValueError(f"n_steps must be in 1..{min(count, self.steps)}, got {n_steps}; the schedule has no more times")
        return [round(count * (n_steps - i) / n_steps) - 1 for i in range(n_steps)]

    def ancestral(self, estimate: Estimate, noisy: Tensor, times: Tensor, earlier: Tensor, noise: Tensor) -> Tensor:
        """Draw x_s from q(x_s | x_t, mask) for s < t; the clean estimate itself at s = -1."""
        signal_t, signal_s = self.at(times), self.at(earlier)
        ratio = signal_t / signal_s
        mean = signal_s.sqrt() * (1 - ratio) / (1 - signal_t) * estimate.mask + ratio.sqrt() * (1 - signal_s) / (1 - signal_t) * noisy
        variance = (1 - ratio) * (1 if self.variance == "large" else (1 - signal_s) / (1 - signal_t))
        return torch.where(signal_s < 1, mean + variance.sqrt() * noise, estimate.mask)

    def ddim(self, estimate: Estimate, times: Tensor, earlier: Tensor, noise: Tensor, eta: float = 0.0) -> Tensor:
        """Step from t to s without noise (``eta`` 0) or with the posterior's (``eta`` 1)."""
        signal_t, signal_s = self.at(times), self.at(earlier)
        sigma = eta * ((1 - signal_s) / (1 - signal_t) * (1 - signal_t / signal_s)).sqrt()
        direction = (1 - signal_s - sigma**2).clamp(min=0).sqrt()
        return signal_s.sqrt() * estimate.mask + direction * estimate.noise + sigma * noise

    def trajectory(
        self,
        denoise: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        draw: Callable[[], Tensor],
        n_steps: int,
        sampler: Sampler = "ddim",
        eta: float = 0.0,
        start: Start | None = None,
    ) -> Iterator[Tensor]:
        """Denoise from the last time and yield the estimate of the mask at every step, each (S, C, F, N); the last is the sample.

        From an empty start the first estimate is the same for all samples and comes once, (1, C, F, N).

        Args:
            denoise: Maps noisy masks, times and the previous estimate (or ``None``) to the network's output.
            draw: Returns fresh unit Gaussian noise for all samples, (S, C, F, N).
            n_steps: Evaluations of the network.
            sampler: ``ddim``, ``ancestral`` or ``dpm``.
            eta: Share of noise in DDIM steps.
            start: Begin at an earlier time, from this mask with the noise of that time, instead of from noise alone.

        Raises:
            ValueError: If the sampler is unknown or there are too many steps.
            MissingExtraError: If ``dpm`` is asked for without diffusers.
        """
        if sampler not in get_args(Sampler):
            raise ValueError(f"sampler must be ddim, ancestral or dpm, got {sampler!r}; use ddim")
        times = self.times(n_steps, None if start is None else start.time)
        solver = DPMSolver(self, times) if sampler == "dpm" else None
        state, previous = draw(), None if start is None else start.mask
        if start is not None:
            state = self.noisy(start.mask, torch.full((len(state),), start.time, device=state.device), state)
        for time, following in pairwise([*times, -1]):
            shown = torch.zeros_like(state[:1]) if self.empty_start and time == self.steps - 1 else state
            at, earlier = (torch.full((len(state),), t, device=state.device) for t in (time, following))
            estimate = self.read(denoise(shown, at[: len(shown)], previous), state, at)
            previous = estimate.mask
            yield previous
            if following < 0:
                return
            if solver is not None:
                state = solver.step(estimate.mask, state, time)
            elif sampler == "ancestral":
                state = self.ancestral(estimate, state, at, earlier, draw())
            else:
                state = self.ddim(estimate, at, earlier, draw() if eta > 0 else torch.zeros_like(state), eta)
