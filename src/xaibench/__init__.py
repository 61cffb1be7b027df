"""xaibench: which explanation of an audio-deepfake detector can be trusted?"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from xaibench.registry import REGISTRIES, Registry

if TYPE_CHECKING:
    from xaibench.benchmark.run import run

__all__ = ["__version__", "list", "load", "run"]

try:
    __version__ = version("xaibench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

_list = list


def list(kind: str) -> _list[str]:
    """Return the names of all plugins of a kind (``"explainers"``, ``"detectors"``, ``"tasks"``, ...) without importing them."""
    return _registry(kind).names()


def load(kind: str, spec: str, **options: Any) -> Any:
    """Load a plugin: ``load("explainer", "gradient_shap", n_samples=20)`` or ``load("explainer", "gradient_shap:n_samples=20")``."""
    return _registry(kind).load(spec, **options)


def _registry(kind: str) -> Registry:
    plural = kind if kind in REGISTRIES else f"{kind}s"
    if plural not in REGISTRIES:
        raise ValueError(f"kind must be one of {', '.join(REGISTRIES)}, got {kind!r}; use for example 'explainers'")
    return REGISTRIES[plural]


def __getattr__(name: str) -> Any:
    if name == "run":
        from xaibench.benchmark.run import run

        return run
    raise AttributeError(f"module 'xaibench' has no attribute {name!r}")
