"""Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512, algorithm 2): a student takes in one step what its teacher takes in two.

Trained again and again from its own teacher, a network gets from many steps to four, two and one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from xaibench.explainers.segdiff.data import Batch
from xaibench.explainers.segdiff.diffusion import Diffusion
from xaibench.explainers.segdiff.network import SegDiffNetwork

Denoise = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def progressive_target(
    diffusion: Diffusion, teacher: SegDiffNetwork, batch: Batch, frames: int | None, state: Tensor, times: Tensor, student_steps: int
) -> Tensor:
    """Return the mask that a student must estimate at ``times`` to arrive where two DDIM steps of the teacher arrive, (B, R, F, N).

    Args:
        diffusion: Schedule of both.
        teacher: Trained for twice as many steps, or for any.
        batch: Examples, whose images the teacher sees.
        frames: Frames that a detector's maps span.
        state: Noisy masks at ``times``.
        times: Times of the student's ``student_steps``, (B,).
        student_steps: Steps of the student.
    """
    condition = teacher.condition(batch.image, batch.maps, frames)

    def denoise(noisy: Tensor, at: Tensor) -> Tensor:
        out: Tensor = teacher(noisy, at, condition).float()
        return out

    return two_steps_as_one(diffusion, denoise, state, times, student_steps)


def two_steps_as_one(diffusion: Diffusion, denoise: Denoise, state: Tensor, times: Tensor, student_steps: int) -> Tensor:
    """Step twice with DDIM from ``times`` to the student's next times and return the one estimate that leads there in a single step."""
    schedule = diffusion.times(student_steps)
    following = dict(zip(schedule, [*schedule[1:], -1], strict=True))
    after = torch.tensor([following[t] for t in times.tolist()], device=times.device)
    between = torch.div(times + after, 2, rounding_mode="floor").clamp(min=0)
    middle = _ddim(diffusion, denoise, state, times, between)
    # Where a step is a single time long, there is nothing between: the first step arrives where the second would begin.
    end = torch.where(_shape(between > after), _ddim(diffusion, denoise, middle, between, after), middle)
    end = torch.where(_shape(between == times), _ddim(diffusion, denoise, state, times, after), end)
    signal_t, signal_s = diffusion.at(times), diffusion.at(after)
    ratio = ((1 - signal_s) / (1 - signal_t)).sqrt()
    return (end - ratio * state) / (signal_s.sqrt() - ratio * signal_t.sqrt())


def _ddim(diffusion: Diffusion, denoise: Denoise, state: Tensor, times: Tensor, after: Tensor) -> Tensor:
    estimate = diffusion.read(denoise(diffusion.shown(state, times), times), state, times)
    return diffusion.ddim(estimate, times, after, torch.zeros_like(state))


def _shape(condition: Tensor) -> Tensor:
    return condition[:, None, None, None]
