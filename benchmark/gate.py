"""The gate: is a run at least as good as its baseline? Worse, not measured and not comparable are three answers with three exit codes.

A place is a task, detector, explainer and metric. What the baseline has and the run lacks has vanished, and that fails by default: a gate
that measured nothing must not say that all is well. Time is gated by counts of forwards and backwards; wall time only advises.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from xaibench.benchmark.compare import check_comparable, common, paired, sign_of
from xaibench.benchmark.measured import Measured, Place
from xaibench.benchmark.rules import Rule, Rules
from xaibench.errors import ExitCode

Answer = Literal["held", "better", "worse", "missing", "unmeasured", "few", "new"]
FAILING: frozenset[Answer] = frozenset({"worse", "missing", "unmeasured"})


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one place."""

    place: Place
    answer: Answer
    text: str
    before: float | None = None
    after: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the gate fails by it."""
        return self.answer in FAILING


@dataclass(frozen=True)
class Gate:
    """All verdicts, the failing ones first, and advice that fails nothing."""

    baseline: str
    run: str
    verdicts: tuple[Verdict, ...]
    advice: tuple[str, ...] = ()

    def count(self, answer: Answer) -> int:
        """Return how many places got an answer."""
        return sum(verdict.answer == answer for verdict in self.verdicts)

    @property
    def exit_code(self) -> ExitCode:
        """4 if anything is worse, else 5 if anything vanished or nothing at all was compared, else 0."""
        if self.count("worse"):
            return ExitCode.REGRESSION
        compared = self.count("held") + self.count("better")
        return ExitCode.OK if compared and not any(verdict.failed for verdict in self.verdicts) else ExitCode.NOTHING_MEASURED


def gate(baseline: Measured, run: Measured, rules: Rules) -> Gate:
    """Judge a run by its baseline.

    Raises:
        NotComparableError: If they answer different questions.
    """
    check_comparable(baseline, run)
    verdicts = [
        verdict
        for place in sorted({*baseline.series, *run.series})
        if (rule := rules.of(place))
        for verdict in _judge(baseline, run, place, rule, rules)
    ]
    order: tuple[Answer, ...] = ("worse", "missing", "unmeasured", "better", "held", "few", "new")
    verdicts.sort(key=lambda verdict: (order.index(verdict.answer), verdict.place))
    return Gate(baseline.source, run.source, tuple(verdicts), tuple(_advice(baseline, run, rules)))


def _judge(baseline: Measured, run: Measured, place: Place, rule: Rule, rules: Rules) -> Iterator[Verdict]:
    if place not in baseline.series:
        yield Verdict(place, "new", "has no baseline yet")
        return
    tolerant = (rule.missing or rules.missing) == "allow"
    before = baseline.series[place]
    if place not in run.series:
        if not tolerant:
            yield Verdict(place, "missing", "vanished: the run does not hold it")
        return
    after = run.series[place]
    lost = sorted(before.defined.keys() - after.defined.keys())
    if lost and not tolerant:
        gone = "not in the run" if lost[0] not in after.values else "without a value in the run"
        yield Verdict(place, "missing", f"{len(lost)} of {len(before.defined)} clips are {gone}, such as {lost[0]}")
    if before.defined or after.defined:  # undefined in both is an answer that held
        yield _measured(baseline, run, place, rule)


def _measured(baseline: Measured, run: Measured, place: Place, rule: Rule) -> Verdict:
    both = common(baseline, run, place)
    if (known := len(baseline.series[place].defined)) < rule.min_n:  # never gated by this rule, so nothing was lost
        return Verdict(place, "few", f"{known} clips with values in the baseline, the rule asks for {rule.min_n}")
    if len(both) < rule.min_n:
        return Verdict(place, "unmeasured", f"{len(both)} clips with values in both, the rule asks for {rule.min_n}")
    if rule.by == "clip":
        return _by_clip(baseline, run, place, rule)
    interval, by = paired(baseline, place, both)
    before = math.fsum(x for x, _ in both.values()) / len(both)
    after = math.fsum(y for _, y in both.values()) / len(both)
    room = max(rule.abs + rule.rel * abs(before), baseline.series[place].tolerance)
    told = f"{_number(before)} to {_number(after)} on {len(both)} clips, {interval.mean:+.4g} by {by}"
    loss, gain = _loss(rule, place, interval.mean), _loss(rule, place, -interval.mean)
    sure = rule.alpha is None or (not math.isnan(interval.p) and interval.p < rule.alpha)
    if rule.alpha is not None:
        told += f" (p {interval.p:.3g})"
    told += _failures(baseline, run, place)
    if loss > room and sure:
        return Verdict(place, "worse", f"{told}; up to {room:.3g} is tolerated", before, after)
    return Verdict(place, "better" if gain > room and sure and rule.direction != "either" else "held", told, before, after)


def _by_clip(baseline: Measured, run: Measured, place: Place, rule: Rule) -> Verdict:
    """Judge every clip by itself; the one that lost most stands for all."""
    both = common(baseline, run, place)
    excess = {
        pair: _loss(rule, place, y - x) - max(rule.abs + rule.rel * abs(x), baseline.series[place].tolerance)
        for pair, (x, y) in both.items()
    }
    pair = max(excess, key=lambda name: (excess[name], name))
    before, after = both[pair]
    if excess[pair] > 0:
        count = sum(value > 0 for value in excess.values())
        text = f"{count} of {len(both)} clips, most {pair}: {_number(before)} to {_number(after)}{_failures(baseline, run, place)}"
        room = max(rule.abs + rule.rel * abs(before), baseline.series[place].tolerance)
        return Verdict(place, "worse", f"{text}; up to {room:.3g} is tolerated", before, after)
    return Verdict(place, "held", f"{len(both)} clips within tolerance", before, after)


def _loss(rule: Rule, place: Place, change: float) -> float:
    """Return how much worse a change is; any change, where no direction is good."""
    sign = {"higher": 1, "lower": -1, "either": 0, "auto": sign_of(place.metric)}[rule.direction]
    return abs(change) if sign == 0 else -sign * change


def _failures(baseline: Measured, run: Measured, place: Place) -> str:
    before, after = len(baseline.series[place].failed), len(run.series[place].failed)
    return f"; {after} explanations failed (before: {before}) and take the lowest control" if after != before else ""


def _number(value: float) -> str:
    return f"{value:.6g}"


def _advice(baseline: Measured, run: Measured, rules: Rules) -> Iterator[str]:
    """Remark what takes much longer on the same machine; elsewhere wall times say nothing."""
    if not baseline.hardware or baseline.hardware != run.hardware:
        return
    for place in sorted(baseline.seconds.keys() & run.seconds.keys()):
        before, after = baseline.seconds[place], run.seconds[place]
        if after > rules.advise_seconds * before:
            yield f"{place[2]} on {place[0]} took {after:.3g} s per clip, {after / before:.1f} times as long as before ({before:.3g} s)"
