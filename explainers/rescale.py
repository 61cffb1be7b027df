"""The rescale rule for a whole network: finite differences between clip and references in place of slopes (Shrikumar et al. 2017).

``DeepLIFT`` (arXiv:1704.02685, section 3.5.1) follows the change from reference to clip through every operation. The clip is heard once and
written to a tape; then the references are heard with gradients, each operation's slope replaced by its multiplier (``rescale_rules.py``).
The gradient at a reference is then the multiplier of the whole network, and *sum of multiplier x change = change of log-odds* exactly.
An operation without a rule must prove to be straight between both ends, or the explanation is refused: nothing falls back silently.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaibench.errors import NotApplicableError
from xaibench.explainers.operations import LINEAR, Function, OperationMode, attention, batch_norm, glu, names, varying
from xaibench.explainers.rescale_rules import RULES, Rule, Step, like, straight

STEADY = names("batch_norm dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout")
"""Linear in ``eval()``."""


class Rescale(OperationMode):
    """Write a clip's operations to a tape, or compare a batch of references with it under the rescale rule.

    Args:
        tape: Filled where ``replay`` is false, read otherwise.
        replay: Whether this pass hears references and needs gradients.
        ordered: Whether selected nodes are put into the clip's order where it selected them too.
    """

    def __init__(self, tape: list[Step], replay: bool, ordered: bool = True) -> None:
        super().__init__()
        self.tape = tape
        self.replay = replay
        self.ordered = ordered
        self.position = 0

    def handle(self, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one operation, with multipliers for a gradient when references are heard."""
        if name in COMPOSED:
            return COMPOSED[name](self, *args, **kwargs)
        steady = name in STEADY and not kwargs.get("training", False)
        if steady and name == "batch_norm":
            return batch_norm(*args, **kwargs) if self.replay and varying(args[:1]) else func(*args, **kwargs)
        if name in LINEAR or steady or (name == "__getitem__" and not holds_tensor(args[1])):
            return func(*args, **kwargs)
        if name.endswith("_") and not name.endswith("__") and varying(args):
            raise NotApplicableError(f"detector must not work in place, got {name}; build it with out-of-place operations")
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        return self.step("rounded" if kwargs.get("rounding_mode") else name, lambda *values: func(*values, **kwargs), args)

    def step(self, name: str, func: Function, args: tuple[Any, ...]) -> Any:
        """Write one operation to the tape, or replace its gradient by the finite difference from the taped one."""
        out = func(*args)
        if not self.replay:
            self.tape.append(Step(name, args, out))
            return out
        clip = self._taped(name)
        if name == "best of":
            return same_slots(out, like(clip.output, out)) if self.ordered else out
        if not varying([out] if isinstance(out, Tensor) else out if isinstance(out, tuple | list) else []):
            return out
        rule: Rule = RULES.get(name, straight)
        return rule(name, func, args, clip, out)

    def _taped(self, name: str) -> Step:
        """Return the clip's next operation.

        Raises:
            NotApplicableError: If the clip's pass computed another one.
        """
        clip = self.tape[self.position] if self.position < len(self.tape) else None
        self.position += 1
        if clip is None or clip.name != name:
            raise NotApplicableError(
                f"detector must compute the same operations for every clip, got {name} in the place of {clip and clip.name}; "
                "use another explainer"
            )
        return clip

    def largest(self, values: Tensor, positions: Tensor) -> Tensor:
        """Return ``values`` at the ``positions`` of maxima on the last axis."""
        out: Tensor = self.step("maximum of", lambda v, at: v.gather(-1, at), (values, positions))
        return out


def holds_tensor(index: Any) -> bool:
    """Tell whether an index holds positions or a mask, which may differ between clips."""
    return any(map(holds_tensor, index)) if isinstance(index, tuple | list) else isinstance(index, Tensor)


def same_slots(here: Tensor, there: Tensor) -> Tensor:
    """Reorder chosen positions so that those which the clip chose too stand in the clip's places, ``(..., k)`` each.

    Nodes of a graph have no order; without this, slots of clip and reference would compare different nodes.
    """
    shared = here[..., :, None] == there[..., None, :]  # (..., k of the reference, k of the clip)
    place = torch.where(shared.any(-1), shared.int().argmax(-1), -1)
    free = ~shared.any(-2)  # the clip's slots that no shared node takes
    order = torch.argsort((~free).int(), dim=-1, stable=True)  # free slots first
    rank = torch.cumsum((place < 0).int(), -1) - 1
    place = torch.where(place < 0, order.gather(-1, rank.clamp(min=0)), place)
    return torch.empty_like(here).scatter(-1, place, here)


