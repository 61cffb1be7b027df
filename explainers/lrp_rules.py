"""Rules of layer-wise relevance propagation for attention networks, as gradients (Achtibat et al. 2024, arXiv:2402.05602).

Relevance is input x modified gradient at every layer, so that each rule is a modified slope:

* convolution and linear: gamma rule (Montavon et al. 2019, in the form for inputs and outputs of any sign); gamma 0 is the epsilon rule;
* element-wise functions: the identity rule, slope ``output / input``, with a stabilizer of the input's sign;
* products of activations: the uniform rule, relevance shared equally by the factors;
* gates (softmax or sigmoid times values): uniform as well, or ``cp``: all of it to the values (Ali et al. 2022, arXiv:2202.07304);
* layer, group and level normalization: the divisor counts as a constant; softmax: its plain gradient, the Taylor rule;
* maxima and selections: winner takes all, which is the plain gradient, as for everything linear.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from xaibench.explainers.operations import (
    CONVOLUTIONS,
    ELEMENTWISE,
    PRODUCTS,
    QUOTIENTS,
    Function,
    OperationMode,
    attention,
    batch_norm,
    glu,
    replace_gradient,
    varying,
    with_slopes,
)

Gates = Literal["uniform", "cp"]


@dataclass(frozen=True)
class RuleSettings:
    """Strength of each rule."""

    gamma_conv: float = 10.0
    gamma_linear: float = 0.1
    epsilon: float = 1e-6
    gates: Gates = "cp"


class RelevanceRules(OperationMode):
    """Replace the slope of every operation inside the context; values stay as they are."""

    def __init__(self, settings: RuleSettings) -> None:
        super().__init__()
        self.settings = settings
        self._gates: dict[int, Tensor] = {}
        weighted = CONVOLUTIONS | {"linear"}
        self._rules = (weighted, self._weighted), (PRODUCTS, self._product), (QUOTIENTS, self._quotient)

    def handle(self, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one operation by its rule."""
        if not varying((*args, *kwargs.values())):
            return func(*args, **kwargs)
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        if name in COMPOSED:
            return COMPOSED[name](self, *args, **kwargs)
        if name in NORMALIZATIONS:
            return NORMALIZATIONS[name](*args, **kwargs)
        return next((rule for kind, rule in self._rules if name in kind), self._function)(name, func, args, kwargs)

    def _function(self, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply the identity rule to element-wise functions of real numbers, the plain gradient to all else."""
        out = func(*args, **kwargs)
        if name in ELEMENTWISE and not args[0].is_complex():
            out = identity_rule(args[0], out, self.settings.epsilon)
        if name in ("softmax", "sigmoid"):
            self._gates[out.untyped_storage().data_ptr()] = out  # kept alive, so that its address stays its own
        return out

    def _weighted(self, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Apply the gamma rule, or the uniform rule where the weights are activations too."""
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | {k: kwargs.pop(k) for k in ("weight", "bias") if k in kwargs}
        x, weight, bias = (given.get(key) for key in ("input", "weight", "bias"))
        if x is None or weight is None or varying((weight, bias)):
            return uniform_rule(func(*given.values(), *args[3:], **kwargs), 2)
        gamma = self.settings.gamma_linear if name == "linear" else self.settings.gamma_conv
        return gamma_rule(lambda i, w, b: func(i, w, b, *args[3:], **kwargs), x, weight, bias, gamma, self.settings.epsilon)

    def _product(self, _name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Share relevance equally among the factors that depend on the input, or give all to what a gate lets through."""
        moving = varying(args)
        gates = [t for t in moving if self._is_gate(t)]
        if self.settings.gates == "cp" and len(moving) == 2 and len(gates) == 1:
            return func(*(a.detach() if a is gates[0] else a for a in args), **kwargs)
        return uniform_rule(func(*args, **kwargs), len(moving))

    def _is_gate(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is a softmax or a sigmoid, or a view of one."""
        return tensor.untyped_storage().data_ptr() in self._gates

    def _quotient(self, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Count a divisor as a constant; where only the divisor depends on the input, apply the identity rule to it."""
        bottom, top = args[:2] if name == "__rdiv__" else args[1::-1]
        if not (torch.is_tensor(bottom) and bottom.requires_grad):
            return func(*args, **kwargs)
        if torch.is_tensor(top) and top.requires_grad:
            return func(top, bottom.detach(), **kwargs)
        return identity_rule(bottom, func(*args, **kwargs), self.settings.epsilon)


def stabilize(value: Tensor, epsilon: float) -> Tensor:
    """Return numbers moved away from zero by ``epsilon`` in the direction of their own sign."""
    return torch.copysign(value.new_tensor(epsilon), value).add_(value)


def ratio(top: Tensor, bottom: Tensor, epsilon: float) -> Tensor:
    """Return ``top / bottom``, the divisor stabilized."""
    divisor = stabilize(bottom, epsilon)
    return torch.div(top, divisor, out=divisor)


def identity_rule(x: Tensor, out: Tensor, epsilon: float) -> Tensor:
    """Hand relevance through a function of each number unchanged: slope ``out / x``."""
    x = x if x.shape == out.shape else x.expand_as(out)
    return with_slopes(out, (x, ratio(out.detach(), x.detach(), epsilon)))


def uniform_rule(out: Tensor, factors: int) -> Tensor:
    """Share the relevance of a product equally among its factors; each alone would receive all of it."""
    return out if factors < 2 else replace_gradient(out, out / factors)


class WithSize(torch.autograd.Function):
    """A tensor and its absolute value; one pass adds up what comes back through both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        ctx.save_for_backward(x)
        return x.view_as(x), x.abs()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        """Add the gradients, the second with the sign of the tensor."""
        (x,) = ctx.saved_tensors
        return torch.addcmul(gradients[0], gradients[1], x.sign())


class Favor(torch.autograd.Function):
    """The gamma rule's slopes by an output ``z`` and by ``size``, the scaled sum of its contributions' absolute values."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, size: Tensor) -> Tensor:
        """Return ``z``; keep ``|z| / (|z| + size)`` with the sign of ``z``. ``size`` is used up."""
        strength = z.abs()
        share = strength.div_(size.add_(strength))
        ctx.save_for_backward(share.copysign_(z))
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """Give both their share."""
        (share,) = ctx.saved_tensors
        return share.abs().mul_(gradients[0]), share * gradients[0]


def gamma_rule(func: Function, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float, epsilon: float) -> Tensor:
    """Favor contributions of the output's sign by ``1 + gamma``.

    Each contribution ``c = x w`` to an output ``z`` (with the bias) receives ``R (c + gamma c_s) / (z + gamma sum c_s)``, where ``c_s`` is
    ``c`` if it has the sign ``s`` of ``z``, else 0. As ``c_s = (c + s |c|) / 2``, one map of absolute values does for inputs of any sign:
    ``R (c + t s |c|) / (z + t s sum |c|)`` with ``t = gamma / (2 + gamma)``.

    Args:
        func: Convolution or linear map of input, weight and bias.
        x: Input.
        weight: Weight.
        bias: Bias or None; it keeps its own share of relevance.
        gamma: 0 for the epsilon rule.
        epsilon: Stabilizes the divisor.
    """
    if gamma == 0:
        z = func(x, weight, bias)
        return with_slopes(z, (z, ratio(z.detach(), z.detach(), epsilon)))
    x, absolute = WithSize.apply(x)  # type: ignore[no-untyped-call]
    z = func(x, weight, bias)
    tilt, least = gamma / (2 + gamma), 2 * epsilon / (2 + gamma)
    floor = weight.new_full((z.shape[1 - weight.ndim],), least) if bias is None else bias.abs().mul_(tilt).add_(least)
    size = func(absolute, weight.clone().abs_().mul_(tilt), floor)  # a clone keeps the strides, by which memory formats are chosen
    out: Tensor = Favor.apply(z, size)  # type: ignore[no-untyped-call]
    return out


def constant_spread(x: Tensor, axes: tuple[int, ...], eps: float, centered: bool = True) -> Tensor:
    """Normalize over ``axes``; the divisor counts as a constant."""
    x = x - x.mean(axes, keepdim=True) if centered else x
    return x * (x.detach().square().mean(axes, keepdim=True) + eps).rsqrt()


def layer_norm(
    x: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_args: Any
) -> Tensor:
    """Normalize over the last axes, the standard deviation as a constant."""
    out = constant_spread(x, tuple(range(-len(normalized_shape), 0)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Divide by the root mean square over the last axes, as a constant."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    out = constant_spread(x, tuple(range(-len(normalized_shape), 0)), eps, centered=False)
    return out if weight is None else out * weight


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_args: Any
) -> Tensor:
    """Normalize over groups of channels, the standard deviation as a constant."""
    out = constant_spread(x.reshape(len(x), num_groups, -1), (2,), eps).view(x.shape)
    channels = (-1, *[1] * (x.ndim - 2))
    out = out if weight is None else out * weight.view(channels)
    return out if bias is None else out + bias.view(channels)


COMPOSED: dict[str, Function] = {"scaled_dot_product_attention": attention, "glu": glu}
NORMALIZATIONS: dict[str, Function] = {"batch_norm": batch_norm, "layer_norm": layer_norm, "group_norm": group_norm, "rms_norm": rms_norm}
