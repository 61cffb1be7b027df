"""A picture of what a plugin must leave as it found it: the detector, and the process around it.

``broken`` names a change, ``mend`` undoes all. Random state, which a plugin may use, is put back by ``sealed_randomness``.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class _Module:
    """One module as it was: objects by reference, tables copied."""

    module: nn.Module
    kind: type
    training: bool
    tables: dict[str, dict[Any, Any]]
    hooks: dict[str, dict[Any, Any]]
    overrides: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> "_Module":
        tables = {name: dict(getattr(module, name)) for name in TABLES}
        return cls(module, type(module), module.training, tables, _hooks(module), _overrides(module))

    def changed(self) -> str:
        now = _Module.of(self.module)
        if now.kind is not self.kind or not _same(now.overrides, self.overrides):
            return "method"
        if any(not _same(now.tables[name], self.tables[name]) for name in TABLES):
            return "set of parameters, buffers or submodules"
        if now.training != self.training:
            return "training mode"
        return "" if all(_same(now.hooks[name], self.hooks[name]) for name in self.hooks) else "hooks"

    def mend(self) -> None:
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
        self.module.training = self.training
        for name, table in {**self.tables, **self.hooks}.items():
            current = getattr(self.module, name)
            current.clear()
            current.update(table)
        for name in _overrides(self.module):
            self.module.__dict__.pop(name)
        self.module.__dict__.update(self.overrides)


def _hooks(module: nn.Module) -> dict[str, dict[Any, Any]]:
    return {name: dict(table) for name, table in module.__dict__.items() if "_hooks" in name and isinstance(table, dict)}


def _overrides(module: nn.Module) -> dict[str, Any]:
    """Return what an instance has instead of its class's methods; other attributes (a cache, say) are the module's own affair."""
    return {name: value for name, value in module.__dict__.items() if callable(getattr(type(module), name, None))}


def _same(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    return a.keys() == b.keys() and all(a[key] is b[key] for key in a)


class Seal:
    """Takes the picture when it is made."""

    def __init__(self, detector: nn.Module):
        self._modules = {name: _Module.of(module) for name, module in detector.named_modules()}
        self._tensors = {name: tensor for name, tensor in (*detector.named_parameters(), *detector.named_buffers())}
        self._values = {name: (tensor.detach().clone(), tensor.requires_grad) for name, tensor in self._tensors.items()}
        self._process = _Process()

    def broken(self) -> str:
        """Name what differs from the picture; empty if nothing does."""
        return next(self._changes(), "")

    def _changes(self) -> Iterator[str]:
        for name, (value, _) in self._values.items():
            if not _equal(self._tensors[name], value) or self._tensors[name].grad is not None:
                yield f"parameter {name}"
        for name, picture in self._modules.items():
            if changed := picture.changed():
                yield f"{changed} of {name}" if name else changed
        if any(self._tensors[name].requires_grad != flag for name, (_, flag) in self._values.items()):
            yield "requires_grad"
        yield from self._process.changes()

    def mend(self) -> None:
        """Put everything back."""
        for picture in self._modules.values():
            picture.mend()
        with torch.no_grad():
            for name, (value, flag) in self._values.items():
                tensor = self._tensors[name]
                if not _equal(tensor, value):
                    tensor.data = value.clone()
                tensor.grad = None
                tensor.requires_grad_(flag)
        self._process.mend()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and torch.equal(a, b)


class _Process:
    """What all plugins of a process share."""

    def __init__(self) -> None:
        self._dtype = torch.get_default_dtype()
        self._threads = torch.get_num_threads()
        self._grad = torch.is_grad_enabled()
        self._folder = _working_directory()
        self._environment = dict(os.environ)

    def changes(self) -> Iterator[str]:
        if torch.get_default_dtype() != self._dtype:
            yield "default dtype of torch"
        if torch.get_num_threads() != self._threads:
            yield "number of threads"
        if torch.is_grad_enabled() != self._grad:
            yield "grad mode"
        if _working_directory() != self._folder:
            yield "working directory"
        # variables that are new may be those of a library that was imported late; they are removed without blame
        if any(os.environ.get(name) != value for name, value in self._environment.items()):
            yield "environment variable"

    def mend(self) -> None:
        torch.set_default_dtype(self._dtype)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        torch.set_grad_enabled(self._grad)
        with contextlib.suppress(OSError):
            os.chdir(self._folder)
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        os.environ.update(self._environment)


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted
        return ""
