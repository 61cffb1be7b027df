"""What happens to the detector's confidence when only the explanation is kept, or only the rest: AI, AD, AG, Fid-In, FF.

With p the probability of *spoof* for the clip, o for the part that the explanation keeps (masked-in), r for the rest (masked-out):

    AI = 100 [o > p]                  Grad-CAM++, Chattopadhay et al. 2018, arXiv:1710.11063
    AD = 100 max(0, p - o) / p        the same
    AG = 100 max(0, o - p) / (1 - p)  Opti-CAM, Zhang et al. 2024, arXiv:2301.07002
    Fid-In = [decision(o) = decision(p)]      Paissan et al. 2023 (PIQ), arXiv:2303.12659
    FF = p - r                        Parekh et al. 2022 (L2I), arXiv:2202.11479; L-MAC, arXiv:2403.13086

These are the plain definitions: one sigmoid, in float64, from log-odds, with ratios taken in the logarithm, so that a saturated
detector loses no digit. Implementations that apply softmax twice read a total drop as 63 %.
All take spoof log-odds ``(B,)`` and return ``(B,)`` float64, one per clip. Keeping *everything* gives AD 0 and Fid-In 1, both perfect:
they mean something only at an area budget, beside the value of a random explanation.

The papers explain the class that the detector decides for; here the explained class is always *spoof*, since that is what a heatmap of
evidence for spoof claims to explain. For a vocoded clip that the detector calls bona fide the two differ.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Scale = Literal["probability", "log_odds"]


def average_increase(original: Tensor, masked_in: Tensor) -> Tensor:
    """AI: 100 where the kept part is more spoof than the clip, else 0, (B,) in percent; higher is better.

    Decided on log-odds, so that saturation makes no ties.
    """
    original, masked_in = _door(original, masked_in)
    return 100.0 * (masked_in > original).double()


def average_drop(original: Tensor, masked_in: Tensor, *, threshold: float = 0.0, scale: Scale = "probability") -> Tensor:
    """AD: relative loss of confidence when only the explanation is kept, (B,); lower is better.

    Args:
        original: Spoof log-odds of the clips, (B,).
        masked_in: Spoof log-odds of the kept parts, (B,).
        threshold: Log-odds at which the detector's decision changes (of equal error, say); probability is 0.5 there.
        scale: ``probability`` gives percent in [0, 100]; ``log_odds`` gives max(0, s - s_in), unbounded.
    """
    original, masked_in = _door(original, masked_in, threshold)
    if _checked(scale) == "log_odds":
        return (original - masked_in).clamp_min(0)
    return 100.0 * torch.expm1((logsigmoid(masked_in) - logsigmoid(original)).clamp_max(0)).abs()


def average_gain(original: Tensor, masked_in: Tensor, *, threshold: float = 0.0, scale: Scale = "probability") -> Tensor:
    """AG: relative gain of confidence when only the explanation is kept, (B,); higher is better. Arguments as for ``average_drop``."""
    original, masked_in = _door(original, masked_in, threshold)
    if _checked(scale) == "log_odds":
        return (masked_in - original).clamp_min(0)
    return 100.0 * torch.expm1((logsigmoid(-masked_in) - logsigmoid(-original)).clamp_max(0)).abs()


def fidelity_in(original: Tensor, masked_in: Tensor, *, threshold: float = 0.0) -> Tensor:
    """Fid-In: 1 where the kept part gets the clip's own decision, else 0, (B,); higher is better."""
    original, masked_in = _door(original, masked_in, threshold)
    return ((masked_in > 0) == (original > 0)).double()


def faithfulness_of_spectra(original: Tensor, masked_out: Tensor, *, threshold: float = 0.0, scale: Scale = "probability") -> Tensor:
    """FF: confidence lost when the explanation is taken away, (B,), in [-1, 1] or in log-odds; higher is better."""
    original, masked_out = _door(original, masked_out, threshold)
    if _checked(scale) == "log_odds":
        return original - masked_out
    return torch.sigmoid(original) - torch.sigmoid(masked_out)


def confidence(original: Tensor, masked_in: Tensor, masked_out: Tensor, *, threshold: float = 0.0) -> dict[str, Tensor]:
    """Return all five, and the log-odds versions of AD, AG and FF, by name."""
    return {
        "average_increase": average_increase(original, masked_in),
        "average_drop": average_drop(original, masked_in, threshold=threshold),
        "average_gain": average_gain(original, masked_in, threshold=threshold),
        "fidelity_in": fidelity_in(original, masked_in, threshold=threshold),
        "faithfulness_of_spectra": faithfulness_of_spectra(original, masked_out, threshold=threshold),
        "log_odds_drop": average_drop(original, masked_in, scale="log_odds"),
        "log_odds_gain": average_gain(original, masked_in, scale="log_odds"),
        "log_odds_removed": faithfulness_of_spectra(original, masked_out, scale="log_odds"),
    }


def _door(original: Tensor, other: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    original, other = torch.as_tensor(original), torch.as_tensor(other)
    if original.shape != other.shape:
        raise ValueError(f"original must have the other scores' shape {tuple(other.shape)}, got {tuple(original.shape)}; pass one per clip")
    if not (torch.isfinite(original).all() and torch.isfinite(other).all()):
        raise ValueError("log-odds must be finite, got NaN or infinity; check the detector on masked clips")
    return original.double() - threshold, other.double() - threshold


def _checked(scale: Scale) -> Scale:
    if scale not in ("probability", "log_odds"):
        raise ValueError(f"scale must be probability or log_odds, got {scale!r}; choose one")
    return scale
