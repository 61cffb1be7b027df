"""Any attribution class of captum in one line: ``captum:method=IntegratedGradients`` (Kokhlikyan et al. 2020, arXiv:2009.07896).

captum sees the detector as a function of the log-magnitude spectrogram (``RawWrapper``) and one clip at a time. Perturbation methods
work on tiles of the grid and within a budget of forward passes. captum draws from the global random generators of torch, NumPy and
Python: they are seeded from the clip's own generator and put back afterwards.
"""

import ast
import difflib
import inspect
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from xaibench.errors import NotApplicableError, UnknownNameError
from xaibench.explainers.baselines import BaselineName, baselines, check_baseline
from xaibench.explainers.randomness import private_randomness
from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.registry import EXPLAINERS
from xaibench.tasks.spectrogram import DEFAULT_STFT, STFTConfig
from xaibench.types import Detector, Explainer, Generators, clip_generators

DISTRIBUTIONS = frozenset({"DeepLiftShap", "GradientShap"})
"""Classes that average over many baselines."""


@EXPLAINERS.register("captum")
@dataclass(frozen=True)
class CaptumAdapter(Explainer):
    """A captum class by its name, on the log-magnitude spectrogram; those that sample take at most 512 forward passes (``budget``)."""

    reference = "Kokhlikyan et al. 2020, arXiv:2009.07896"
    polarity = "signed"
    needs = frozenset({"gradients", "references"})
    deterministic = False
    positional: ClassVar[str] = "method"
    """The field that a command-line option without a name sets: ``captum:Occlusion``."""
    method: str = "Saliency"
    """Class in ``captum.attr`` that attributes to the input; those of layers, neurons and language models do not."""
    options: str = ""
    """Further arguments of its ``attribute``, as ``name=value;name=value``."""
    baseline: BaselineName = "mean"
    """For classes that have one; DeepLiftShap and GradientShap average over the references themselves."""
    bands: int = 8
    segments: int = 8
    """Tiles that perturbation methods switch, in frequency and in time."""
    budget: int = 512
    """Most forward passes of methods that sample."""
    chunk_size: int = 8
    stft: STFTConfig = DEFAULT_STFT

    def __post_init__(self) -> None:
        """Refuse classes that captum does not have and settings without meaning."""
        attribution_class(self.method)
        check_baseline(self.baseline)
        parse_options(self.options)
        if min(self.bands, self.segments, self.budget, self.chunk_size) < 1:
            got = f"{self.bands}, {self.segments}, {self.budget} and {self.chunk_size}"
            raise ValueError(f"bands, segments, budget and chunk_size must be at least 1, got {got}; use for example 8, 8, 512 and 8")

    def explain(self, waveform: Tensor, detector: Detector, *, references: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Return captum's attributions, (B, F, N).

        Raises:
            NotApplicableError: If captum's method fails on this detector; the message holds its reason.
        """
        wrapper = RawWrapper(detector, self.stft, waveform.shape[-1])
        ends, phases = wrapper.split(waveform.detach())
        maps = [
            self._one(wrapper, end[None], phase[None], references, source)
            for end, phase, source in zip(ends, phases, clip_generators(generator, len(waveform)), strict=True)
        ]
        return torch.cat(maps)

    def _one(self, wrapper: RawWrapper, end: Tensor, phase: Tensor, references: Tensor | None, source: torch.Generator) -> Tensor:
        target = attribution_class(self.method)
        known = inspect.signature(target.attribute).parameters
        arguments = self._arguments(end.shape[1:], target) | parse_options(self.options)
        if "baselines" in known:
            name: BaselineName = "references" if self.method in DISTRIBUTIONS and self.baseline == "mean" else self.baseline
            arguments["baselines"] = baselines(name, wrapper, references).to(end)
        for name_, value in arguments.items():
            arguments[name_] = value.to(end.device) if isinstance(value, Tensor) else value
        with warnings.catch_warnings(), private_randomness(source):
            warnings.simplefilter("ignore")  # captum announces its hooks and its defaults
            try:
                out: Tensor = target(wrapper).attribute(end.clone().requires_grad_(True), additional_forward_args=(phase,), **arguments)
            except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
                raise NotApplicableError(
                    f"captum's {self.method} must be able to explain {wrapper.detector.name}, got {type(error).__name__}: {error}; "
                    "choose another method or other options"
                ) from error
        return out.detach().float().nan_to_num(0, 0, 0)

    def _arguments(self, grid: torch.Size, target: Any) -> dict[str, Any]:
        """Return defaults for those arguments that the class knows."""
        height, width = -(-grid[0] // self.bands), -(-grid[1] // self.segments)
        tiles = (torch.arange(grid[0]) // height)[:, None] * self.segments + torch.arange(grid[1]) // width
        tiles = torch.unique(tiles, return_inverse=True)[1][None]
        known = inspect.signature(target.attribute).parameters
        per_sample = int(tiles.max()) + 2 if self.method == "ShapleyValueSampling" else 1
        defaults = {
            "feature_mask": tiles,
            "sliding_window_shapes": (height, width),
            "strides": (height, width),
            "perturbations_per_eval": self.chunk_size,
            "internal_batch_size": self.chunk_size,
            "n_steps": 20,
            "n_samples": max(1, self.budget // per_sample) if "feature_mask" in known else 20,
        }
        return {name: value for name, value in defaults.items() if name in known}


def attribution_class(name: str) -> Any:
    """Return a captum class that attributes to the input.

    Raises:
        UnknownNameError: If there is none of this name, or it needs more than the detector.
    """
    import captum.attr

    usable = [n for n in dir(captum.attr) if _explains_inputs(getattr(captum.attr, n))]
    if name in usable:
        return getattr(captum.attr, name)
    close = difflib.get_close_matches(name, usable, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"available: {', '.join(usable)}"
    raise UnknownNameError(f"method must be a captum class that attributes to the input, got {name!r}; {hint}")


def _explains_inputs(target: Any) -> bool:
    """Tell whether a class is built from the model alone and then attributes to inputs of a batch of one."""
    if not inspect.isclass(target) or not callable(getattr(target, "attribute", None)):
        return False
    first, *others = list(inspect.signature(target.__init__).parameters.values())[1:]
    alone = first.name in ("model", "forward_func") and all(p.default is not inspect.Parameter.empty for p in others)
    return alone and target.__name__ not in ("FeaturePermutation", "LimeBase", "ShapleyValues")


def parse_options(text: str) -> dict[str, Any]:
    """Read ``name=value;name=value`` with Python literals; anything else counts as text.

    Raises:
        ValueError: If an option has no ``=``.
    """
    options = {}
    for item in filter(None, text.split(";")):
        name, sign, value = item.partition("=")
        if not sign:
            raise ValueError(f"options must be written name=value;name=value, got {item!r}; use for example n_steps=50")
        try:
            options[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            options[name.strip()] = value.strip()
    return options
