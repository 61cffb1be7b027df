"""The contract that explainers and detectors keep, as a test that anyone can run on their own.

``check_explainer(MyExplainer())`` and ``check_detector(MyDetector())`` return the broken rules; an empty list is a pass. The rules follow
scikit-learn's ``check_estimator``: each guards against a fault that was found in published code and that falsifies results silently.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from xaibench.benchmark.detector_rules import check_detector
from xaibench.benchmark.findings import TOLERANCE, Finding, example_clips, require
from xaibench.benchmark.untouched import changes, snapshot
from xaibench.errors import NotApplicableError
from xaibench.tasks.detectors.spectrogram_cnn import SpectrogramCNN, SpectrogramCNNConfig
from xaibench.tasks.spectrogram import DEFAULT_STFT
from xaibench.types import Detector, Explainer, Need, Polarity

__all__ = ["Finding", "check_detector", "check_explainer", "example_clips", "require"]

RANK_TOLERANCE = 0.01
"""Share of the top twentieth of cells that rounding may exchange between a batch and its singles."""


def check_explainer(explainer: Explainer, detector: Detector | None = None, *, samples: Tensor | None = None) -> list[Finding]:
    """Try an explainer on two clips and return the rules it breaks.

    Args:
        explainer: The explainer.
        detector: What to explain, in ``eval()``; by default an untrained ``spectrogram_cnn``.
        samples: Two clips ``(2, T)``; synthetic ones by default.

    Raises:
        NotApplicableError: If the explainer says that it cannot explain this detector.
    """
    detector = SpectrogramCNN("random", config=SpectrogramCNNConfig()) if detector is None else detector
    applicable, reason = explainer.applicable(detector)
    if not applicable:
        raise NotApplicableError(f"{explainer.name} must apply to {detector.name}, got: {reason}; check it with another detector")
    findings = list(_declarations(explainer))
    trial = _Trial(explainer, detector, example_clips(detector.input_samples) if samples is None else samples)
    try:
        for finding in _explanation_rules(trial):
            findings.append(finding)
    except Exception as error:  # whatever a plugin raises is a finding, not a crash of the check
        findings.append(Finding("explain must not raise", f"{type(error).__name__}: {error}"))
    return findings


def _declarations(explainer: Explainer) -> Iterator[Finding]:
    """Check what the class declares."""
    if explainer.polarity not in get_args(Polarity):
        yield Finding("polarity must be signed or magnitude", f"{explainer.polarity!r}")
    if unknown := set(explainer.needs) - set(get_args(Need)):
        yield Finding(f"needs must be a subset of {', '.join(get_args(Need))}", f"{sorted(unknown)}")
    if not type(explainer).__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield Finding("the class must be a frozen dataclass", type(explainer).__name__)
    try:
        json.dumps(explainer.config(), allow_nan=False)
    except (TypeError, ValueError) as error:
        yield Finding("fields must be plain JSON values, or be marked metadata={'config': False}", str(error))
    if not explainer.name:
        yield Finding("the class must be registered under a name", type(explainer).__name__)


class _Trial:
    """An explainer, a detector and two clips; runs explanations that are watched for what they touch."""

    def __init__(self, explainer: Explainer, detector: Detector, clips: Tensor) -> None:
        self.explainer, self.detector, self.clips = explainer, detector, clips
        stft = getattr(explainer, "stft", DEFAULT_STFT)
        self.grid = (stft.bins, stft.frames(clips.shape[-1]))
        self.references = example_clips(clips.shape[-1], 6)[2:].to(clips)

    def __call__(self, clips: Tensor, seeds: Sequence[int] = (0, 1)) -> Tensor:
        """Explain clips, one seed each; only what the explainer declares to need is handed over."""
        references = self.references if "references" in self.explainer.needs else None
        references = self.references[:1] if self.explainer.oracle else references
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[: len(clips)]]
        return self.explainer.explain(clips.clone(), self.detector, references=references, generator=generators)


def _explanation_rules(trial: _Trial) -> Iterator[Finding]:
    """Run all rules that need explanations; the first one that leaves nothing to compare ends the check."""
    clips, before = trial.clips, snapshot(trial.detector)
    yield from _inputs_survive(trial)
    batch = trial(clips)
    touched = changes(before, snapshot(trial.detector))
    if touched:
        yield Finding("detector and random states must be left as they were", f"changed: {', '.join(touched)}")
    malformed = list(_form(batch, trial, len(clips), "a batch of two"))
    yield from malformed
    if malformed:
        return
    first, second = trial(clips[:1]), trial(clips[1:], seeds=(1,))
    yield from _same(batch, torch.cat([first, second]))
    if not torch.equal(first, trial(clips[:1])):
        yield Finding("the same seed must give the same bits", _distance(first, trial(clips[:1])))
    if trial.explainer.deterministic and not torch.equal(first, other := trial(clips[:1], seeds=(99,))):
        yield Finding("deterministic must be False where the seed matters", _distance(first, other))
    yield from _form(trial(torch.zeros_like(clips[:1])), trial, 1, "digital silence")
    yield from _needs(trial, first)
    if torch.cuda.is_available():
        yield from _on_cuda(trial)


def _form(heatmap: Any, trial: _Trial, count: int, clip: str) -> Iterator[Finding]:
    """Check shape, type and values of a heatmap."""
    if not isinstance(heatmap, Tensor) or heatmap.shape != (count, *trial.grid):
        yield Finding(
            "the heatmap must have shape (B, F, N)", f"{getattr(heatmap, 'shape', type(heatmap))} for {clip}, not {(count, *trial.grid)}"
        )
        return
    if heatmap.dtype != torch.float32:
        yield Finding("the heatmap must be float32", f"{heatmap.dtype} for {clip}")
    if heatmap.requires_grad:
        yield Finding("the heatmap must be detached", f"requires_grad is set for {clip}")
    if heatmap.device != trial.clips.device:
        yield Finding("the heatmap must be on the waveform's device", f"{heatmap.device} for {clip} on {trial.clips.device}")
    if not heatmap.isfinite().all():
        yield Finding("the heatmap must be finite", f"{int((~heatmap.isfinite()).sum())} cells are not, for {clip}")


def _same(batch: Tensor, singles: Tensor) -> Iterator[Finding]:
    """Check that a batch equals its singles, in value and in ranking."""
    scale = singles.abs().amax(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    distance = ((batch - singles).abs().amax(dim=(1, 2)) / scale).max().item()
    if distance > TOLERANCE:
        yield Finding("a batch must equal its singles", f"they differ by {distance:.1e} of the largest value")
        return
    top = max(1, singles[0].numel() // 20)
    for one, other in zip(batch.flatten(1), singles.flatten(1), strict=True):
        moved = top - len(set(one.topk(top).indices.tolist()) & set(other.topk(top).indices.tolist()))
        if moved > RANK_TOLERANCE * top:
            yield Finding("a batch must rank cells as its singles do", f"{moved} of the top {top} cells differ")


def _inputs_survive(trial: _Trial) -> Iterator[Finding]:
    """Check that waveform and references are not written to."""
    explainer, clip = trial.explainer, trial.clips[:1].clone()
    given = trial.references[:1].clone() if explainer.oracle else trial.references.clone() if "references" in explainer.needs else None
    kept = None if given is None else given.clone()
    explainer.explain(clip, trial.detector, references=given, generator=[torch.Generator().manual_seed(0)])
    if not torch.equal(clip, trial.clips[:1]) or clip.requires_grad:
        yield Finding("the waveform must not be changed", "it was written to or made to require gradients")
    if given is not None and kept is not None and not torch.equal(given, kept):
        yield Finding("the references must not be changed", "they were written to")


def _needs(trial: _Trial, expected: Tensor) -> Iterator[Finding]:
    """Check that what is used is declared: calls of the detector, and gradients through it."""
    needs, calls = set(trial.explainer.needs), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    with _removed_after(trial.detector.register_forward_pre_hook(count)):
        trial(trial.clips[:1])
    if calls and not needs & {"gradients", "logits"}:
        yield Finding("needs must contain 'logits' or 'gradients' where the detector is called", f"{calls} calls, needs {sorted(needs)}")
    if calls and "gradients" not in needs:
        with _removed_after(trial.detector.register_forward_hook(lambda _module, _inputs, output: output.detach())):
            try:
                differs = not torch.equal(trial(trial.clips[:1]), expected)
            except Exception:
                differs = True
        if differs:
            yield Finding(
                "needs must contain 'gradients' where they are used",
                f"a detector without gradients changes the result; needs {sorted(needs)}",
            )


@contextmanager
def _removed_after(handle: RemovableHandle) -> Iterator[None]:
    """Keep a hook for the length of a block."""
    try:
        yield
    finally:
        handle.remove()


def _on_cuda(trial: _Trial) -> Iterator[Finding]:
    """Check that the explainer works where waveform and detector lie on a GPU."""
    home = trial.clips.device
    try:
        trial.detector.to("cuda")
        trial.clips, trial.references = trial.clips.cuda(), trial.references.cuda()
        yield from _form(trial(trial.clips[:1]), trial, 1, "a clip on CUDA")
    except Exception as error:
        yield Finding("CUDA must work where present", f"{type(error).__name__}: {error}")
    finally:
        trial.detector.to(home)
        trial.clips, trial.references = trial.clips.to(home), trial.references.to(home)


def _distance(one: Tensor, other: Tensor) -> str:
    return f"maps differ by up to {(one - other).abs().max().item():.1e}"
