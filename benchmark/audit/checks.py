"""The checks of the audit, each a generator of findings for one metric; every finding says what was expected and what came."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xaibench.benchmark.audit.problem import DENSITY, Floats, Problem, make_problem, noisy
from xaibench.benchmark.audit.subjects import MARGINAL, Subject

Bounds = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check of one metric."""

    metric: str
    check: str
    expected: str
    got: str
    passed: bool
    remark: str = ""
    """Why a check does not apply, where it does not."""


def near(subject: Subject, check: str, value: float, target: float, slack: float) -> Finding:
    """Compare a value with its target."""
    return Finding(subject.name, check, f"{target:.4g} ± {slack:.2g}", f"{value:.4g}", bool(abs(value - target) <= slack))


def cases(subject: Subject, bounds: Bounds) -> Iterator[Finding]:
    """Empty and full truths, perfect, constant, shifted and scaled maps: what can be said by hand."""
    problem, exact = make_problem(4, seed=1), bounds["tolerance"]
    oracle = subject.oracle(problem)
    best = subject(oracle, problem)
    if subject.name not in (*MARGINAL, "relevance_mass"):
        ideal = problem.mask * 1.0 if subject.oracle(problem).ndim == 3 and subject.name != "spearman" else oracle
        yield near(subject, "a perfect map", float(subject(ideal, problem).mean()), subject.info.high, 1e-9)
    target, slack = _bound(bounds["constant"][subject.name])
    yield near(subject, "a constant map", float(subject(np.ones_like(oracle), problem).mean()), target, slack)
    for factor in (1e-6, 1e6):
        yield near(subject, f"scaled by {factor:g}", float(np.abs(subject(factor * oracle, problem) - best).max()), 0.0, exact)
    if oracle.ndim == 3:
        blank = Problem(np.zeros_like(problem.mask), 0 * problem.difference, problem.magnitude, problem.values)
        lost = subject(oracle, blank)
        yield Finding(
            subject.name, "an empty truth", "undefined", f"{int(np.isnan(lost).sum())} of {len(lost)}", bool(np.isnan(lost).all())
        )
        if subject.name in bounds["full"]:
            yield _full(subject, oracle, replace(problem, mask=np.ones_like(problem.mask)), bounds["full"][subject.name])
    worst = subject(-oracle, problem)
    ahead = bool((best > worst).all() if subject.info.higher_is_better else (best < worst).all())
    yield Finding(subject.name, "the map turned round", "worse on every clip", f"{best.mean():.3g} to {worst.mean():.3g}", ahead)


def _full(subject: Subject, oracle: Floats, problem: Problem, target: float | None) -> Finding:
    scores = subject(oracle, problem)
    if target is None:
        return Finding(
            subject.name, "a full truth", "undefined", f"{int(np.isnan(scores).sum())} of {len(scores)}", bool(np.isnan(scores).all())
        )
    return near(subject, "a full truth", float(scores.mean()), target, 1e-9)


def properties(subject: Subject, bounds: Bounds) -> Iterator[Finding]:
    """Nothing depends on the other clips, on their order, on the type of array; nothing is written to."""
    import torch

    problem, exact = make_problem(6, seed=2), bounds["tolerance"]
    oracle = noisy(subject.oracle(problem), 1.0, seed=3)
    together = subject(oracle, problem)
    order = np.random.default_rng(4).permutation(len(oracle))
    alone = np.concatenate([subject(oracle[i : i + 1], problem.take(np.array([i]))) for i in range(len(oracle))])
    yield near(subject, "shuffled batch", float(np.abs(subject(oracle[order], problem.take(order)) - together[order]).max()), 0.0, exact)
    yield near(subject, "other neighbours in the batch", float(np.abs(alone - together).max()), 0.0, exact)
    before = oracle.copy(), problem.mask.copy(), problem.difference.copy()
    subject(oracle, problem)
    kept = all(np.array_equal(a, b) for a, b in zip(before, (oracle, problem.mask, problem.difference), strict=True))
    yield Finding(subject.name, "input not written to", "unchanged", "unchanged" if kept else "changed", kept)
    tensors = Problem(*(torch.from_numpy(part) for part in (problem.mask, problem.difference, problem.magnitude, problem.values)))  # type: ignore[arg-type]
    yield near(subject, "torch and numpy agree", float(np.abs(subject(torch.from_numpy(oracle), tensors) - together).max()), 0.0, exact)
    rough = oracle.copy()
    rough.flat[0] = np.nan
    refused = _raises(lambda: subject(rough, problem))
    yield Finding(subject.name, "NaN in the map", "refused", "refused" if refused else "accepted", refused)


