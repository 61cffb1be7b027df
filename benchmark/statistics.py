"""Means with intervals, paired comparisons and tiers, over clusters of dependent clips.

Clips of one source utterance (or speaker) share content, so the cluster is the unit: clips are averaged within clusters, then clusters are
averaged with equal weight. Intervals are bootstrap-t (Efron 1982; Hall 1988): clusters are drawn with replacement, each drawn mean is
studentised by its own standard error, and the quantiles of that statistic replace Student's. A plain percentile interval covers
92 % at 10 clusters, this one 95 % (simulated in the tests).

A score is NaN where it is undefined; such clips are counted in ``n_undefined`` and leave the mean, never silently.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xaibench.benchmark.draws import draw_blocks

Floats = NDArray[np.float64]
FEWEST_CLUSTERS = 5
"""Below this many clusters draws repeat one cluster too often to be studentised, and Student's t serves."""
WIDEST = 3.0
"""Bootstrap quantiles stay within this multiple of Student's: with coarse scores some draws have almost no spread."""
ZERO_SPREAD = 1e-12
"""Standard errors below this share of the mean's size are rounding: the clusters are equal."""


@dataclass(frozen=True)
class Interval:
    """A mean over clusters with its confidence interval."""

    mean: float
    low: float
    high: float
    n: int
    """Clips with a defined score."""
    n_clusters: int
    method: str = "cluster bootstrap-t"
    n_undefined: int = 0
    standard_error: float = float("nan")
    p: float = float("nan")
    """Two-sided p-value of "the mean is zero"; only in paired differences."""
    n_independent: float = float("nan")
    """Equally weighted clips that would tell as much if clips of a cluster were independent: K^2 over the sum of 1 / clips of a cluster."""


def cluster_bootstrap(
    values: ArrayLike, clusters: Sequence[Hashable], *, n_draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Estimate the mean over clusters with a bootstrap-t interval.

    Args:
        values: One score per clip, (n,), NaN where undefined.
        clusters: The cluster of each clip, n labels.
        n_draws: Bootstrap draws.
        seed: Equal seeds give equal bits.
        level: Coverage, between 0 and 1.

    Returns:
        The interval; bounds are NaN for fewer than 2 clusters, the mean too for none.

    Raises:
        ValueError: If lengths differ, a value is infinite, or an option is out of range.
    """
    return cluster_bootstraps(np.asarray(values, np.float64).reshape(-1, 1), clusters, n_draws=n_draws, seed=seed, level=level)[0]


def cluster_bootstraps(
    values: ArrayLike, clusters: Sequence[Hashable], *, n_draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """Estimate many means over the same clips, (n, M) values, with the same draws: one interval per column, each equal to its own call."""
    scores = np.asarray(values, np.float64)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}; use 0.95")
    if n_draws < 100:
        raise ValueError(f"n_draws must be at least 100, got {n_draws}; use 10000")
    means, counts = cluster_means(scores, clusters)
    intervals: list[Interval | None] = [None] * scores.shape[1]
    patterns = np.isfinite(means)
    for pattern in np.unique(patterns, axis=1).T:
        columns = np.flatnonzero((patterns == pattern[:, None]).all(0))
        low, high, errors = _bootstrap_t(means[np.ix_(pattern, columns)], n_draws, seed, level)
        for j, column in enumerate(columns):
            sizes = counts[pattern, column]
            n, k = int(sizes.sum()), int(pattern.sum())
            mean = float(means[pattern, column].mean()) if k else float("nan")
            method = "cluster bootstrap-t" if k >= FEWEST_CLUSTERS else "Student's t over clusters"
            bounds, most = (float(low[j]), float(high[j])), k**2 / float((1 / sizes).sum()) if k else 0.0
            intervals[column] = Interval(mean, *bounds, n, k, method, len(scores) - n, float(errors[j]), n_independent=most)
    return [interval for interval in intervals if interval is not None]


def cluster_means(values: Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Average the defined clips of each cluster, in sorted order of labels: means (K, M), NaN without any; defined clips (K, M).

    Raises:
        ValueError: If lengths differ or a value is infinite.
    """
    if values.ndim != 2 or len(values) != len(clusters):
        raise ValueError(f"clusters must hold one label per value ({len(values)}), got {len(clusters)}; pass aligned sequences")
    if np.isinf(values).any():
        raise ValueError("values must be finite or NaN, got infinity; mark undefined scores as NaN")
    labels = {label: i for i, label in enumerate(sorted(set(clusters), key=lambda label: (str(type(label)), str(label))))}
    member = np.array([labels[label] for label in clusters], np.intp)  # no matrix of clusters by clips: both may be many thousands
    defined = np.isfinite(values)
    counts, sums = np.zeros((2, len(labels), values.shape[1]))
    np.add.at(counts, member, defined)
    np.add.at(sums, member, np.where(defined, values, 0.0))
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0), counts


