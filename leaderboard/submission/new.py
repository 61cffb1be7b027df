"""Scaffolds: the project of an explainer, and a repository of results, ready to build and test as they come out."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template

from xaibench.errors import PluginError
from xaibench.registry import EXPLAINERS, NAME
from xaibench.tasks.cache import atomic_write

TEMPLATES = Path(__file__).parent / "scaffold"


def new_explainer(name: str, out: str | Path = ".") -> Path:
    """Write the project of an explainer: one file, an entry point, tests with the contract suite, a workflow, and a card to submit it.

    Args:
        name: Name of the explainer.
        out: Folder in which the project's folder is made.

    Returns:
        The project's folder.

    Raises:
        PluginError: If the name is no name, is taken, or would hide a module; or if the folder is there already.
    """
    if not NAME.match(name):
        raise PluginError(f"name must match {NAME.pattern}, got {name!r}; use lower-case letters, digits and _ . -")
    module = name.replace("-", "_").replace(".", "_")
    if not module.isidentifier():
        raise PluginError(f"name must begin with a letter, got {name!r}; put one before the digit")
    if name in EXPLAINERS.names():
        raise PluginError(f"name must be new, got {name!r}, which is an explainer; see `xaibench list explainers`")
    if module in sys.stdlib_module_names or importlib.util.find_spec(module) is not None:
        raise PluginError(f"name must not hide a module, got {name!r}; add a word to it")
    words = {"name": name, "module": module, "class_name": "".join(word.title() for word in module.split("_"))}
    files = {
        "pyproject.toml": "pyproject.toml",
        f"{module}.py": "explainer.py",
        "tests/test_contract.py": "test_contract.py",
        ".github/workflows/test.yml": "workflow.yml",
        "submission.toml": "submission.toml",
        "README.md": "README.md",
    }
    return _write(Path(out) / name, files, words)


def new_results(name: str, out: str | Path = ".") -> Path:
    """Write a repository of results: folders, the workflow that scores pull requests, and how to take part.

    Raises:
        PluginError: If the folder is there already.
    """
    files = {
        "README.md": "results.md",
        ".github/workflows/submissions.yml": "results.yml",
        "results/.gitkeep": "",
        "submissions/.gitkeep": "",
    }
    return _write(Path(out) / name, files, {"name": name})


def _write(folder: Path, files: Mapping[str, str], words: Mapping[str, str]) -> Path:
    if folder.exists():
        raise PluginError(f"folder must be new, got {folder}; choose another name or remove it")
    for name, template in files.items():
        text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8") if template else ""
        atomic_write(folder / name, Template(text).safe_substitute(words).encode())
    return folder
