"""Integrated gradients along the straight path in log-magnitude (Sundararajan et al. 2017, arXiv:1703.01365, eq. 1)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xaibench.explainers.baselines import BaselineName, baselines, check_baseline, completeness, completeness_residual
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Explainer, Generators


@EXPLAINERS.register("integrated_gradients")
@dataclass(frozen=True)
class IntegratedGradients(Explainer):
    """Gradients averaged on the way from a baseline to the clip, times the way (Gauss-Legendre quadrature, through captum).

    The default baseline is silence: the shipped detectors and the published AASIST place it near log-odds 0, between recordings and spoofs
    (their cards list what they say of it), while the references' mean, heard with the clip's phase, is noise that they may call spoof.
    With ``baseline="references"`` the maps of all references are averaged, at as many times the cost; ``gradient_shap`` samples it.
    """

    reference = "Sundararajan et al. 2017, arXiv:1703.01365"
    polarity = "signed"
    needs = frozenset({"gradients", "references"})
    n_steps: int = 32
    baseline: BaselineName = "silence"
    chunk_size: int = field(default=4, metadata={"result": False})
    """Points of the path that the detector hears at once; changes memory and speed, not the result."""
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse unknown baselines and empty paths."""
        check_baseline(self.baseline)
        if min(self.n_steps, self.chunk_size) < 1:
            raise ValueError(
                f"n_steps and chunk_size must be at least 1, got {self.n_steps} and {self.chunk_size}; use for example 20 and 4"
            )

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return signed attributions, (B, F, N); they sum to the log-odds gained from baseline to clip, but for the quadrature."""
        from captum.attr import IntegratedGradients as CaptumIntegratedGradients

        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        method = CaptumIntegratedGradients(wrapper)
        starts = baselines(self.baseline, wrapper, references).to(waveform)
        ends = (wrapper.split(clip[None]) for clip in waveform.detach())  # alone, as rounding depends on the batch
        maps = [torch.stack([self._path(method, end, start[None], phase) for start in starts]).mean(0) for end, phase in ends]
        return torch.cat(maps)

    def _path(self, method: Any, end: Tensor, start: Tensor, phase: Tensor) -> Tensor:
        share: Tensor = method.attribute(
            end, start, additional_forward_args=(phase,), n_steps=self.n_steps, internal_batch_size=self.chunk_size
        )
        return share.detach().float()

    def diagnostics(self, heatmap: Tensor, waveform: Tensor, detector: Detector, references: Tensor | None = None) -> dict[str, float]:
        """Return the completeness residual in log-odds, and its share of the explained change in per cent."""
        return completeness(heatmap, self.completeness_residual(heatmap, waveform, detector, references))

    def completeness_residual(self, heatmap: Tensor, waveform: Tensor, detector: Detector, references: Tensor | None = None) -> Tensor:
        """Return sum of the heatmap minus the log-odds gained from baseline to clip, (B,); more steps bring it to 0."""
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        return completeness_residual(heatmap, waveform, detector, wrapper, baselines(self.baseline, wrapper, references))
