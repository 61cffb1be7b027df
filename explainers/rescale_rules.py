"""Multipliers of the rescale rule, one function per kind of operation (Shrikumar et al. 2017, arXiv:1704.02685, section 3.5.1).

Each returns the references' output with a gradient ``m`` for which *sum of m x (clip's input - reference's input) = change of output* holds
exactly. Where both inputs coincide the multipliers become the slope. ``clip`` is the same operation as the clip's pass computed it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xaibench.errors import NotApplicableError
from xaibench.explainers.operations import CONVOLUTIONS, ELEMENTWISE, PRODUCTS, QUOTIENTS, Function, replace_gradient, varying, with_slopes

Rule = Callable[[str, Function, tuple[Any, ...], "Step", Tensor], Tensor]
CLOSE = 1e-3
"""Relative change under which the slope halfway is more exact in float32 than the secant."""
STRAIGHT = 1e-3
"""Largest bend, relative to the output, of an operation that counts as linear between clip and reference."""


@dataclass(frozen=True)
class Step:
    """One operation on the clip."""

    name: str
    inputs: tuple[Any, ...]
    output: Any


def like(taped: Tensor, tensor: Tensor) -> Tensor:
    """Repeat a clip's tensor for a batch of references, also where the batch is folded into the first axis.

    Raises:
        NotApplicableError: If the shapes cannot be those of one clip and of several.
    """
    if taped.ndim == tensor.ndim and all(a in (1, b) for a, b in zip(taped.shape, tensor.shape, strict=True)):
        return taped.expand_as(tensor)
    if taped.shape[1:] == tensor.shape[1:] and tensor.shape[0] % taped.shape[0] == 0:
        repeated: Tensor = taped.repeat(tensor.shape[0] // taped.shape[0], *[1] * (taped.ndim - 1))
        return repeated
    raise NotApplicableError(
        f"detector must compute tensors of one shape for every clip, got {tuple(taped.shape)} and {tuple(tensor.shape)}; "
        "use another explainer"
    )


def elementwise(name: str, func: Function, args: tuple[Any, ...], clip: Step, out: Tensor) -> Tensor:
    """Replace the slope by the secant."""
    x, *rest = args
    if varying(rest):
        return straight(name, func, args, clip, out)
    pairs = x.detach(), out.detach(), like(clip.inputs[0], x), like(clip.output, out)
    return with_slopes(out, (x.expand_as(out), secant(lambda v: func(v, *rest), *pairs)))


def secant(func: Function, x: Tensor, y: Tensor, x0: Tensor, y0: Tensor) -> Tensor:
    """Return ``(y0 - y) / (x0 - x)``, or the slope halfway where the inputs all but agree.

    Args:
        func: Element-wise function.
        x: Inputs of the references.
        y: Their outputs.
        x0: Inputs of the clip, of the same shape.
        y0: Its outputs.
    """
    change = x0 - x
    close = change.abs() <= CLOSE * (x0.abs() + x.abs())
    if not bool(close.any()):
        return (y0 - y).div_(change)
    ratio = (y0 - y).div_(change.masked_fill_(close, 1))
    with torch.enable_grad():  # of all numbers: picking out the few that need it takes longer
        halfway = ((x + x0) / 2).requires_grad_(True)
        slope = torch.autograd.grad(func(halfway).sum(), halfway)[0].nan_to_num_(0, 0, 0)
    return torch.where(close, slope, ratio)


def product(name: str, func: Function, args: tuple[Any, ...], clip: Step, out: Tensor) -> Tensor:
    """Give each of two factors the other's mean over both ends: the Shapley value of two players."""
    places = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
    if len(places) == 1 and not any(type(a) in (list, tuple) for a in args):
        return out
    if len(places) != 2 or sum(map(torch.is_tensor, args)) != 2:
        return straight(name, func, args, clip, out)
    first, second = places
    mean = {i: (args[i].detach() + like(clip.inputs[i], args[i])) / 2 for i in places}
    halves: tuple[Tensor, Tensor] = func(*swapped(args, second, mean[second])), func(*swapped(args, first, mean[first]))
    return replace_gradient(out, halves[0] + halves[1])


def swapped(args: Sequence[Any], place: int, value: Any) -> list[Any]:
    """Return arguments with one of them exchanged."""
    return [value if i == place else a for i, a in enumerate(args)]


def quotient(name: str, _func: Function, args: tuple[Any, ...], clip: Step, out: Tensor) -> Tensor:
    """Treat ``a / b`` as the product of ``a`` and ``1 / b``, whose secant is ``-1 / (b b0)``."""
    top, bottom, top0, bottom0 = (*args[:2], *clip.inputs[:2])
    if name == "__rdiv__":  # called with the divisor first
        top, bottom, top0, bottom0 = bottom, top, bottom0, top0
    if not (torch.is_tensor(bottom) and bottom.requires_grad):
        return out
    bottom0 = like(bottom0, bottom)
    inverse = -bottom / (bottom.detach() * bottom0)
    if not (torch.is_tensor(top) and top.requires_grad):
        return replace_gradient(out, top * inverse)
    mean_inverse = (1 / bottom.detach() + 1 / bottom0) / 2
    return replace_gradient(out, top * mean_inverse + (top.detach() + like(top0, top)) / 2 * inverse)


