"""The two oracles: they are handed the bona fide twin and mark the ceiling, never a competitor."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.tasks.masks import difference
from xaibench.tasks.masks import recipe as named_recipe
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig, log_magnitude, stft, valid_cells
from xaibench.types import Control, Detector, Generators


@dataclass(frozen=True)
class _Oracle(Control):
    """An oracle takes the twin of every clip from ``references``."""

    oracle = True
    stft: STFTConfig = DEFAULT_STFT

    @staticmethod
    def twin(waveform: Tensor, references: Tensor | None) -> Tensor:
        """Return the twins, (B, T); a single one serves the whole batch.

        Raises:
            ValueError: If there is no twin, or another number of twins than clips.
        """
        if references is None or len(references) not in (1, len(waveform)):
            got = "none" if references is None else len(references)
            raise ValueError(
                f"references must hold the bona fide twin of each of the {len(waveform)} clips, got {got}; oracles run in the harness"
            )
        return references.expand(len(waveform), -1)


@EXPLAINERS.register("oracle_mask")
@dataclass(frozen=True)
class OracleMask(_Oracle):
    """The ground truth itself, shown as a heatmap: the best score that a metric can give."""

    reference = "the continuous difference whose largest cells are the mask"
    polarity = "magnitude"
    recipe: str = "sym-floor60-v1"
    valid_samples: int | None = field(default=None, metadata={"config": False})
    """Samples before tiling began, as the harness knows them: only cells before it set the recipe's floor, as in the truth itself."""
    planted: Tensor | None = field(default=None, repr=False, compare=False, metadata={"config": False})
    """The planted region (F, N) that the harness hands over where the truth is planted."""

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the difference of the twins under the recipe, or the planted region, (B, F, N)."""
        if self.planted is not None and named_recipe(self.recipe).domain == "planted":
            return self.planted.to(waveform).expand(len(waveform), -1, -1).clone()
        samples = waveform.shape[-1]
        valid = valid_cells(self.valid_samples or samples, samples, self.stft)
        return difference(self.twin(waveform, references), waveform, self.recipe, self.stft, valid)


@EXPLAINERS.register("oracle_ig")
@dataclass(frozen=True)
class OracleIG(_Oracle):
    """Integrated gradients from the true twin to the clip: the best that a path attribution can know.

    The path is straight in log-magnitude with the clip's phase, so that the attributions sum to the log-odds lost when the clip
    takes the twin's magnitudes (Sundararajan et al. 2017, arXiv:1703.01365, eq. 1; midpoint rule).
    """

    reference = "integrated gradients with the twin as baseline"
    needs = frozenset({"gradients"})
    n_steps: int = 8

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return signed attributions, (B, F, N)."""
        maps = [self._one(clip, twin, detector) for clip, twin in zip(waveform, self.twin(waveform, references), strict=True)]
        return torch.stack(maps)

    def _one(self, clip: Tensor, twin: Tensor, detector: Detector) -> Tensor:
        wrapper = RawWrapper(detector, self.stft, len(clip))
        end, start = log_magnitude(clip[None], self.stft), log_magnitude(twin[None], self.stft)
        phase = stft(clip[None], self.stft).angle()
        alphas = ((torch.arange(self.n_steps, device=clip.device) + 0.5) / self.n_steps)[:, None, None]
        path = (start + alphas * (end - start)).requires_grad_(True)
        logits = wrapper(path, phase.expand(self.n_steps, -1, -1))
        (gradient,) = torch.autograd.grad(logits.sum(), path)
        return (gradient.mean(dim=0) * (end - start)[0]).detach()
