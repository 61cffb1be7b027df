"""GradientSHAP: expected gradients between clip and reference recordings (Lundberg & Lee 2017, arXiv:1705.07874; Erion et al. 2021, eq. 6).

Baselines and positions on the path are drawn here, from the clip's own generator: captum's class draws from the global generator of
NumPy, which would tie a clip's map to its neighbours in the batch. Both draws are stratified, so that 20 samples visit 20 references and
cover the path evenly; each sample alone is distributed as in the paper, their mean has less variance.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from xaibench.explainers.baselines import BaselineName, baselines, check_baseline, completeness, completeness_residual
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.explainers.saliency import gradient
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Explainer, Generators, clip_generators


@EXPLAINERS.register("gradient_shap")
@dataclass(frozen=True)
class GradientShap(Explainer):
    """Gradient times distance at random points between the clip and bona fide recordings, averaged over ``n_samples``.

    On planted artifacts the baselines ``references`` and ``silence`` find as much, ``mean`` less, and ``zero_logmag`` least
    (docs/planted.md); ``references`` is the default, as some detectors call silence a spoof.
    """

    reference = "Lundberg & Lee 2017, arXiv:1705.07874"
    polarity = "signed"
    needs = frozenset({"gradients", "references"})
    deterministic = False
    n_samples: int = 20
    baseline: BaselineName = "references"
    chunk_size: int = field(default=4, metadata={"result": False})
    """Samples that the detector hears at once; changes memory and speed, not the result."""
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse unknown baselines and empty samples."""
        check_baseline(self.baseline)
        if min(self.n_samples, self.chunk_size) < 1:
            raise ValueError(
                f"n_samples and chunk_size must be at least 1, got {self.n_samples} and {self.chunk_size}; use for example 20 and 4"
            )

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return signed attributions, (B, F, N); in expectation they sum to the clip's log-odds minus the baselines' mean."""
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        starts = baselines(self.baseline, wrapper, references).to(waveform)
        maps = []
        for clip, source in zip(waveform.detach(), clip_generators(generator, len(waveform)), strict=True):
            (end,), (phase,) = wrapper.split(clip[None])  # alone, as rounding depends on the batch
            chosen, alphas = draw(len(starts), self.n_samples, source)
            maps.append(expected_gradients(wrapper, end, phase, starts, chosen, alphas, self.chunk_size))
        return torch.stack(maps)

    def diagnostics(self, heatmap: Tensor, waveform: Tensor, detector: Detector, references: Tensor | None = None) -> dict[str, float]:
        """Return the completeness residual in log-odds, and its share of the explained change in per cent."""
        return completeness(heatmap, self.completeness_residual(heatmap, waveform, detector, references))

    def completeness_residual(self, heatmap: Tensor, waveform: Tensor, detector: Detector, references: Tensor | None = None) -> Tensor:
        """Return sum of the heatmap minus the log-odds gained from the baselines' mean to the clip, (B,): the sampling error."""
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        return completeness_residual(heatmap, waveform, detector, wrapper, baselines(self.baseline, wrapper, references))


def draw(n_baselines: int, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw which baseline each sample starts from and how far it has gone, two ``(n_samples,)`` tensors.

    Baselines come without replacement until all were used; positions are one per n-th part of the path, in random order.
    """
    device = generator.device
    rounds = [torch.randperm(n_baselines, generator=generator, device=device) for _ in range(-(-n_samples // n_baselines))]
    parts = torch.randperm(n_samples, generator=generator, device=device)
    within = torch.rand(n_samples, generator=generator, device=device, dtype=torch.float64)
    return torch.cat(rounds)[:n_samples].cpu(), ((parts + within) / n_samples).float().cpu()


def expected_gradients(
    wrapper: RawWrapper, end: Tensor, phase: Tensor, starts: Tensor, chosen: Tensor, alphas: Tensor, chunk_size: int
) -> Tensor:
    """Average gradient times distance over the samples of one clip.

    Args:
        wrapper: The detector on the grid.
        end: The clip's log-magnitude, ``(F, N)``.
        phase: The clip's phase, ``(F, N)``.
        starts: Baselines, ``(R, F, N)``.
        chosen: Index of the baseline of each sample, ``(S,)``.
        alphas: Position of each sample on its path, 0 at the baseline, ``(S,)``.
        chunk_size: Samples per call of the detector.

    Returns:
        Attributions, ``(F, N)``.
    """
    total = torch.zeros_like(end)
    for indices, positions in zip(torch.split(chosen, chunk_size), torch.split(alphas.to(end), chunk_size), strict=True):
        distance = end - starts[indices.to(starts.device)]  # (S, F, N)
        points = end - (1 - positions)[:, None, None] * distance
        total += (gradient(wrapper, points, phase.expand_as(points)) * distance).sum(0)
    return total / len(chosen)