def softmax(name: str, _func: Function, args: tuple[Any, ...], clip: Step, out: Tensor) -> Tensor:
    """Use ``L_i (dx_i - sum_j w_j dx_j)``: ``L`` is the logarithmic mean of both probabilities, ``w`` is ``L / sum L``.

    As ``s = exp(x - lse)``, the change of ``s_i`` is ``L_i (dx_i - dlse)``; the changes of all ``s`` sum to 0, which gives ``dlse``.
    """
    x, dim = args
    ends = torch.log_softmax(x.detach(), dim), torch.log_softmax(like(clip.inputs[0], x), dim)
    mean = logarithmic_mean(*ends)
    rise = (mean / mean.sum(dim, keepdim=True) * x).sum(dim, keepdim=True)
    surrogates = {"softmax": lambda: mean * (x - rise), "log_softmax": lambda: x - rise, "logsumexp": lambda: rise}
    return replace_gradient(out, surrogates[name]())


def logarithmic_mean(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return ``(a - b) / (ln a - ln b)`` of numbers given by their logarithms; 0 where one of them is 0."""
    half = (log_b - log_a) / 2
    small = half.abs() < 1e-2
    far = (log_b.exp() - log_a.exp()) / (2 * torch.where(small, torch.ones_like(half), half))
    near = ((log_a + log_b) / 2).exp() * (1 + half.square() / 6)
    return torch.where(small, near, far).nan_to_num(0, 0, 0)


def maximum(_name: str, _func: Function, args: tuple[Any, ...], clip: Step, out: Tensor) -> Tensor:
    """Give the clip's maximum what it rose above the reference's, and the reference's maximum what it fell below.

    Both multipliers lie between 0 and 1. ``args`` are values ``(..., K)`` and the positions of maxima ``(..., J)``.
    """
    values, here = args
    there, top, top0 = like(clip.inputs[1], here), out.detach(), like(clip.output, out)
    risen, fixed0 = values.gather(-1, there), like(clip.inputs[0], values)
    rise, fall = top0 - risen.detach(), top - fixed0.gather(-1, here)  # both at least the change of the maximum
    equal = (top == top0) * 0.5
    up = torch.where(top0 > top, (top0 - top) / rise, equal)
    down = torch.where(top > top0, (top - top0) / fall, equal)
    return with_slopes(out, (risen, up), (out, down))


def selection(_name: str, _func: Function, args: tuple[Any, ...], clip: Step, out: Tensor) -> Tensor:
    """Give half to the value selected on either side, and what their exchange adds to both, by their squared change."""
    values, dim, here = args
    there = like(clip.inputs[2], here)
    fixed, fixed0 = values.detach(), like(clip.inputs[0], values)
    change, change0 = (fixed0.gather(dim, at) - fixed.gather(dim, at) for at in (here, there))
    rest = like(clip.output, out) - out.detach() - (change + change0) / 2
    rest = torch.where(here == there, torch.zeros_like(rest), rest / (change.square() + change0.square()).clamp(min=1e-12))
    surrogate = (0.5 + rest * change) * values.gather(dim, here) + (0.5 + rest * change0) * values.gather(dim, there)
    return replace_gradient(out, surrogate)


def convolution(name: str, func: Function, args: tuple[Any, ...], clip: Step, out: Tensor) -> Tensor:
    """Keep the plain gradient, unless the weights depend on the clip."""
    return straight(name, func, args, clip, out) if varying(args[1:]) else out


def straight(name: str, func: Function, args: tuple[Any, ...], clip: Step, out: Tensor) -> Tensor:
    """Keep the plain gradient of an operation that is straight between clip and reference.

    Raises:
        NotApplicableError: If it bends: there is no rule for it, and its gradient would not add up.
    """
    if not isinstance(out, Tensor):
        raise refusal(name)
    with torch.no_grad():
        middle = func(*(halfway(a, a0) for a, a0 in zip(args, clip.inputs, strict=True)))
        bend = (middle - (out + like(clip.output, out)) / 2).abs().max()
        if not bool(bend <= STRAIGHT * out.abs().max().clamp(min=1e-12)):
            raise refusal(name)
    return out


def halfway(value: Any, taped: Any) -> Any:
    """Return the mean of a reference's argument and the clip's; arguments without a gradient must be the same for both."""
    if not isinstance(value, Tensor):
        return type(value)(map(halfway, value, taped)) if type(value) in (list, tuple) else value
    return (value + like(taped, value)) / 2 if value.is_floating_point() or value.is_complex() else value


def refusal(name: str) -> NotApplicableError:
    """Return the error for an operation without a rule."""
    return NotApplicableError(
        f"detector must use operations with a rescale rule, got {name}, which is not linear between clip and reference; use gradient_shap"
    )


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(PRODUCTS, product),
    **dict.fromkeys(QUOTIENTS, quotient),
    **dict.fromkeys((*CONVOLUTIONS, "linear"), convolution),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), softmax),
    "maximum of": maximum,
    "gather": selection,
}
