"""DeepSHAP: DeepLIFT's multipliers averaged over bona fide recordings (Lundberg & Lee 2017, arXiv:1705.07874, section 4.2).

The multipliers are those of the rescale rule for every operation of the network (``rescale_rules.py``), functional calls, products,
attention and selections included, from log-magnitude to log-odds. A map's sum is the clip's log-odds minus the references' mean.
Published code takes captum's rule for a few modules and the plain gradient for everything else: ``deep_shap_captum``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.explainers.baselines import BaselineName, baselines, check_baseline, completeness, completeness_residual
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.explainers.rescale import Rescale
from xaibench.explainers.rescale_rules import Step
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Explainer, Generators

ORDER = 0.005
"""Share of the change of log-odds that may depend on the order of selected nodes before they are left in their own order."""


@EXPLAINERS.register("deep_shap")
@dataclass(frozen=True)
class DeepShap(Explainer):
    """Rescale rule for every operation, between the clip and each reference recording, averaged."""

    reference = "Lundberg & Lee 2017, arXiv:1705.07874"
    polarity = "signed"
    needs = frozenset({"gradients", "references"})
    baseline: BaselineName = "references"
    chunk_size: int = 4
    """References that the detector hears at once; changes memory and speed, not the result."""
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse unknown baselines and empty chunks."""
        check_baseline(self.baseline)
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {self.chunk_size}; use for example 4")

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return signed attributions, (B, F, N); they sum to the clip's log-odds minus the references' mean.

        Raises:
            NotApplicableError: If the detector uses an operation that has no rescale rule.
        """
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        starts = baselines(self.baseline, wrapper, references).to(waveform)
        return torch.stack([self._one(wrapper, clip[None], starts) for clip in waveform.detach()])

    def _one(self, wrapper: RawWrapper, waveform: Tensor, starts: Tensor) -> Tensor:
        (end,), (phase,) = wrapper.split(waveform)  # alone, as rounding depends on the batch and secants enlarge it
        tape: list[Step] = []
        clip = end[None], phase[None]
        with torch.no_grad(), Rescale(tape, replay=False):
            answer = wrapper(*clip)
        ordered = any(step.name == "best of" for step in tape) and blind_to_order(wrapper, starts[:1], phase, tape, answer)
        total = torch.zeros_like(end)
        for chunk in torch.split(starts, self.chunk_size):
            total += (multipliers(wrapper, chunk, phase, tape, ordered) * (end - chunk)).sum(0)
        return total / len(starts)

    def diagnostics(self, heatmap: Tensor, waveform: Tensor, detector: Detector, references: Tensor | None = None) -> dict[str, float]:
        """Return the completeness residual in log-odds, and its share of the explained change in per cent."""
        return completeness(heatmap, self.completeness_residual(heatmap, waveform, detector, references))

    def completeness_residual(self, heatmap: Tensor, waveform: Tensor, detector: Detector, references: Tensor | None = None) -> Tensor:
        """Return sum of the heatmap minus the log-odds gained from the references' mean to the clip, (B,): the additivity error."""
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        return completeness_residual(heatmap, waveform, detector, wrapper, baselines(self.baseline, wrapper, references))


def multipliers(wrapper: RawWrapper, starts: Tensor, phase: Tensor, tape: list[Step], ordered: bool) -> Tensor:
    """Return the rescale rule's multipliers from references ``(R, F, N)`` to the taped clip, ``(R, F, N)``."""
    points, phases = starts.detach().clone().requires_grad_(True), phase.expand_as(starts)
    with torch.enable_grad(), Rescale(tape, replay=True, ordered=ordered):
        logits = wrapper(points, phases)
    return torch.autograd.grad(logits.sum(), points)[0]


def blind_to_order(wrapper: RawWrapper, start: Tensor, phase: Tensor, tape: list[Step], answer: Tensor) -> bool:
    """Tell whether a detector says of a reference ``(1, F, N)`` what it said when its selected nodes come in the clip's order.

    AASIST does not quite: it compares the nodes of two branches slot by slot.

    Args:
        wrapper: The detector on the grid.
        start: Reference.
        phase: The clip's phase, ``(F, N)``.
        tape: The clip's operations.
        answer: The clip's log-odds, ``(1,)``.
    """
    clip = start, phase[None]
    with torch.no_grad():
        plain = wrapper(*clip)
        with Rescale(tape, replay=True, ordered=True):
            moved = wrapper(*clip)
    return bool((moved - plain).abs() <= ORDER * (answer - plain).abs() + 1e-5)
