"""What explainers cost beside their own passes through the detector: ``python -m xaibench.explainers.bench``.

Every call of the detector that an explainer makes is written down, then the same calls are repeated bare: forwards of the same batches,
with a backward pass to the waveform where the explainer took one. The ratio of both is what the method itself adds. Times are of the
process (CPU seconds, one thread), in turns, so that other work on the machine weighs little.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from xaibench.registry import DETECTORS, EXPLAINERS
from xaibench.types import Detector, Explainer

LIMITS = {
    **dict.fromkeys(("saliency", "input_x_gradient", "grad_cam", "integrated_gradients", "gradient_shap", "deep_shap"), 1.3),
    "attn_lrp": 2.5,
}
"""Targets of the house: ratio to the explainer's own passes."""


@dataclass(frozen=True)
class Call:
    """One call of the detector."""

    clips: int
    differentiated: bool


@dataclass(frozen=True)
class Bill:
    """What an explanation took, in CPU seconds, and its bare passes."""

    explainer: str
    calls: tuple[Call, ...]
    seconds: float
    bare_seconds: float
    ratio: float
    """Median over rounds of explanation and bare passes."""

    def line(self) -> str:
        """Return one line of the table."""
        forwards = sum(call.clips for call in self.calls)
        backwards = sum(call.clips for call in self.calls if call.differentiated)
        limit = LIMITS.get(self.explainer.partition(":")[0])
        verdict = "" if limit is None else f"  at most {limit}: {'met' if self.ratio <= limit else 'MISSED'}"
        size = max(call.clips for call in self.calls)
        return (
            f"{self.explainer:24} {len(self.calls):5} {size:7} {forwards:9} {backwards:10} "
            f"{self.seconds:9.3f} {self.bare_seconds:9.3f} {self.ratio:6.2f}{verdict}"
        )


HEAD = f"{'explainer':24} {'calls':>5} {'largest':>7} {'forwards':>9} {'backwards':>10} {'CPU s':>9} {'bare s':>9} {'ratio':>6}"


def observed(detector: Detector, task: Callable[[], Any]) -> tuple[Call, ...]:
    """Return the calls of the detector that a task makes."""
    calls: list[Call] = []

    def note(_module: Any, _inputs: Any, output: Tensor) -> None:
        calls.append(Call(len(output), output.requires_grad))

    handle = detector.register_forward_hook(note)
    try:
        task()
    finally:
        handle.remove()
    return tuple(calls)


def repeat(detector: Detector, clip: Tensor, calls: Sequence[Call]) -> None:
    """Make the calls bare, on copies of one clip ``(1, T)``."""
    for call in calls:
        batch = clip.repeat(call.clips, 1).requires_grad_(call.differentiated)
        with torch.set_grad_enabled(call.differentiated):
            answer = detector.spoof_logit(batch)
        if call.differentiated:
            torch.autograd.grad(answer.sum(), batch)


def cpu_seconds(task: Callable[[], Any]) -> float:
    """Return the CPU time of one run."""
    start = time.process_time()
    task()
    return time.process_time() - start


def bill(explainer: Explainer, detector: Detector, label: str, repeats: int = 3, seed: int = 0) -> Bill:
    """Measure one explainer on one clip of the detector's length, in rounds of explanation and bare passes.

    Raises:
        NotApplicableError: If the explainer cannot explain this detector.
    """
    noise = torch.Generator().manual_seed(seed)
    clip, references = (0.1 * torch.randn(count, detector.input_samples, generator=noise) for count in (1, 20))
    given = {"references": references} if "references" in explainer.needs else {}

    def explain() -> None:
        explainer.explain(clip, detector, generator=[torch.Generator().manual_seed(0)], **given)

    calls = observed(detector, explain)
    rounds = [(cpu_seconds(explain), cpu_seconds(lambda: repeat(detector, clip, calls))) for _ in range(repeats)]
    whole, bare = zip(*rounds, strict=True)
    return Bill(label, calls, min(whole), min(bare), median(a / b for a, b in rounds))


def main() -> None:
    """Measure and write the table to the standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--explainer", action="append", help="specification; repeat for several; default: all with a target")
    parser.add_argument("--detector", default="aasist", help="specification of the detector")
    parser.add_argument("--weights", default="random", help="checkpoint; untrained nets take as long")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector: Detector = DETECTORS.load(options.detector, weights=options.weights).eval().requires_grad_(False)
    sys.stdout.write(f"one clip, {options.detector}, torch {torch.__version__}, one thread\n{HEAD}\n")
    for label in options.explainer or LIMITS:
        explainer: Explainer = EXPLAINERS.load(label)
        usable, reason = explainer.applicable(detector)
        line = bill(explainer, detector, label, options.repeats).line() if usable else f"{label:24} not applicable: {reason}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
