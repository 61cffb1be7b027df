"""GATR: which moments a transformer attends to, weighted by what attention is worth (Grinberg et al. 2025, arXiv:2501.13887).

Relevancy grows block by block, ``R <- R + E_h[max(dA * A, 0)] R``, from the identity (Chefer et al. 2021, arXiv:2103.15679, eq. 5 and 6),
where ``A`` is a block's attention and ``dA`` the gradient of the log-odds by it. Detectors of speech have no token that stands for the
clip, so that rows of ``R`` are averaged, each weighted by the gradient that reaches its attention in the last block. The published code
is not available: how the paper normalizes these weights is not known, and figures may differ by it. The map knows time alone: all
frequencies of a frame are equal.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaibench.errors import NotApplicableError
from xaibench.explainers.operations import Function, OperationMode, attention
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Explainer, Generators


class AttentionTap(OperationMode):
    """Keep the self-attention ``(B, heads, N', N')`` of every block, in the order of the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def handle(self, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one operation; softmax over as many keys as queries is an attention."""
        if name == "scaled_dot_product_attention":
            return attention(self, *args, **kwargs)
        out = func(*args, **kwargs)
        if name == "softmax" and out.ndim == 4 and out.shape[2] == out.shape[3] and out.requires_grad:
            self.maps += [out] if not self.maps or out.shape == self.maps[0].shape else []
        return out


@EXPLAINERS.register("gatr")
@dataclass(frozen=True)
class GATR(Explainer):
    """Relevancy of each frame through all attention layers; one forward and one backward pass."""

    reference = "Grinberg et al. 2025, arXiv:2501.13887; Chefer et al. 2021, arXiv:2103.15679"
    polarity = "magnitude"
    needs = frozenset({"gradients"})
    stft: STFTConfig = DEFAULT_STFT

    def applicable(self, detector: Detector) -> tuple[bool, str]:
        """Ask for a stack of transformer layers."""
        if type(detector).hidden_states is Detector.hidden_states:
            return False, f"detector {detector.name!r} has no stack of transformer layers, so no attention to follow"
        return True, ""

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return relevancy by time, the same for all frequencies, (B, F, N).

        Raises:
            NotApplicableError: If the detector computes no self-attention.
        """
        tap = AttentionTap()
        with torch.enable_grad():
            clip = waveform.detach().clone().requires_grad_(True)
            with tap:
                logits = detector.spoof_logit(clip)
            if not tap.maps:
                raise NotApplicableError(f"detector must compute self-attention, got none in {detector.name}; use another explainer")
            slopes = torch.autograd.grad(logits.sum(), tap.maps)
        relevancy = relevancy_by_token([a.detach() for a in tap.maps], slopes)
        return spread(relevancy, self.stft.frames(waveform.shape[-1]))[:, None].expand(-1, self.stft.bins, -1).contiguous()


def relevancy_by_token(maps: list[Tensor], slopes: tuple[Tensor, ...]) -> Tensor:
    """Return the relevancy of each token ``(B, N')`` from attentions and gradients, ``(B, heads, N', N')`` each, first block first."""
    size = maps[0].shape[-1]
    total = torch.eye(size, dtype=maps[0].dtype, device=maps[0].device).expand(len(maps[0]), -1, -1)
    for attended, slope in zip(maps, slopes, strict=True):
        total = total + (attended * slope).clamp(min=0).mean(1) @ total
    weights = slopes[-1].abs().mean(dim=(1, 3))  # (B, N'): what reaches each query
    weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return torch.einsum("bq,bqk->bk", weights, total)


def spread(tokens: Tensor, frames: int) -> Tensor:
    """Interpolate values of tokens ``(B, N')`` that share a clip evenly to frames from its first to its last sample, ``(B, N)``."""
    count = tokens.shape[-1]
    padded = functional.pad(tokens[:, None], (1, 1), mode="replicate")[:, 0]  # beyond the outer tokens' centers: their values
    place = torch.linspace(0, count, frames, device=tokens.device) + 0.5  # in tokens, the first padded one centered at 0
    left = place.floor().long().clamp(max=count)
    share = (place - left).to(tokens)
    return padded[:, left] * (1 - share) + padded[:, left + 1] * share
