"""Plugins by name: found without being imported, loaded on use, refused with a suggestion.

A plugin is a class or factory decorated with ``@EXPLAINERS.register("name")`` in any file of the registry's package, or an entry point
of the group that bears the package's name. Built-in names are read from the source text, so that listing costs no import of torch.
"""

import ast
import difflib
import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from xaibench.errors import MissingExtraError, PluginError, UnknownNameError, XaibenchError

T = TypeVar("T")
NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,63}$")


@dataclass
class Registry:
    """All plugins of one kind.

    Args:
        kind: Singular noun for messages, e.g. ``"explainer"``.
        package: Package whose files hold the built-in plugins, and name of the entry-point group of third parties.
    """

    kind: str
    package: str
    _loaded: dict[str, Any] = field(default_factory=dict)

    def register(self, name: str) -> Callable[[T], T]:
        """Register the decorated class or factory under ``name`` and set its ``name`` attribute."""
        if not NAME.match(name):
            raise ValueError(f"name must match {NAME.pattern}, got {name!r}; use lower-case letters, digits and _ . -")

        def decorate(target: T) -> T:
            home = self._builtin.get(name, target.__module__)
            if home != target.__module__:
                raise PluginError(f"{self.kind} {name!r} is built in ({home}), got another one from {target.__module__}; rename yours")
            known = self._loaded.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (target.__module__, target.__qualname__):  # type: ignore[attr-defined]
                raise PluginError(f"{self.kind} {name!r} is registered by both {known.__module__} and {target.__module__}; rename one")
            if isinstance(target, type):
                target.name = name  # type: ignore[attr-defined]
            self._loaded[name] = target
            return target

        return decorate

    @cached_property
    def _builtin(self) -> dict[str, str]:
        """Map the names found in the package's source to their modules."""
        spec = importlib.util.find_spec(self.package)
        found: dict[str, str] = {}
        folders = (spec.submodule_search_locations or []) if spec else []
        for root in map(Path, folders):
            for path in sorted(root.rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                module = ".".join((self.package, *(p for p in parts if p != "__init__")))
                for name in _registered_names(path):
                    if name in found and found[name] != module:
                        raise PluginError(f"{self.kind} {name!r} is registered by both {found[name]} and {module}; rename one")
                    found[name] = module
        return found

    def _entry_points(self) -> tuple[dict[str, EntryPoint], list[str]]:
        """Map the names of third parties to their entry points, and say in words which ones cannot be used."""
        usable: dict[str, EntryPoint] = {}
        refused: list[str] = []
        for point in entry_points(group=self.package):
            if not NAME.match(point.name):
                refused.append(f"{self.kind} name must match {NAME.pattern}, got {point.name!r} from {point.value}; rename it")
            elif point.name in self._builtin or point.name in usable:
                other = self._builtin.get(point.name) or usable[point.name].value
                refused.append(f"{self.kind} {point.name!r} is provided by both {other} and {point.value}; uninstall or rename the second")
            else:
                usable[point.name] = point
        return usable, refused

    @property
    def _external(self) -> dict[str, EntryPoint]:
        return self._entry_points()[0]

    def refused(self) -> list[str]:
        """Return a sentence for each plugin of a third party that cannot be used under its name."""
        return self._entry_points()[1]

    def names(self) -> list[str]:
        """Return all names in order, without importing a plugin."""
        return sorted({*self._builtin, *self._external, *self._loaded})

    def get(self, name: str) -> Any:
        """Import and return the class or factory registered under ``name``.

        Raises:
            UnknownNameError: If there is none; the message suggests close names.
            PluginError: If its module cannot be imported.
        """
        if name not in self._loaded:
            self._import(name)
        return self._loaded[name]

    def _import(self, name: str) -> None:
        try:
            if name in self._builtin:
                importlib.import_module(self._builtin[name])
            elif name in self._external:
                self.register(name)(self._external[name].load())
        except XaibenchError:
            raise
        except ImportError as error:
            raise MissingExtraError(
                f"{self.kind} {name!r} needs {error.name or error}, which is not installed; see `xaibench doctor`"
            ) from error
        except (Exception, SystemExit) as error:  # a broken plugin must not take the others with it
            raise PluginError(f"{self.kind} {name!r} failed to load: {type(error).__name__}: {error}; mend or uninstall it") from error
        if name not in self._loaded:
            raise UnknownNameError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"available: {', '.join(self.names())}"
        return f"{self.kind} must be a registered name, got {name!r}; {hint}"

    def load(self, spec: str, **options: Any) -> Any:
        """Instantiate ``name`` or ``name:key=value,...``; unknown options are an error that lists the known ones."""
        name, parsed = parse_spec(spec)
        target = self.get(name)
        if "" in parsed:
            positional = getattr(target, "positional", "")
            if not positional:
                raise UnknownNameError(
                    f"option must be written key=value, got {parsed['']!r} in {spec!r}; example: gradient_shap:n_samples=20"
                )
            parsed[positional] = parsed.pop("")
        options = {**parsed, **options}
        if is_dataclass(target):
            known = {f.name: f for f in fields(target) if f.init}
            for key in options:
                if key not in known:
                    close = difflib.get_close_matches(key, known, n=1)
                    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
                    raise UnknownNameError(f"{self.kind} {name!r} must be given known options, got {key!r}; {hint}")
            options = {k: coerce(v, known[k].type, f"{name}:{k}") for k, v in options.items()}
        try:
            return target(**options)
        except TypeError as error:
            raise UnknownNameError(f"{self.kind} {name!r} must be given valid options, got {options!r}; {error}") from error


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split ``name:key=value,key=value`` into the name and its options; a bare first item (``captum:Saliency``) has the key "".

    Raises:
        UnknownNameError: If a later option has no ``=``.
    """
    name, _, rest = spec.partition(":")
    options: dict[str, str] = {}
    for position, item in enumerate(filter(None, rest.split(","))):
        key, sign, value = item.partition("=")
        if not sign and position == 0:
            key, value = "", key
        elif not sign:
            raise UnknownNameError(f"option must be written key=value, got {item!r} in {spec!r}; example: gradient_shap:n_samples=20")
        options[key.strip()] = value.strip()
    return name, options


def coerce(value: Any, annotation: Any, label: str) -> Any:
    """Turn a command-line string into the type of a dataclass field; other values pass untouched."""
    if not isinstance(value, str):
        return value
    kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    kind = kind.replace(" | None", "")
    try:
        if kind == "bool":
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        if kind == "int":
            return int(value)
        if kind == "float":
            return float(value)
    except (KeyError, ValueError) as error:
        raise UnknownNameError(
            f"option {label} must be a {kind}, got {value!r}; write for example {label}={'true' if kind == 'bool' else '1'}"
        ) from error
    parse = getattr(annotation, "parse", None)
    return parse(value) if parse else value


def _registered_names(path: Path) -> list[str]:
    """Read the names in ``@SOMETHING.register("name")`` decorators of a file without importing it."""
    text = path.read_text(encoding="utf-8")
    if ".register(" not in text:
        return []
    names = []
    for node in ast.parse(text).body:
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "register":
                names += [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return names


EXPLAINERS = Registry("explainer", "xaibench.explainers")
DETECTORS = Registry("detector", "xaibench.tasks.detectors")
TASKS = Registry("task", "xaibench.tasks.corpora")
VOCODERS = Registry("vocoder", "xaibench.tasks.vocoders")
METRICS = Registry("metric", "xaibench.benchmark.metrics")
EXECUTORS = Registry("executor", "xaibench.benchmark.executors")

REGISTRIES = {
    "explainers": EXPLAINERS,
    "detectors": DETECTORS,
    "tasks": TASKS,
    "vocoders": VOCODERS,
    "metrics": METRICS,
    "executors": EXECUTORS,
}