def _studentised(means: Floats, n_draws: int, seed: int) -> tuple[Floats, Floats]:
    """Draw clusters with replacement and return (mean_b - mean) / se* of each draw, (n_draws, M), and the sample's own se, (M,)."""
    clusters = len(means)
    centre = means.mean(0)
    errors = means.std(0, ddof=1) / clusters**0.5
    equal = errors <= ZERO_SPREAD * np.maximum(np.abs(centre), np.finfo(float).tiny)
    errors = np.where(equal, 0.0, errors)
    # standardised clusters keep the subtraction of squares below well conditioned
    scaled = (means - centre) / np.where(equal, 1.0, errors * clusters**0.5)
    statistic = np.empty((n_draws, means.shape[1]))
    for start, counts in draw_blocks(clusters, n_draws, seed):
        weights = counts.astype(np.float64) / clusters
        drawn = weights @ scaled
        variance = np.maximum(weights @ scaled**2 - drawn**2, 0.0) * clusters / (clusters - 1)
        statistic[start : start + len(counts)] = drawn / np.sqrt(np.maximum(variance, ZERO_SPREAD) / clusters)
    return statistic, errors


def _bootstrap_t(means: Floats, n_draws: int, seed: int, level: float) -> tuple[Floats, Floats, Floats]:
    nan = np.full(means.shape[1], np.nan)
    if len(means) < 2:
        return nan, nan, nan
    from scipy.stats import t

    statistic, errors = _studentised(means, n_draws, seed)
    tail = (1 - level) / 2
    student = t.ppf(1 - tail, len(means) - 1)
    if len(means) < FEWEST_CLUSTERS:
        lower, upper = np.full_like(errors, -student), np.full_like(errors, student)
    else:
        lower, upper = np.clip(np.quantile(statistic, [tail, 1 - tail], axis=0), -WIDEST * student, WIDEST * student)
    centre = means.mean(0)
    return centre - upper * errors, centre - lower * errors, errors


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], *, n_draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Compare two rows on the same clips: mean of ``a - b`` over clusters, its bootstrap-t interval and a two-sided p-value.

    The p-value is that of Student's t on the cluster means of the differences, because Holm's correction over all pairs of a table needs
    tails finer than 1 / n_draws; near 0.05 it and the interval may disagree. Clips where either score is undefined are counted out.

    Raises:
        ValueError: If lengths differ or a value is infinite.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.shape != right.shape:
        raise ValueError(f"b must have a's shape {left.shape}, got {right.shape}; score both on the same clips")
    interval = cluster_bootstrap(left - right, clusters, n_draws=n_draws, seed=seed, level=level)
    p = _p_values(np.array([interval.mean]), np.array([interval.standard_error]), interval.n_clusters)
    return replace(interval, p=float(p[0]))


def _p_values(means: Floats, errors: Floats, clusters: int) -> Floats:
    """Two-sided p of Student's t with K - 1 degrees of freedom; equal clusters give 1 at zero and 0 elsewhere."""
    if clusters < 2:
        return np.full(means.shape, np.nan)
    from scipy.stats import t

    ratio = np.divide(np.abs(means), errors, out=np.where(means == 0, 0.0, np.inf), where=errors > 0)
    return np.asarray(2 * t.sf(ratio, clusters - 1))


