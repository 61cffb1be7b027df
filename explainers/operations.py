"""What a network computes, operation by operation: the names of torch's operations, and a mode that hears each of them.

Module hooks miss every functional call, product and selection; a ``TorchFunctionMode`` misses none and touches no module, so that a
detector is left as it was found by construction. Names are the same for functions, methods and operators of torch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]


def names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


ELEMENTWISE = names(
    "relu relu6 leaky_relu prelu rrelu elu celu selu gelu silu mish softplus softsign logsigmoid hardtanh hardswish hardsigmoid tanh "
    "sigmoid tanhshrink abs absolute sqrt rsqrt exp exp2 expm1 log log1p log2 log10 square reciprocal pow float_power __rpow__ clamp "
    "hardshrink softshrink threshold clamp_min clamp_max clip sin cos atan erf log_sigmoid"
)
PRODUCTS = names("mul multiply matmul bmm mm einsum")
QUOTIENTS = names("div divide true_divide __rdiv__")
CONVOLUTIONS = names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
LINEAR = names(
    "add sub subtract rsub __rsub__ __radd__ neg negative positive sum mean cumsum diff cat concat concatenate stack hstack vstack dstack "
    "view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze transpose t swapaxes movedim moveaxis permute expand "
    "expand_as repeat tile repeat_interleave roll flip contiguous clone to float double half cpu cuda type type_as chunk split "
    "tensor_split unbind narrow select unfold as_strided diagonal pad constant_pad_nd stft istft fft ifft rfft irfft view_as_real "
    "view_as_complex real imag conj resolve_conj avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d interpolate upsample fold identity alias pixel_shuffle broadcast_to __get__ detach size dim numel "
    "is_floating_point is_complex"
)
"""Linear in all tensors they are given together; their plain gradient is exact for every rule."""
BOOKKEEPING = names("__get__ __set__ register_hook register_post_accumulate_grad_hook retain_grad requires_grad_ requires_grad")
"""What hooks do to tensors, such as those that count a detector's passes; it computes nothing."""


class Replace(torch.autograd.Function):
    """Return one tensor with the gradient of another of the same shape."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor, _surrogate: Tensor) -> Tensor:
        """Return the value."""
        return value.view_as(value)

    @staticmethod
    def backward(_ctx: Any, *gradients: Any) -> tuple[None, Any]:
        """Hand the gradient to the surrogate."""
        return None, gradients[0]


def replace_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``surrogate``: how every rule is written down."""
    out: Tensor = Replace.apply(value.detach(), surrogate)  # type: ignore[no-untyped-call]
    return out


class Slopes(torch.autograd.Function):
    """Return a value whose slope by each of several tensors of its shape is given, whole or ready to be broadcast."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: tuple[Tensor, ...], *_tensors: Tensor) -> Tensor:
        """Return the value."""
        ctx.save_for_backward(*slopes)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """Multiply the gradient with each slope."""
        return None, None, *(gradients[0] * slope for slope in ctx.saved_tensors)


def with_slopes(value: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """Return ``value`` with the given slope by each tensor, as pairs ``(tensor, slope)``; slopes may be broadcast to the value's shape."""
    tensors, slopes = zip(*terms, strict=True)
    out: Tensor = Slopes.apply(value.detach(), slopes, *tensors)  # type: ignore[no-untyped-call]
    return out


class OperationMode(TorchFunctionMode):
    """Hear every torch operation inside the context, with parameters as constants; subclasses implement ``handle``.

    As parameters count as constants, exactly those tensors require a gradient that depend on the explained input.
    """

    def handle(self, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one operation; inside, operations are plain again unless ``with self`` is entered."""
        raise NotImplementedError

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand the operation on, by name."""
        name = getattr(func, "__name__", "")
        kwargs = dict(kwargs or {})
        if name in BOOKKEEPING or name.startswith("_set_"):
            return func(*args, **kwargs)
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        return self.handle(name, func, tuple(map(constant, args)), {key: constant(value) for key, value in kwargs.items()})


def constant(value: Any) -> Any:
    """Return parameters detached, also in lists and tuples; anything else as it is."""
    if isinstance(value, nn.Parameter):
        return value.detach()
    if type(value) in (list, tuple) and any(isinstance(item, nn.Parameter) for item in value):
        return type(value)(constant(item) for item in value)
    return value


def varying(values: Any) -> list[Tensor]:
    """Return the tensors among arguments, also in lists and tuples, that depend on the explained input."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found += [value] if value.requires_grad else []
        elif type(value) in (list, tuple):
            found += varying(value)
    return found


def batch_norm(x: Tensor, mean: Tensor, variance: Tensor, *args: Any, **named: Any) -> Tensor:
    """Normalize by stored statistics: linear, with its plain slope, given here as torch's gradient would leave the memory format."""
    out = functional.batch_norm(x, mean, variance, *args, **named)
    given = dict(zip(("weight", "bias", "training", "momentum", "eps"), args, strict=False)) | named
    if given.get("training"):
        return out
    slope = (variance + given.get("eps", 1e-5)).rsqrt()
    slope = slope if given.get("weight") is None else slope * given["weight"]
    return with_slopes(out, (x, slope.view(-1, *[1] * (x.ndim - 2))))


def attention(
    mode: OperationMode,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    _dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_options: Any,
) -> Tensor:
    """Compute scaled dot-product attention step by step, so that each step follows its own rule."""
    bias = torch.zeros(query.shape[-2], key.shape[-2], dtype=query.dtype, device=query.device)
    if is_causal:
        bias = bias.masked_fill(torch.ones_like(bias, dtype=torch.bool).triu(1), float("-inf"))
    if attn_mask is not None:
        bias = bias.expand(attn_mask.shape).masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else attn_mask
    with mode:
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        return torch.softmax(scores + bias, dim=-1) @ value


def glu(mode: OperationMode, x: Tensor, dim: int = -1) -> Tensor:
    """Gate one half of the channels with the other."""
    with mode:
        value, gate = x.chunk(2, dim)
        return value * gate.sigmoid()
