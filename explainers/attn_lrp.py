"""AttnLRP: relevance propagated backwards by rules for attention networks (Achtibat et al. 2024, arXiv:2402.05602).

The rules (``lrp_rules.py``) modify slopes while the detector hears the clip and touch nothing: no module, weight or hook. Relevance is
input x gradient, and by the identity of ``RawWrapper`` the modified gradient by log-magnitude *is* the relevance of the time-frequency
cell: its sum equals the relevance of the waveform. The log-odds, a difference of two logits, are what is explained.
"""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from xaibench.explainers.lrp_rules import Gates, RelevanceRules, RuleSettings
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Explainer, Generators


@EXPLAINERS.register("attn_lrp")
@dataclass(frozen=True)
class AttnLRP(Explainer):
    """Gamma rule for convolutions and linear layers, identity, uniform and Taylor rules for everything else."""

    reference = "Achtibat et al. 2024, arXiv:2402.05602"
    polarity = "signed"
    needs = frozenset({"gradients"})
    gamma_conv: float = 10.0
    """Gamma rule of convolutions; 0 is the epsilon rule."""
    gamma_linear: float = 0.1
    """Gamma rule of linear layers; 0 is the epsilon rule."""
    epsilon: float = 1e-6
    """Stabilizes divisors, with their own sign."""
    gates: Gates = "cp"
    """Attention and gates: ``cp`` sends relevance through the values alone, ``uniform`` half of it through the scores."""
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse settings without meaning."""
        if min(self.gamma_conv, self.gamma_linear) < 0 or self.epsilon <= 0:
            got = f"{self.gamma_conv}, {self.gamma_linear} and {self.epsilon}"
            raise ValueError(f"gamma_conv and gamma_linear must be at least 0 and epsilon above 0, got {got}; use 10, 0.1 and 1e-6")
        if self.gates not in get_args(Gates):
            raise ValueError(f"gates must be one of {', '.join(get_args(Gates))}, got {self.gates!r}; use for example gates=cp")

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return signed relevance, (B, F, N); it sums to the log-odds but for what biases and constants keep."""
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        return torch.cat([self._one(wrapper, clip[None]) for clip in waveform.detach()])

    def _one(self, wrapper: RawWrapper, waveform: Tensor) -> Tensor:
        """Explain one clip alone: rounding depends on the batch, and small divisors enlarge it."""
        magnitude, phase = wrapper.split(waveform)
        magnitude.requires_grad_(True)
        rules = RelevanceRules(RuleSettings(self.gamma_conv, self.gamma_linear, self.epsilon, self.gates))
        with torch.enable_grad():
            rebuilt = wrapper.waveform(magnitude, phase)
            with rules:
                logits = wrapper.detector.spoof_logit(rebuilt)
            return torch.autograd.grad(logits.sum(), magnitude)[0]

    def diagnostics(self, heatmap: Tensor, waveform: Tensor, detector: Detector, references: Tensor | None = None) -> dict[str, float]:
        """Return the relevance that biases, constants and stabilizers kept, in log-odds."""
        return {"conservation_residual": float((heatmap.sum(dim=(1, 2)) - detector.spoof_logit(waveform)).sum())}
