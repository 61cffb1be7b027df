"""Grad-CAM on the last convolution: channels weighted by their mean gradient (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2).

The map of a detector on a linear spectrogram is enlarged to the grid. Where a detector's rows are bands of a filter bank (AASIST), each
grid row takes the map at the place of its own frequency. A detector whose convolutions span no frequency and time has no such map.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from xaibench.errors import NotApplicableError
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import SAMPLE_RATE, Detector, Explainer, Generators


@EXPLAINERS.register("grad_cam")
@dataclass(frozen=True)
class GradCAM(Explainer):
    """Coarse evidence of the last convolutional layer, enlarged to the grid."""

    reference = "Selvaraju et al. 2017, arXiv:1610.02391"
    polarity = "signed"
    needs = frozenset({"gradients"})
    relu: bool = True
    """Keep evidence of spoof only, as published; false shows evidence of bona fide as negative values."""
    stft: STFTConfig = DEFAULT_STFT

    def applicable(self, detector: Detector) -> tuple[bool, str]:
        """Ask for 2-D convolutions over a spectrogram, or over the bands of a filter bank."""
        if not any(isinstance(module, nn.Conv2d) for module in detector.modules()):
            return False, f"detector {detector.name!r} has no 2-D convolution, so no map of frequency and time"
        if rows(detector, self.stft) is None:
            return (
                False,
                f"detector {detector.name!r} tells neither an STFT grid nor a filter bank, so the rows of its map have no frequency",
            )
        return True, ""

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return the map, (B, F, N).

        Raises:
            NotApplicableError: If the detector has no map of frequency and time.
        """
        applicable, reason = self.applicable(detector)
        place = rows(detector, self.stft)
        if not applicable or place is None:
            raise NotApplicableError(f"detector must have a convolutional map of frequency and time: {reason}; use another explainer")
        with torch.enable_grad(), watched(detector) as maps:
            logits = detector.spoof_logit(waveform.detach().clone().requires_grad_(True))
            features = maps[-1]
            slope = torch.autograd.grad(logits.sum(), features)[0]
        heatmap = (slope.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(1)  # (B, F', N')
        heatmap = heatmap.clamp(min=0) if self.relu else heatmap
        return enlarge(heatmap, place.to(heatmap), self.stft.frames(waveform.shape[-1]))


@contextmanager
def watched(detector: Detector) -> Iterator[list[Tensor]]:
    """Collect the outputs of all 2-D convolutions in the order in which they are computed; maps of a single row or column are left out."""
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if min(output.shape[-2:]) > 1:
            maps.append(output)

    handles = [module.register_forward_hook(keep) for module in detector.modules() if isinstance(module, nn.Conv2d)]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def rows(detector: Detector, grid: STFTConfig) -> Tensor | None:
    """Return where each grid row lies on the map's frequency axis, from 0 (low edge) to 1 (high edge), (F,); None if unknown."""
    share = grid.frequencies_hz() / (SAMPLE_RATE / 2)
    if isinstance(getattr(detector, "grid", None), STFTConfig):
        return share
    if hasattr(getattr(detector, "sinc", None), "filters"):  # bands equally wide in mel, up to half the sample rate
        return torch.log10(1 + share * SAMPLE_RATE / 2 / 700) / torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700))
    return None


def enlarge(heatmap: Tensor, place: Tensor, frames: int) -> Tensor:
    """Interpolate a map ``(B, F', N')`` linearly at frequencies ``place`` (F,) in 0..1 and at ``frames`` frames, to ``(B, F, N)``."""
    times = torch.linspace(-1, 1, frames).to(heatmap)
    points = torch.stack(torch.meshgrid(times, 2 * place - 1, indexing="xy"), dim=-1)  # (F, N, 2)
    out = functional.grid_sample(
        heatmap[:, None], points.expand(len(heatmap), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
    return out[:, 0]
