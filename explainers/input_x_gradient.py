"""Input x gradient: the first-order share of each cell in the log-odds (Shrikumar et al. 2016, arXiv:1605.01713, eq. 1)."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.explainers.saliency import gradient
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Explainer, Generators

Domain = Literal["spectrum", "log_magnitude"]


@EXPLAINERS.register("input_x_gradient")
@dataclass(frozen=True)
class InputXGradient(Explainer):
    """Input times gradient, signed.

    In the domain ``spectrum`` the input is the complex spectrum: ``Re X dRe + Im X dIm``, which equals the gradient by log-magnitude and
    sums to input x gradient of the waveform (RawWrapper). In the domain ``log_magnitude`` the input is ln |X|: its zero, magnitude one, is
    arbitrary, and cells on either side of it take opposite signs; given for comparison with code that does so.
    """

    reference = "Shrikumar et al. 2016, arXiv:1605.01713"
    polarity = "signed"
    needs = frozenset({"gradients"})
    domain: Domain = "spectrum"
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse an unknown domain."""
        if self.domain not in get_args(Domain):
            raise ValueError(f"domain must be one of {', '.join(get_args(Domain))}, got {self.domain!r}; use spectrum")

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return signed attributions, (B, F, N)."""
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        log_magnitude, phase = wrapper.split(waveform)
        slope = gradient(wrapper, log_magnitude, phase)
        return slope if self.domain == "spectrum" else log_magnitude.detach() * slope
