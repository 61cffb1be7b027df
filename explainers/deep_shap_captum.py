"""DeepSHAP as published code computes it: captum's DeepLiftShap on the detector behind ``RawWrapper``.

captum 0.9 has rules for ReLU, ELU, LeakyReLU, Sigmoid, Tanh, Softplus, max pooling and softmax *modules*. Everything else, functional
calls, GELU, SELU, normalizations, products and selections, silently keeps its plain gradient, so that the map no longer adds up: compare
``completeness_residual`` with that of ``deep_shap``. Kept for comparison with published figures (Grinberg et al. 2025, arXiv:2506.03425).
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.explainers.baselines import baselines
from xaibench.explainers.deep_shap import DeepShap
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.types import Detector, Generators


@EXPLAINERS.register("deep_shap_captum")
@dataclass(frozen=True)
class DeepShapCaptum(DeepShap):
    """captum's DeepLiftShap with its gaps, averaged over reference recordings."""

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return signed attributions, (B, F, N); they add up only where captum has a rule for every non-linearity."""
        from captum.attr import DeepLiftShap

        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        method = DeepLiftShap(wrapper)
        starts = baselines(self.baseline, wrapper, references).to(waveform)
        maps = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum announces its hooks each time
            for clip in waveform.detach():
                (end,), (phase,) = wrapper.split(clip[None])  # alone, as rounding depends on the batch and quotients enlarge it
                total = torch.zeros_like(end)
                for chunk in torch.split(starts, self.chunk_size):
                    pair = chunk if len(chunk) > 1 else chunk.repeat(2, 1, 1)  # captum asks for two at least
                    share = method.attribute(end[None], pair, additional_forward_args=(phase[None],))
                    total += share[0].detach() * len(chunk)
                maps.append(total / len(starts))
        return torch.stack(maps)
