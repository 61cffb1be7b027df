"""Hash the code behind a plugin: its module and every xaibench module that it imports, so that a changed method is a changed key."""

import ast
import importlib.util
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from xaibench.types import content_hash

STATIONS = ("xaibench.tasks", "xaibench.explainers", "xaibench.benchmark")


def source_hash(target: Any) -> str:
    """Hash the source of a class, function or module and of what it imports from the stations; never its path or time.

    Code without a file (a notebook cell) is known by its name alone: change ``version`` when it changes.
    """
    if isinstance(target, str):
        return _closure_hash(target, "")
    return _closure_hash(target.__module__, getattr(target, "__qualname__", ""))


@cache
def _closure_hash(module: str, name: str) -> str:
    """Hash once per process: what was imported is what runs, whatever happens to the files meanwhile."""
    start = _module_file(module)
    if start is None:
        return content_hash({"module": module, "name": name})
    files = {module: start}
    waiting = [module]
    while waiting:
        for found in _imports(files[waiting.pop()]):
            if found not in files and (path := _module_file(found)) is not None:
                files[found] = path
                waiting.append(found)
    return content_hash({name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()})


@lru_cache(maxsize=512)
def _module_file(module: str) -> Path | None:
    """Find a module's file without running it (its parent packages are imported)."""
    import sys

    loaded = sys.modules.get(module)
    name = getattr(loaded, "__file__", None)
    if name is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # a name inside a module, or __main__ of a notebook
            return None
        name = spec.origin if spec else None
    return Path(name) if name and name.endswith(".py") and Path(name).is_file() else None


@lru_cache(maxsize=512)
def _imports(path: Path) -> tuple[str, ...]:
    """Return the station modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return tuple(sorted(name for name in found if name.startswith(STATIONS)))