def pooling(pool: Function, spatial: int) -> Function:
    """Return max pooling over ``spatial`` axes, given torch's function that also returns the positions of the maxima."""

    def compose(mode: Rescale, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        wants_positions = kwargs.pop("return_indices", False)
        out, positions = pool(x, *args, **kwargs)
        values = mode.largest(x.flatten(-spatial), positions.flatten(-spatial)).view(out.shape)
        return (values, positions) if wants_positions else values

    return compose


def extreme(sign: int) -> Function:
    """Return ``amax`` (sign 1) or ``amin`` (sign -1)."""

    def compose(mode: Rescale, x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        dims = sorted(d % x.ndim for d in ((dim,) if isinstance(dim, int) else tuple(dim) or range(x.ndim)))
        last = tuple(range(x.ndim - len(dims), x.ndim))
        flat = sign * x.movedim(dims, last).flatten(-len(dims))
        out = sign * mode.largest(flat, flat.argmax(-1, keepdim=True))[..., 0]
        if keepdim:
            for d in dims:
                out = out.unsqueeze(d)
        return out

    return compose


def max_or_min(sign: int) -> Function:
    """Return ``max`` (sign 1) or ``min`` (sign -1) in all three forms: of everything, along an axis, of two tensors."""
    whole, pair = extreme(sign), elementwise_extreme(sign)

    def compose(mode: Rescale, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        other = args[0] if args else kwargs.get("other", kwargs.get("dim"))
        if isinstance(other, Tensor):
            return pair(mode, x, other)
        if other is None:
            return whole(mode, x)
        keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
        positions = (sign * x).argmax(other, keepdim=keepdim)
        return torch.return_types.max((whole(mode, x, other, keepdim), positions))

    return compose


def elementwise_extreme(sign: int) -> Function:
    """Return ``maximum`` (sign 1) or ``minimum`` (sign -1)."""

    def compose(mode: Rescale, a: Tensor, b: Tensor) -> Tensor:
        both = sign * torch.stack(torch.broadcast_tensors(a, b), dim=-1)  # type: ignore[no-untyped-call]
        return sign * mode.largest(both, both.argmax(-1, keepdim=True))[..., 0]

    return compose


def topk(mode: Rescale, x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """Choose the k largest along an axis; their order counts for nothing."""
    ranked = mode.step("best of", lambda v: v.movedim(dim, -1).topk(k, -1, largest, sorted).indices, (x,)).movedim(-1, dim)
    return torch.return_types.topk((gather(mode, x, dim, ranked), ranked))


def gather(mode: Rescale, x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Pick values by position."""
    out: Tensor = mode.step("gather", torch.gather, (x, dim, index))
    return out


def exponential(name: str) -> Function:
    """Return ``softmax``, ``log_softmax`` or ``logsumexp``."""

    def compose(mode: Rescale, x: Tensor, dim: int, *_args: Any, keepdim: bool = False, **_options: Any) -> Tensor:
        out: Tensor = mode.step(name, EXPONENTIALS[name], (x, dim))
        return out.squeeze(dim) if name == "logsumexp" and not keepdim else out

    return compose


def logsumexp(x: Tensor, dim: int) -> Tensor:
    """Return the logarithm of the sum of exponentials, the axis kept."""
    return torch.logsumexp(x, dim, keepdim=True)


EXPONENTIALS: dict[str, Function] = {"softmax": torch.softmax, "log_softmax": torch.log_softmax, "logsumexp": logsumexp}


def normalized(mode: Rescale, x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """Subtract the mean and divide by the standard deviation over ``axes``."""
    with mode:
        centered = x - x.mean(axes, keepdim=True)
        return centered * (centered.square().mean(axes, keepdim=True) + eps).rsqrt()


def layer_norm(
    mode: Rescale, x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_args: Any
) -> Tensor:
    """Normalize over the last axes."""
    out = normalized(mode, x, tuple(range(-len(shape), 0)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def group_norm(
    mode: Rescale, x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_args: Any
) -> Tensor:
    """Normalize over groups of channels."""
    out = normalized(mode, x.reshape(len(x), groups, -1), (2,), eps).view(x.shape)
    channels = (-1, *[1] * (x.ndim - 2))
    out = out if weight is None else out * weight.view(channels)
    return out if bias is None else out + bias.view(channels)


def complex_abs(mode: Rescale, x: Tensor) -> Tensor:
    """Return the magnitude; of complex numbers as the root of the sum of squares."""
    if not x.is_complex():
        out: Tensor = mode.step("abs", torch.abs, (x,))
        return out
    with mode:
        return (x.real.square() + x.imag.square()).sqrt()


COMPOSED: dict[str, Function] = {
    **{f"max_pool{n}d": pooling(getattr(functional, f"max_pool{n}d_with_indices"), n) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": pooling(getattr(functional, f"adaptive_max_pool{n}d_with_indices"), n) for n in (1, 2, 3)},
    **{"amax": extreme(1), "amin": extreme(-1), "max": max_or_min(1), "min": max_or_min(-1)},
    **{"maximum": elementwise_extreme(1), "minimum": elementwise_extreme(-1), "topk": topk, "gather": gather},
    **{name: exponential(name) for name in ("softmax", "log_softmax", "logsumexp")},
    **{"layer_norm": layer_norm, "group_norm": group_norm, "scaled_dot_product_attention": attention},
    **{"abs": complex_abs, "glu": glu},
}
"""Operations that are built from others, so that each part follows its own rule."""