def chance(subject: Subject, bounds: Bounds) -> Iterator[Finding]:
    """The mean over random maps is the chance level that the record states."""
    target, slack = _bound(bounds["chance"][subject.name])
    problem = make_problem(200, seed=5)
    maps = np.random.default_rng(6).random(subject.oracle(problem).shape)
    yield near(subject, "200 random maps", float(np.nanmean(subject(maps, problem))), target, slack)


def meaning(subject: Subject, bounds: Bounds) -> Iterator[Finding]:
    """Better maps score better; tiny noise changes little, another clip's map loses most (after MetaQuantus, arXiv:2302.07265)."""
    problem, sign = make_problem(60, seed=7), 1 if subject.info.higher_is_better else -1
    oracle = subject.oracle(problem)
    levels = bounds["monotone"]["noise"]
    means = [float(np.mean(subject(noisy(oracle, level, seed=8), problem))) for level in levels]
    remark = bounds["monotone"]["exempt"].get(subject.name, "")
    steps = np.diff(means) * sign if not remark else np.array([means[-1] - means[0]]) * sign
    said = " > ".join(f"{mean:.3g}" for mean in means)
    yield Finding(subject.name, "oracle, noisier oracles, random", "falling", said, bool((steps < 0).all()), remark)
    span = abs(means[0] - means[-1]) or 1.0  # a metric that says nothing fails above
    little = np.abs(subject(noisy(oracle, bounds["resilience"]["noise"], seed=9), problem) - subject(oracle, problem)).mean() / span
    limit = bounds["resilience"]["largest_change"]
    yield Finding(subject.name, "resilience to noise", f"at most {limit:g}", f"{little:.3g}", bool(little <= limit))
    other = float(np.mean(subject(np.roll(oracle, 1, axis=0), problem)))
    loss, least = sign * (means[0] - other) / span, bounds["reactivity"]["smallest_loss"]
    yield Finding(subject.name, "reactivity to another clip's map", f"at least {least:g}", f"{loss:.3g}", bool(loss >= least))


def gaming(subject: Subject, bounds: Bounds) -> Iterator[Finding]:
    """Dilated, saturated, tied and shifted maps gain nothing over the honest map that they were made of.

    The honest map is half right: its errors are the blobs of another clip, as smooth as the truth. White noise would not do: to smooth it
    away is no trick but a better map.
    """
    from scipy.ndimage import maximum_filter

    problem, sign = make_problem(60, seed=10), 1 if subject.info.higher_is_better else -1
    oracle = subject.oracle(problem)
    honest = 0.55 * oracle + 0.45 * np.roll(oracle, 1, axis=0)
    base, span = subject(honest, problem), abs(np.mean(subject(oracle, problem)) - _bound(bounds["chance"][subject.name])[0]) or 1.0
    tricks: dict[str, Callable[[], Floats]] = {
        "dilated": lambda: np.stack([maximum_filter(one, 3) for one in honest]),
        "saturated": lambda: np.minimum(honest, _quantile(honest, 1 - DENSITY)),
        "tied": lambda: (honest >= _quantile(honest, 1 - 2 * DENSITY)).astype(float),
        "shifted": lambda: honest + 100.0,
    }
    for name, trick in tricks.items():
        remark = bounds["gaming"]["exempt"].get(f"{subject.name}/{name}", "")
        if name == "dilated" and oracle.ndim != 3:
            continue
        gain = float(np.mean(sign * (subject(trick(), problem) - base)) / span)
        allowed = bounds["gaming"][name]
        yield Finding(
            subject.name, f"gamed: {name}", f"gains at most {allowed:g}", f"{gain:.3g}", bool(gain <= allowed) or bool(remark), remark
        )


def _quantile(maps: Floats, q: float) -> Floats:
    found: Floats = np.quantile(maps, q, axis=tuple(range(1, maps.ndim)), keepdims=True)
    return found


def _bound(entry: list[Any]) -> tuple[float, float]:
    """Read ``[formula in m, half-width]``; formulas are sums and products of m and numbers, nothing else."""
    formula, slack = entry
    return _evaluate(str(formula), DENSITY), float(slack)


def _evaluate(formula: str, m: float) -> float:
    import ast

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.Name) and node.id == "m":
            return m
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            apply = {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right, ast.Div: left / right if right else np.inf}
            return float(apply[type(node.op)])
        raise ValueError(f"formula must be sums and products of m and numbers, got {formula!r}; write for example 2*m*(1-m)")

    return value(ast.parse(formula, mode="eval").body)


def _raises(call: Callable[[], object]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False
