"""The rules that a detector keeps so that its explanations mean something."""

from collections.abc import Iterator

import torch
from torch import Tensor

from xaibench.benchmark.findings import TOLERANCE, Finding, example_clips
from xaibench.benchmark.untouched import changes, snapshot
from xaibench.types import Detector


def check_detector(detector: Detector, *, samples: Tensor | None = None) -> list[Finding]:
    """Try a detector on two clips and return the rules it breaks.

    Args:
        detector: The detector, in ``eval()``.
        samples: Two clips ``(2, T)``; synthetic ones by default.
    """
    findings = list(_construction(detector))
    clips = example_clips(detector.input_samples) if samples is None else samples
    try:
        for rules in (_answers, _gradient, _hidden_states, _on_cuda):
            for finding in rules(detector, clips):
                findings.append(finding)
    except Exception as error:  # whatever a plugin raises is a finding, not a crash of the check
        findings.append(Finding("forward must not raise", f"{type(error).__name__}: {error}"))
    return findings


def _construction(detector: Detector) -> Iterator[Finding]:
    """Check name, mode and modules."""
    if not detector.name:
        yield Finding("the class must be registered under a name", type(detector).__name__)
    if any(module.training for module in detector.modules()):
        yield Finding("a loaded detector must be in eval mode", f"{sum(m.training for m in detector.modules())} modules are not")
    inplace = sorted(name for name, module in detector.named_modules() if getattr(module, "inplace", False))
    if inplace:
        yield Finding("no module may work in place, which falsifies hooks", ", ".join(inplace))


def _answers(detector: Detector, clips: Tensor) -> Iterator[Finding]:
    """Check form, repeatability, independence of the batch, and what a forward pass leaves behind."""
    before, given = snapshot(detector), clips.clone()
    with torch.no_grad():
        batch = detector.spoof_logit(given)
        again = detector.spoof_logit(clips.clone())
        singles = torch.cat([detector.spoof_logit(clip[None].clone()).reshape(-1) for clip in clips])
        silence = detector.spoof_logit(torch.zeros_like(clips[:1]))
    if batch.shape != (len(clips),) or batch.dtype != torch.float32:
        yield Finding("log-odds must be float32 of shape (B,)", f"{batch.dtype} {tuple(batch.shape)} for {len(clips)} clips")
        return
    if not (batch.isfinite().all() and silence.isfinite().all()):
        yield Finding("log-odds must be finite, for silence too", f"{batch.tolist()}, silence {silence.tolist()}")
    if not torch.equal(batch, again):
        yield Finding("two calls must give equal bits", f"they differ by {(batch - again).abs().max().item():.1e}")
    distance = ((batch - singles).abs() / singles.abs().clamp(min=1)).max().item()
    if distance > TOLERANCE:
        yield Finding("a batch must equal its singles", f"log-odds differ by {distance:.1e}")
    if not torch.equal(given, clips):
        yield Finding("the waveform must not be changed", "it was written to")
    touched = changes(before, snapshot(detector))
    if touched:
        yield Finding("a forward pass must leave no trace", f"changed: {', '.join(touched)}")


def _gradient(detector: Detector, clips: Tensor) -> Iterator[Finding]:
    """Check that log-odds have a gradient by the waveform."""
    clip = clips[:1].clone().requires_grad_(True)
    with torch.enable_grad():
        logit = detector.spoof_logit(clip)
    if not logit.requires_grad:
        yield Finding("log-odds must be differentiable by the waveform", "no gradient reaches it")
        return
    (slope,) = torch.autograd.grad(logit.sum(), clip)
    if not slope.isfinite().all() or not slope.any():
        yield Finding("the gradient by the waveform must be finite and not zero", f"largest {slope.abs().max().item():.1e}")


def _hidden_states(detector: Detector, clips: Tensor) -> Iterator[Finding]:
    """Check the form of hidden states, where there are any."""
    try:
        with torch.no_grad():
            states = detector.hidden_states(clips)
    except NotImplementedError:
        return
    if states.ndim != 4 or states.shape[1] != len(clips):
        yield Finding("hidden states must have shape (L, B, N', D)", f"{tuple(states.shape)} for {len(clips)} clips")


def _on_cuda(detector: Detector, clips: Tensor) -> Iterator[Finding]:
    """Check that the detector answers alike on a GPU, where there is one."""
    if not torch.cuda.is_available():
        return
    with torch.no_grad():
        expected = detector.spoof_logit(clips)
        moved = detector.to("cuda").spoof_logit(clips.cuda()).cpu()
        detector.to(clips.device)
    if not torch.allclose(expected, moved, rtol=1e-2, atol=1e-2):
        yield Finding("CUDA must answer as the CPU does", f"log-odds differ by {(expected - moved).abs().max().item():.1e}")
