"""shap's model-agnostic explainers over superpixels (``pip install 'xaibench[shap]'``): Kernel and Partition.

Both estimate Shapley values of the game *which superpixels are heard*, so that a map's patches add up to the log-odds of the clip minus
those of the clip with everything hidden. shap draws from NumPy's global generator: it is seeded from the clip's own and put back.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import MissingExtraError
from xaibench.explainers.randomness import private_randomness
from xaibench.explainers.superpixels import Game, SuperpixelExplainer
from xaibench.registry import EXPLAINERS

Order = Literal["auto", "0", "1", "none"]


def shap() -> Any:
    """Import shap.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # shap's plots speak of matplotlib's future
            import shap as library
    except ImportError as error:
        raise MissingExtraError("shap must be installed for this explainer, got none; pip install 'xaibench[shap]'") from error
    return library


def numpy_game(game: Game) -> Callable[[Any], Any]:
    """Return the game as shap calls it: rows of zeros and ones in, log-odds out, as NumPy arrays."""
    return lambda rows: game(torch.from_numpy(np.asarray(rows) > 0.5)).double().cpu().numpy()


@EXPLAINERS.register("kernel_shap")
@dataclass(frozen=True)
class KernelSHAP(SuperpixelExplainer):
    """Shapley values by weighted least squares over sampled coalitions (Lundberg & Lee 2017, arXiv:1705.07874, section 4.1), by shap.

    At most 512 forward passes per clip by default (``budget``), two of which hear everything and nothing.
    """

    reference = "Lundberg & Lee 2017, arXiv:1705.07874"
    deterministic = False

    def __post_init__(self) -> None:
        """Refuse to be made without shap."""
        super().__post_init__()
        shap()

    def shares(self, game: Game, generator: torch.Generator) -> Tensor:
        """Return the Shapley values, (M,)."""
        if game.players < 2:
            return game(torch.tensor([[True], [False]])).diff().neg()
        nothing, everything = np.zeros((1, game.players)), np.ones((1, game.players))
        with private_randomness(generator):
            explainer = shap().KernelExplainer(numpy_game(game), nothing)
            values = explainer.shap_values(everything, nsamples=self.budget - 2, l1_reg=False, silent=True)
        return torch.from_numpy(np.asarray(values)[0]).float()


@EXPLAINERS.register("partition_shap")
@dataclass(frozen=True)
class PartitionSHAP(SuperpixelExplainer):
    """Owen values of a hierarchy of superpixels (Owen 1977; Lundberg's Partition explainer), by shap.

    Superpixels are merged by Ward's method on place and level; halves of the hierarchy are then split in the order of what they add,
    until the budget is spent: at most 512 forward passes per clip by default (``budget``).
    """

    reference = "Owen 1977, doi:10.1007/978-3-642-45494-3_7; arXiv:1705.07874"
    context: Order = "auto"
    """What the other half is while one is split: hidden (``0``), heard (``1``), both (``none``), or shap's choice (``auto``)."""

    def __post_init__(self) -> None:
        """Refuse to be made without shap, or with an unknown context."""
        super().__post_init__()
        if self.context not in get_args(Order):
            raise ValueError(f"context must be one of {', '.join(get_args(Order))}, got {self.context!r}; use auto")
        shap()

    def shares(self, game: Game, generator: torch.Generator) -> Tensor:
        """Return the Owen values, (M,)."""
        from scipy.cluster.hierarchy import ward

        if game.players < 2:
            return game(torch.tensor([[True], [False]])).diff().neg()
        tree = ward(game.centers().double().numpy() * (self.bands, self.segments, 1.0))
        tree[:, 2] /= tree[:, 2].max() or 1.0
        masker = shap().maskers.Partition(np.zeros((1, game.players)), clustering=tree)
        context = {"auto": "auto", "none": None}.get(self.context, self.context)
        fixed = int(context) if context in ("0", "1") else context
        with private_randomness(generator):
            explainer = shap().explainers.Partition(numpy_game(game), masker)
            found = explainer(np.ones((1, game.players)), max_evals=self.budget - 2, fixed_context=fixed, silent=True)
        return torch.from_numpy(np.asarray(found.values)[0]).float()
