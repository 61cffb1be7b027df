"""What an explainer must leave as it found it: the detector to the last hook, and every source of randomness."""

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from xaibench.types import tensors_hash

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_always_called",
)
GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")


def snapshot(detector: nn.Module) -> dict[str, Any]:
    """Return named aspects of a detector and of global state that compare equal as long as nothing changed."""
    modules = dict(detector.named_modules())
    parameters = dict(detector.named_parameters())
    return {
        "eval mode of its modules": {name: m.training for name, m in modules.items()},
        "classes or methods of its modules": {name: (type(m), m.__dict__.get("forward")) for name, m in modules.items()},
        "hooks of its modules": {name: tuple(tuple(getattr(m, hook)) for hook in HOOKS) for name, m in modules.items()},
        "global module hooks": tuple(tuple(getattr(nn.modules.module, hook)) for hook in GLOBAL_HOOKS),
        "parameters and buffers": tensors_hash({**parameters, **dict(detector.named_buffers())}),
        "requires_grad flags": {name: p.requires_grad for name, p in parameters.items()},
        "gradients of parameters": {name: None if p.grad is None else tensors_hash({"": p.grad}) for name, p in parameters.items()},
        "grad mode": torch.is_grad_enabled(),
        **random_states(),
    }


def random_states() -> dict[str, Any]:
    """Return the states of the global random generators of torch, NumPy and Python."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (the global generator is what must not move)
    states: dict[str, Any] = {
        "global random state of torch": tensors_hash({"": torch.get_rng_state()}),
        "global random state of NumPy": (name, hashlib.sha256(np.asarray(keys).tobytes()).hexdigest(), *rest),
        "global random state of Python": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
    }
    if torch.cuda.is_available():
        states["global random state of CUDA"] = [tensors_hash({"": state}) for state in torch.cuda.get_rng_state_all()]
    return states


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name the aspects that differ between two snapshots."""
    return [name for name in before if before[name] != after[name]]
