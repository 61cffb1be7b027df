"""``summary.json``: what a table shows, and nothing that depends on the machine or the clock."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from xaibench.benchmark.given import Origin

SUMMARY_SCHEMA = 1
PRIMARY = ("generalized_dice", "time_auroc", "srg")
"""The score that leads a table is the first of these that its task has: with twins, with labels in time, with nothing but the detector."""


def leading(metrics: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the score that leads each task, from pairs of task and metric; tasks without one are left out."""
    known: dict[str, set[str]] = {}
    for task, metric in metrics:
        known.setdefault(task, set()).add(metric)
    return {task: next(name for name in PRIMARY if name in names) for task, names in known.items() if names.intersection(PRIMARY)}


class SummaryRow(BaseModel):
    """The mean of one metric for one explainer on one slice of the clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    detector: str
    explainer: str
    title: str
    control: bool
    oracle: bool
    recipe: str
    polarity: str
    occluder: str
    metric: str
    slice: str
    mean: float | None
    low: float | None
    """Official interval, over the clusters that ``interval_by`` names."""
    high: float | None
    n: int
    """Clips with a value, imputed ones included."""
    n_total: int
    """Clips for which the protocol asked for a value."""
    n_undefined: int
    n_failed: int
    """Clips whose explanation failed and took the lowest control."""
    clusters_utterance: int
    clusters_speaker: int
    interval_by: str
    utterance_low: float | None
    utterance_high: float | None
    speaker_low: float | None
    speaker_high: float | None
    tier: int | None
    beats_best_control: bool | None
    """Whether the row is better than every control that is no oracle: each paired interval of the difference lies on the good side of zero,
    and the largest p over controls, corrected by Holm over the explainers of the place, is below 0.05. Null where rows do not compete."""
    note: str
    detectable: float | None = None
    """Smallest true difference from the best control that these clips would show with power .8 (two-sided t-test at .05)."""
    without_vocoder_low: float | None = None
    """Least mean with one vocoder left out; in slice "all" of the metrics that are told by vocoder."""
    without_vocoder_high: float | None = None


class CausalRow(BaseModel):
    """What the causal truths of a task and detector are worth, in one domain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str
    n_clips: int
    """Clips on which the truth was measured, refused ones included."""
    n_refused: int
    reasons: dict[str, int]
    """Why clips were refused, and how many."""
    split_half: float | None
    """Median over clips of the rank correlation between two halves of the permutations."""
    n_unsteady: int
    """Clips that count although their split-half correlation is under .9."""
    null_shift: float | None
    """Mean of the null control, as a share of the gap."""
    n_null_failed: int
    """Clips that count although their null control moves the log-odds by 5 % of the gap or more."""


class DetectorRow(BaseModel):
    """What the run saw of a detector on a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    detector: str
    fingerprint: str
    n_clips: int
    n_gated: int
    """Clips whose twins differ by at least ``gap_gate``; only these enter scores that depend on the detector."""
    gap_gate: float
    min_clips: int
    median_gap: float | None
    """Over the twins, or over the median reference where the corpus has no twins."""
    pair_accuracy: float | None
    """Share of clips where the spoof scores above its twin."""
    auc: float | None
    """Probability that a spoof scores above any bona fide clip of the run."""
    slow: bool
    curve_clips: int
    curve_steps: int
    occluders: tuple[str, ...]
    causal: tuple[CausalRow, ...] = ()


class Summary(BaseModel):
    """The summary of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SUMMARY_SCHEMA
    run: str
    suite: str
    suite_sha256: str = ""
    """Hash of the protocol; boards compare only under equal ones."""
    tier: str
    tasks: tuple[dict[str, Any], ...]
    detectors: tuple[DetectorRow, ...]
    rows: tuple[SummaryRow, ...]
    n_units: int
    n_by_status: dict[str, int]
    origins: dict[str, Origin] = {}
    """Where the explanations of submitted rows come from, by explainer; the harness made all others."""
