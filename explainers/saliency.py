"""Saliency: how fast the log-odds change with each cell's log-magnitude (Simonyan et al. 2014, arXiv:1312.6034, section 3)."""

from dataclasses import dataclass

from torch import Tensor

from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Explainer, Generators


def gradient(wrapper: RawWrapper, log_magnitude: Tensor, phase: Tensor) -> Tensor:
    """Return the gradient of each clip's log-odds by its own log-magnitude, ``(B, F, N)``, through captum."""
    from captum.attr import Saliency as CaptumSaliency

    point = log_magnitude.detach().clone().requires_grad_(True)
    slope: Tensor = CaptumSaliency(wrapper).attribute(point, abs=False, additional_forward_args=(phase,))
    return slope.detach()


@EXPLAINERS.register("saliency")
@dataclass(frozen=True)
class Saliency(Explainer):
    """The absolute gradient by log-magnitude; sensitive cells are bright, whichever way they push."""

    reference = "Simonyan et al. 2014, arXiv:1312.6034"
    polarity = "magnitude"
    needs = frozenset({"gradients"})
    stft: STFTConfig = DEFAULT_STFT

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return absolute gradients, (B, F, N)."""
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        return gradient(wrapper, *wrapper.split(waveform)).abs()
