"""LIME: a linear model of what the detector says when superpixels are hidden (Ribeiro et al. 2016, arXiv:1602.04938, eq. 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.explainers.superpixels import Game, SuperpixelExplainer
from xaibench.registry import EXPLAINERS


@EXPLAINERS.register("lime")
@dataclass(frozen=True)
class LIME(SuperpixelExplainer):
    """Coefficients of a ridge regression of the log-odds on which superpixels are heard.

    Samples hear each superpixel with probability one half and weigh ``exp(-d^2 / width^2)`` by their cosine distance ``d`` to the whole
    clip, as the published image explainer does. 512 forward passes per clip by default (``budget``).
    """

    reference = "Ribeiro et al. 2016, arXiv:1602.04938"
    deterministic = False
    width: float = 0.25
    """Of the kernel that weighs samples by their nearness to the clip."""
    ridge: float = 1.0
    """Strength of the quadratic penalty; samples weigh 1 on average."""

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        super().__post_init__()
        if self.width <= 0 or self.ridge < 0:
            raise ValueError(f"width must be positive and ridge at least 0, got {self.width} and {self.ridge}; use 0.25 and 1")

    def shares(self, game: Game, generator: torch.Generator) -> Tensor:
        """Return the coefficients, (M,)."""
        heard = torch.rand(self.budget, game.players, generator=generator, device=generator.device).cpu() < 0.5
        heard[0] = True
        answers = game(heard).double().cpu()
        nearness = (heard.sum(1).double() / game.players).sqrt()  # cosine of a coalition and the whole
        weights = torch.exp(-((1 - nearness) ** 2) / self.width**2)
        return ridge_regression(heard.double(), answers, weights / weights.mean(), self.ridge).float()


def ridge_regression(inputs: Tensor, targets: Tensor, weights: Tensor, strength: float) -> Tensor:
    """Return the coefficients ``(M,)`` of a weighted ridge regression with a free intercept.

    Args:
        inputs: ``(S, M)``.
        targets: ``(S,)``.
        weights: ``(S,)``, not negative.
        strength: Penalty on the squared coefficients.
    """
    share = weights / weights.sum()
    centered, rest = inputs - share @ inputs, targets - share @ targets
    moments = centered.T @ (weights[:, None] * centered)
    penalty = strength * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    solution: Tensor = torch.linalg.lstsq(moments + penalty, (centered.T @ (weights * rest))[:, None], driver="gelsd").solution[:, 0]
    return solution
