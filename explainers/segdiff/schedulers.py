"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) through the scheduler of diffusers, on the schedules of ``diffusion``.

Imported where it is used alone: diffusers takes seconds to import and is an optional extra.
"""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaibench.errors import MissingExtraError

if TYPE_CHECKING:
    from xaibench.explainers.segdiff.diffusion import Diffusion

LEAST_SIGNAL = 1e-6
"""Share of signal that a last time without any is taken to hold: the solver works in the logarithm of the signal-to-noise ratio."""


class DPMSolver:
    """Second-order multistep solver for one trajectory: it remembers the estimate before.

    Args:
        diffusion: Schedule; what the denoiser predicts does not matter, since estimates of the mask are handed over.
        times: Times from the last one down.

    Raises:
        MissingExtraError: If diffusers is not installed.
    """

    def __init__(self, diffusion: "Diffusion", times: list[int]) -> None:
        self.scheduler: Any = _scheduler("DPMSolverMultistepScheduler")(
            num_train_timesteps=diffusion.steps,
            trained_betas=_betas(diffusion.signal),
            prediction_type="sample",
            algorithm_type="dpmsolver++",
            solver_order=2,
            final_sigmas_type="zero",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands tensors to NumPy in a way that NumPy 2 deprecates
            self.scheduler.set_timesteps(timesteps=times)

    def step(self, mask: Tensor, noisy: Tensor, time: int) -> Tensor:
        """Return the state at the following time from the estimate of the mask and the state, both (S, C, F, N)."""
        out: Tensor = self.scheduler.step(mask.expand_as(noisy), time, noisy).prev_sample
        return out


def _betas(signal: Tensor) -> list[float]:
    kept = signal.clamp(min=LEAST_SIGNAL)
    betas: list[float] = (1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])).tolist()
    return betas


def _scheduler(name: str) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtraError("sampler 'dpm' needs diffusers, which is not installed; run `pip install 'xaibench[diffusion]'`") from error
    return getattr(diffusers, name)