def holm(p: ArrayLike) -> Floats:
    """Adjust p-values for the size of their family (Holm 1979); NaN stays NaN and does not count.

    Raises:
        ValueError: If a value lies outside [0, 1].
    """
    raw = np.asarray(p, np.float64)
    if ((raw < 0) | (raw > 1)).any():
        raise ValueError(f"p must be in [0, 1], got {raw.min()} to {raw.max()}; pass p-values")
    adjusted = np.full(raw.shape, np.nan)
    defined = np.flatnonzero(np.isfinite(raw))
    order = defined[np.argsort(raw[defined], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * factors), 1.0)
    return adjusted


def tiers(
    scores: Mapping[str, ArrayLike],
    clusters: Sequence[Hashable],
    *,
    higher_is_better: bool = True,
    alpha: float = 0.05,
    known_apart: Collection[tuple[str, str]] = (),
) -> dict[str, int | None]:
    """Group rows into tiers, 1 for the best, such that no two rows of a tier can be told apart.

    1. Every pair of rows is compared on the clips where both are defined: Student's t on cluster means of the difference.
    2. The p-values of all pairs are adjusted by Holm; pairs below ``alpha`` are told apart, with family-wise error ``alpha``. So are those
       that a comparison planned beforehand told apart, whose error comes on top.
    3. Rows are walked from the best mean to the worst (equal means by name). A row joins the present tier unless it is told apart from
       any row in it; then it opens the next tier.

    Rows of different tiers need not differ significantly from one another; the order of the mapping changes nothing.

    Args:
        scores: Row name to one score per clip, aligned with ``clusters``, NaN where undefined.
        clusters: The cluster of each clip.
        higher_is_better: Direction of the metric.
        alpha: Family-wise error.
        known_apart: Pairs of rows that a smaller family of tests already told apart.

    Returns:
        Tier by row, ``None`` for a row without a defined score.
    """
    rows = {name: np.asarray(scores[name], np.float64) for name in sorted(scores)}
    result: dict[str, int | None] = dict.fromkeys(scores)
    means = {name: cluster_bootstrap_mean(values, clusters) for name, values in rows.items()}
    ranked = sorted((n for n in rows if np.isfinite(means[n])), key=lambda n: (-means[n] if higher_is_better else means[n], n))
    apart = _told_apart([rows[name] for name in ranked], clusters, alpha)
    for one, other in known_apart:
        if one in ranked and other in ranked:
            i, j = ranked.index(one), ranked.index(other)
            apart[i, j] = apart[j, i] = True
    tier, members = 1, list[int]()
    for i, name in enumerate(ranked):
        if any(apart[i, j] for j in members):
            tier, members = tier + 1, []
        members.append(i)
        result[name] = tier
    return result


