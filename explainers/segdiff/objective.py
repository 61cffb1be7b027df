"""What a SegDiff network is trained for: the loss of a batch, as one module, so that several processes can average its gradients.

The denoiser predicts the mask itself: binary cross-entropy (and soft Dice) between its logits and the clean mask, so that its estimate is
the posterior mean; or noise, mask or velocity in the mean square. A student learns from a teacher instead (``distillation``).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from xaibench.explainers.segdiff.data import Batch
from xaibench.explainers.segdiff.diffusion import Diffusion
from xaibench.explainers.segdiff.distillation import progressive_target
from xaibench.explainers.segdiff.network import SegDiffNetwork
from xaibench.types import content_hash

if TYPE_CHECKING:
    from xaibench.explainers.segdiff.training import TrainingConfig


class Draw(NamedTuple):
    """The randomness of a batch."""

    times: Tensor
    """(B,) int64."""
    noise: Tensor
    """(B, R, F, N), unit Gaussian."""
    use_estimate: bool
    """Whether a network with self-conditioning is shown its own estimate."""


def generator_of(seed: int, step: int, place: int = -1) -> torch.Generator:
    """Return the source of randomness of a step, or of one place of its batch."""
    return torch.Generator().manual_seed(int(content_hash({"seed": seed, "step": step, "place": place})[:15], 16))


def draw(config: "TrainingConfig", step: int, places: list[int], shape: tuple[int, ...]) -> Draw:
    """Draw time and noise for some places of a step's batch; ``shape`` is that of one mask, (R, F, N)."""
    diffusion, times, noise = config.model.diffusion, [], []
    allowed = diffusion.times(config.student_steps) if config.student_steps else list(range(diffusion.steps))
    for place in places:
        generator = generator_of(config.seed, step, place)
        terminal = float(torch.rand((), generator=generator)) < config.terminal_share
        drawn = int(torch.randint(0, len(allowed), (), generator=generator))
        times.append(max(allowed) if terminal else allowed[drawn])
        noise.append(torch.randn(shape, generator=generator))
    coin = float(torch.rand((), generator=generator_of(config.seed, step)))
    return Draw(torch.tensor(times), torch.stack(noise), coin < 0.5)


class Objective(nn.Module):
    """The loss of a batch.

    Args:
        network: What is trained.
        config: The run.
        teacher: A trained network of the same configuration, for distillation.
    """

    def __init__(self, network: SegDiffNetwork, config: "TrainingConfig", teacher: SegDiffNetwork | None = None) -> None:
        super().__init__()
        self.network, self.config = network, config
        self._teacher = [teacher]  # in a list, so that it is no part of what is trained and averaged

    def forward(self, batch: Batch, drawn: Draw, frames: int | None, cells: Tensor) -> Tensor:
        """Return the loss.

        Args:
            batch: Examples.
            drawn: Their randomness.
            frames: Frames that a detector's maps span.
            cells: Known cells by which sums are divided.
        """
        config, diffusion, target = self.config, self.config.model.diffusion, 2 * batch.mask - 1
        times, state, shown = drawn.times, drawn.noise, torch.zeros_like(target)
        if config.model.method == "one_shot":
            times = torch.full_like(times, diffusion.steps - 1)
        else:
            state = diffusion.noisy(target, times, drawn.noise)
            shown = diffusion.shown(state, times)
        condition = self.network.condition(batch.image, batch.maps, frames)
        estimate = None
        if self.network.config.self_conditioning and drawn.use_estimate:
            with torch.no_grad():
                estimate = diffusion.read(self.network(shown, times, condition).float(), state, times).mask
        output = self.network(shown, times, condition, estimate).float()
        teacher = self._teacher[0]
        if teacher is not None:
            wanted = progressive_target(diffusion, teacher, batch, frames, state, times, config.student_steps)
            return _distance(diffusion, output, wanted, batch, state, times) / cells
        if diffusion.prediction == "logit" or config.model.method == "one_shot":
            return segmentation_loss(output, batch, config.positive_weight, config.dice_weight, cells)
        targets = {"noise": drawn.noise, "mask": target, "velocity": diffusion.velocity(target, times, drawn.noise)}
        error: Tensor = ((output - targets[diffusion.prediction]) ** 2 * _balance(batch, config.positive_weight)).sum() / cells
        return error


def _distance(diffusion: Diffusion, output: Tensor, wanted: Tensor, batch: Batch, state: Tensor, times: Tensor) -> Tensor:
    """Sum over known cells how far the network's estimate of the mask is from the teacher's."""
    if diffusion.prediction == "logit":
        soft = ((wanted + 1) / 2).clamp(0, 1)
        weight = batch.weight.expand_as(output)
        return nn.functional.binary_cross_entropy_with_logits(output, soft, weight=weight, reduction="sum")
    return ((diffusion.read(output, state, times).mask - wanted) ** 2 * batch.weight).sum()


def _balance(batch: Batch, positive_weight: float) -> Tensor:
    """Weigh masked cells against the others: a mask is a twentieth of its clip."""
    return batch.weight * (1 + (positive_weight - 1) * batch.mask)


def segmentation_loss(logits: Tensor, batch: Batch, positive_weight: float, dice_weight: float, cells: Tensor | None = None) -> Tensor:
    """Return mean cross-entropy over known cells, plus ``dice_weight`` times one minus soft Dice (Milletari et al. 2016)."""
    weight = _balance(batch, positive_weight).expand_as(logits)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, batch.mask, weight=weight, reduction="sum")
    total = entropy / (known_cells(batch) if cells is None else cells)
    if dice_weight:
        soft = logits.sigmoid() * batch.weight
        overlap = 2 * (soft * batch.mask).sum((2, 3)) + 1
        total = total + dice_weight * (1 - overlap / (soft.sum((2, 3)) + (batch.mask * batch.weight).sum((2, 3)) + 1)).mean()
    return total


def known_cells(batch: Batch) -> Tensor:
    """Count the cells of a batch that are neither padding nor tiled, over all recipes."""
    return (batch.weight.sum() * batch.mask.shape[2]).clamp(min=1)
