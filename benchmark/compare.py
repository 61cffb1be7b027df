"""Two runs side by side: paired differences with intervals, wins and losses by clip, the worst clips, and vocoder by vocoder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from xaibench.benchmark.finish import directions
from xaibench.benchmark.measured import Measured, Place
from xaibench.benchmark.statistics import Interval, holm, paired_difference
from xaibench.benchmark.suite import Suite
from xaibench.benchmark.units import ClipRef
from xaibench.errors import NotComparableError, NothingMeasuredError

WORST = 20
COSTS = ("forwards", "backwards")
"""Counted metrics: exact, repeatable, and better when lower."""


@dataclass(frozen=True)
class Difference:
    """One explainer and metric in both runs; differences are b minus a, on the clips where both have a value."""

    place: Place
    mean_a: float
    mean_b: float
    interval: Interval
    """Of the mean difference over clusters, with its two-sided p."""
    p_holm: float
    """p corrected over all rows of the comparison."""
    wins: int
    """Clips on which b is better; where no direction is known, higher."""
    losses: int
    ties: int
    only_a: int
    """Clips with a value in a alone."""
    only_b: int
    clusters: str


@dataclass(frozen=True)
class ClipDifference:
    """One clip of one row."""

    place: Place
    clip: ClipRef
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """What two runs say of each other."""

    a: str
    b: str
    rows: tuple[Difference, ...]
    worst: tuple[ClipDifference, ...]
    """Clips on which b lost most, worst first."""
    vocoders: Mapping[Place, Mapping[str, Interval]]
    """Mean difference by vocoder."""
    missing: tuple[Place, ...]
    """Places that a alone has."""
    new: tuple[Place, ...]


@cache  # asked for every clip, and listing the plugins takes milliseconds
def sign_of(metric: str) -> int:
    """Return 1 where higher is better, -1 where lower is, 0 where explainers do not compete in the metric."""
    if metric in COSTS:
        return -1
    known = directions()
    return 0 if metric not in known else 1 if known[metric] else -1


def check_comparable(a: Measured, b: Measured) -> None:
    """Refuse to compare runs that answer different questions.

    Raises:
        NotComparableError: Naming everything that differs.
    """
    differing = list(_differing(a.protocol, b.protocol))
    if differing:
        raise NotComparableError(
            f"runs must answer the same question, got another {', another '.join(differing)} in {b.source} than in {a.source}; "
            f"run both under one protocol, or freeze a new baseline"
        )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[str]:
    for name in ("suite", "tier", "device"):
        if a.get(name) != b.get(name):
            yield f"{name} ({a.get(name)} and {b.get(name)})"
    if a.get("suite") == b.get("suite") and a.get("suite_sha256") != b.get("suite_sha256"):
        yield f"protocol under the name {a.get('suite')}"
    if not set(a.get("tasks", {})) & set(b.get("tasks", {})):
        yield f"set of tasks ({', '.join(a.get('tasks', {}))} and {', '.join(b.get('tasks', {}))})"
    for kind, word in (("tasks", "content of task"), ("detectors", "detector for"), ("curves", "budget of curves for")):
        known, now = a.get(kind, {}), b.get(kind, {})
        yield from (f"{word} {name}" for name in sorted(known.keys() & now.keys()) if known[name] != now[name])


def compare(
    a: Measured, b: Measured, wanted: Callable[[Place], bool] = lambda _: True, *, rename: tuple[str, str] | None = None, worst: int = WORST
) -> Comparison:
    """Compare two runs at all places that both have.

    Args:
        a: The run before.
        b: The run after.
        wanted: Which places to compare.
        rename: Two labels: this explainer of a is compared with that one of b, and no other.
        worst: Clips to list.

    Raises:
        NotComparableError: If they answer different questions.
        NothingMeasuredError: If no clip has a value in both.
    """
    check_comparable(a, b)
    if rename:
        a, b = _only(a, rename[0], rename[1]), _only(b, rename[1], rename[1])
    mine, theirs = ({place for place in run.series if wanted(place)} for run in (a, b))
    shared = [place for place in sorted(mine & theirs) if common(a, b, place)]
    if not shared:
        raise NothingMeasuredError(f"runs must share a clip with values, got none in {a.source} and {b.source}; see `xaibench report`")
    rows = [_difference(a, b, place) for place in shared]
    corrected = holm([row.interval.p for row in rows])
    clips = [
        ClipDifference(place, a.clips[place.task, pair], x, y) for place in shared for pair, (x, y) in common(a, b, place).items() if x != y
    ]
    clips.sort(key=lambda c: (_gain(c.place, c.a, c.b), c.place, c.clip.pair))
    return Comparison(
        a.source,
        b.source,
        tuple(replace(row, p_holm=float(p)) for row, p in zip(rows, corrected, strict=True)),
        tuple(c for c in clips[:worst] if _gain(c.place, c.a, c.b) < 0),
        {place: _by_vocoder(a, b, place) for place in shared},
        tuple(sorted(mine - theirs)),
        tuple(sorted(theirs - mine)),
    )


def _only(run: Measured, label: str, name: str) -> Measured:
    """Return a run with one explainer alone, under another name."""
    series = {place._replace(explainer=name): found for place, found in run.series.items() if place.explainer == label}
    return replace(run, series=series)


def common(a: Measured, b: Measured, place: Place) -> dict[str, tuple[float, float]]:
    """Return the clips on which both runs have a value, with both values."""
    before, after = a.series[place].defined, b.series[place].defined
    return {pair: (value, after[pair]) for pair, value in before.items() if pair in after}


def _gain(place: Place, a: float, b: float) -> float:
    return (sign_of(place.metric) or 1) * (b - a)


def paired(a: Measured, place: Place, both: Mapping[str, tuple[float, float]]) -> tuple[Interval, str]:
    """Return the interval of b minus a over clusters, and which clusters: speakers if there are enough of them, else utterances."""
    refs = [a.clips[place.task, pair] for pair in both]
    by = "speaker" if len({ref.speaker for ref in refs}) >= Suite("").min_speakers else "utterance"
    after, before = [y for _, y in both.values()], [x for x, _ in both.values()]
    return paired_difference(after, before, [getattr(ref, by) for ref in refs]), by


def _difference(a: Measured, b: Measured, place: Place) -> Difference:
    both = common(a, b, place)
    interval, by = paired(a, place, both)
    gains = np.array([_gain(place, x, y) for x, y in both.values()])
    before, after = a.series[place].defined, b.series[place].defined
    return Difference(
        place,
        float(np.mean([x for x, _ in both.values()])),
        float(np.mean([y for _, y in both.values()])),
        interval,
        float("nan"),
        int((gains > 0).sum()),
        int((gains < 0).sum()),
        int((gains == 0).sum()),
        len(before.keys() - after.keys()),
        len(after.keys() - before.keys()),
        by,
    )


def _by_vocoder(a: Measured, b: Measured, place: Place) -> dict[str, Interval]:
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    for pair, values in common(a, b, place).items():
        groups.setdefault(a.clips[place.task, pair].vocoder, {})[pair] = values
    return {vocoder: paired(a, place, both)[0] for vocoder, both in sorted(groups.items())}


def labels(runs: Sequence[Measured]) -> list[str]:
    """Return the explainers that any of the runs holds."""
    return sorted({place.explainer for run in runs for place in run.series})