def cluster_bootstrap_mean(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """Average over clusters without an interval; NaN where nothing is defined."""
    means, _ = cluster_means(np.asarray(values, np.float64).reshape(-1, 1), clusters)
    defined = means[np.isfinite(means)]
    return float(defined.mean()) if len(defined) else float("nan")


def _told_apart(rows: list[Floats], clusters: Sequence[Hashable], alpha: float) -> NDArray[np.bool_]:
    upper = np.triu_indices(len(rows), 1)
    apart = np.zeros((len(rows), len(rows)), np.bool_)
    if not len(upper[0]):
        return apart
    differences = np.stack([rows[i] - rows[j] for i, j in zip(*upper, strict=True)], axis=1)
    apart[upper] = holm(paired_p(differences, clusters)) < alpha
    return apart | apart.T


def paired_p(differences: Floats, clusters: Sequence[Hashable]) -> Floats:
    """Return the two-sided p of "the mean is zero" for many columns of paired differences at once.

    Args:
        differences: (n, M), NaN where undefined.
        clusters: The cluster of each clip, n labels.

    Returns:
        (M,) p of Student's t on the cluster means of the defined clips; NaN with fewer than 2 such clusters.
    """
    return np.array([_t_test(column) for column in cluster_means(differences, clusters)[0].T])


def _t_test(means: Floats) -> float:
    defined = means[np.isfinite(means)]
    if len(defined) < 2:
        return float("nan")
    error = defined.std(ddof=1) / len(defined) ** 0.5
    centre = defined.mean()
    if error <= ZERO_SPREAD * abs(centre):
        error = 0.0
    return float(_p_values(np.array([centre]), np.array([error]), len(defined))[0])


def minimum_detectable_difference(difference: Interval, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference that a comparison with this standard error finds: ``(t_{1-alpha/2} + t_{power}) se``."""
    if difference.n_clusters < 2:
        return float("nan")
    from scipy.stats import t

    freedom = difference.n_clusters - 1
    return float((t.ppf(1 - alpha / 2, freedom) + t.ppf(power, freedom)) * difference.standard_error)


def detectable_difference(differences: ArrayLike, clusters: Sequence[Hashable], *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true mean of paired differences (n,) that their t-test finds with this power; NaN with fewer than 2 clusters."""
    means = cluster_means(np.asarray(differences, np.float64).reshape(-1, 1), clusters)[0].ravel()
    means = means[np.isfinite(means)]
    if len(means) < 2:
        return float("nan")
    error = float(means.std(ddof=1)) / len(means) ** 0.5
    nan = float("nan")
    return minimum_detectable_difference(Interval(nan, nan, nan, len(means), len(means), standard_error=error), alpha=alpha, power=power)


def share_interval(interval: Interval, *, scale: float = 1.0, level: float = 0.95) -> Interval:
    """Replace the bounds of a mean of hits and misses by Wilson's (1927), with the clusters' own spread.

    Where all clips hit, a bootstrap has nothing to draw from and claims certainty. Wilson's score interval does not: 48 hits of 48 give
    .93 to 1. The number of independent trials is ``p (1 - p) / se^2`` (Kish's effective sample size; Franco et al. 2019,
    doi:10.1093/jssam/smy019), at most ``n_independent``, since clips of a cluster are not less alike than strangers, at least 1, and the
    number of clusters where these are all alike. The quantile is normal, as in Wilson's, and Student's below ``FEWEST_CLUSTERS``.

    Args:
        interval: Of values that are 0 or ``scale``.
        scale: Value of a hit, such as 100 for per cent.
        level: Coverage.

    Returns:
        The interval with ``method`` "Wilson over clusters"; unchanged with fewer than 2 clusters.
    """
    if interval.n_clusters < 2:
        return interval
    from scipy.stats import norm, t

    share, error = interval.mean / scale, interval.standard_error / scale
    spread, clusters = share * (1 - share), interval.n_clusters
    trials = min(max(spread / error**2, 1.0), interval.n_independent) if error > 0 and spread > 0 else float(clusters)
    quantile = (norm() if clusters >= FEWEST_CLUSTERS else t(clusters - 1)).ppf(0.5 + level / 2)
    square = float(quantile) ** 2 / trials
    centre = (share + square / 2) / (1 + square)
    half = (square * (spread + square / 4)) ** 0.5 / (1 + square)
    low, high = (min(max(bound, 0.0), 1.0) * scale for bound in (centre - half, centre + half))
    return replace(interval, low=min(low, interval.mean), high=max(high, interval.mean), method="Wilson over clusters")


def leave_one_out_spread(values: ArrayLike, clusters: Sequence[Hashable], groups: Sequence[Hashable]) -> dict[Any, float]:
    """Return the mean over clusters with each group (such as a vocoder) left out, by group; a wide spread means one group decides."""
    scores = np.asarray(values, np.float64)
    if not len(scores) == len(clusters) == len(groups):
        raise ValueError(f"groups must hold one label per value ({len(scores)}), got {len(groups)}; pass aligned sequences")
    spread = {}
    for group in sorted(set(groups), key=str):
        kept = [i for i, label in enumerate(groups) if label != group]
        spread[group] = cluster_bootstrap_mean(scores[kept], [clusters[i] for i in kept])
    return spread
