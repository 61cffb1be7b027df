"""Baselines: what a path attribution compares a clip with, each a log-magnitude spectrogram heard with the clip's own phase.

``references``   recordings of other speakers: real speech, so that the path leads from *bona fide* to the clip.
``mean``         the references' mean log-magnitude by frequency, the same in every frame.
``silence``      every cell at ln 1e-5. A detector may call silence very spoof; then the attributions explain the wrong direction.
``zero_logmag``  log-magnitude zero, that is magnitude one in every cell: loud (about -26 dBFS), as in the published GradientSHAP code.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from xaibench.explainers.raw_wrapper import RawWrapper
from xaibench.tasks.spectrogram import log_magnitude
from xaibench.types import Detector

BaselineName = Literal["references", "mean", "silence", "zero_logmag"]
SILENCE = math.log(1e-5)


def check_baseline(name: str) -> None:
    """Refuse the name of a baseline that does not exist.

    Raises:
        ValueError: If unknown.
    """
    if name not in get_args(BaselineName):
        raise ValueError(f"baseline must be one of {', '.join(get_args(BaselineName))}, got {name!r}; use for example baseline=references")


def baselines(name: BaselineName, wrapper: RawWrapper, references: Tensor | None) -> Tensor:
    """Return the baselines of one clip as log-magnitudes, ``(R, F, N)``; R is 1 except for ``references``.

    Args:
        name: Kind of baseline.
        wrapper: Holds grid and length.
        references: Bona fide recordings, ``(R, T)``; needed by ``references`` and ``mean``.

    Raises:
        ValueError: If references are needed and missing, or of another length than the clip.
    """
    grid = (1, wrapper.stft.bins, wrapper.stft.frames(wrapper.samples))
    if name in ("silence", "zero_logmag"):
        return torch.full(grid, SILENCE if name == "silence" else 0.0)
    if references is None or references.ndim != 2 or references.shape[1] != wrapper.samples or len(references) == 0:
        got = "none" if references is None else f"shape {tuple(references.shape)}"
        raise ValueError(f"references must be recordings of shape (R, {wrapper.samples}), got {got}; give some, or choose baseline=silence")
    levels = log_magnitude(references, wrapper.stft)
    return levels if name == "references" else levels.mean(dim=(0, 2))[None, :, None].expand(grid)


def completeness(heatmap: Tensor, residual: Tensor) -> dict[str, float]:
    """Return the diagnostics of a map that shares out a change of log-odds: the residual, and its share of the change in per cent."""
    missed, change = float(residual.sum()), float((heatmap.sum(dim=(1, 2)) - residual).sum())
    return {"completeness_residual": missed, "completeness_error_percent": 100 * abs(missed / change) if change else math.nan}


def completeness_residual(heatmap: Tensor, waveform: Tensor, detector: Detector, wrapper: RawWrapper, start: Tensor) -> Tensor:
    """Return by how much attributions miss the change of log-odds that they share out, ``(B,)`` (Sundararajan et al. 2017, Prop. 1).

    Args:
        heatmap: Attributions, ``(B, F, N)``.
        waveform: Explained clips, ``(B, T)``.
        detector: The explained detector.
        wrapper: Grid and length of the explanation.
        start: Baselines, ``(R, F, N)``; their mean log-odds counts.
    """
    with torch.no_grad():
        _, phases = wrapper.split(waveform)
        before = [torch.cat([wrapper(b[None].to(phase), phase[None]) for b in start]).mean() for phase in phases]
        return heatmap.sum(dim=(1, 2)) - (detector.spoof_logit(waveform) - torch.stack(before))
