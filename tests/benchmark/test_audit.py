"""The audit passes on our metrics, fails on every fault that is planted, and its published findings are those of the present code."""

import json

import numpy as np
import pytest
import torch

from xaibench.benchmark.audit.checks import Finding
from xaibench.benchmark.audit.problem import make_problem
from xaibench.benchmark.audit.run import BOUNDS, audit, shipped, to_json
from xaibench.benchmark.audit.subjects import Subject, subjects
from xaibench.registry import METRICS

OURS = {subject.name: subject for subject in subjects()}


@pytest.fixture(scope="module")
def findings():
    return audit()


def test_every_metric_keeps_its_bounds(findings):
    assert [f for f in findings if not f.passed] == []
    assert {f.metric for f in findings} == set(OURS)


def test_published_findings_are_those_of_the_present_code(findings):
    fresh = json.loads(to_json(findings))
    known = shipped()
    assert known["deviations"] == fresh["deviations"]
    absent = {f["check"] for f in fresh["findings"] if f["got"] == "not installed"}
    assert all(f["got"] != "not installed" for f in known["findings"])
    seen, now = (
        [(f["metric"], f["check"], *([] if f["check"] in absent else [f["expected"], f["passed"]])) for f in one["findings"]]
        for one in (known, fresh)
    )
    assert seen == now, "write them anew with `python -m xaibench.benchmark.audit`"


def test_each_localisation_metric_that_ranks_is_under_audit():
    ranked = {n for n in METRICS.names() if METRICS.get(n).info.family == "localization"}
    assert ranked <= set(OURS)


def broken(name, function):
    """Return the failed checks of a metric whose function is replaced."""
    ours = OURS[name]
    found = audit(under_test=[Subject(ours.info, lambda heatmap, problem: function(ours, heatmap, problem), ours.oracle)])
    return {f.check for f in found if not f.passed}


def mutating(ours, heatmap, problem):
    found = ours(heatmap, problem)
    if isinstance(heatmap, np.ndarray):
        heatmap *= 2
    return found


def batch_normalised(ours, heatmap, problem):
    return ours(heatmap, problem) / (1 + np.abs(np.asarray(heatmap)).max())


def trapezoids(_, heatmap, problem):
    from sklearn.metrics import auc, precision_recall_curve

    def one(values, mask):
        if not mask.any():
            return np.nan
        precision, recall, _ = precision_recall_curve(mask.ravel(), values.ravel())
        return auc(recall, precision)

    maps = np.asarray(heatmap)
    if not np.isfinite(maps).all():
        raise ValueError("heatmap must be finite")
    return np.array([one(*pair) for pair in zip(maps, np.asarray(problem.mask), strict=True)])


FAULTS = {
    "takes the input apart": ("dice", mutating, "input not written to"),
    "looks at the neighbours": ("average_precision", batch_normalised, "other neighbours in the batch"),
    "depends on scale": (
        "auroc",
        lambda ours, h, p: ours(1 / (1 + np.exp(-np.clip(np.asarray(h), -9, 9))).round(3), p),
        "scaled by 1e+06",
    ),
    "scores an empty truth": ("iou", lambda ours, h, p: np.nan_to_num(ours(h, p)), "an empty truth"),
    "accepts NaN": ("auroc", lambda ours, h, p: ours(np.nan_to_num(np.asarray(h)), p), "NaN in the map"),
    "lets a constant hit": (
        "pointing_game",
        lambda ours, h, p: np.array(
            [float(np.asarray(p.mask)[i][np.asarray(h)[i] == np.asarray(h)[i].max()].any()) for i in range(len(h))]
        ),
        "a constant map",
    ),
    "interpolates the curve": ("average_precision", lambda ours, h, p: 0.5 * (ours(h, p) + 1) - 0.5 * 0.05, "200 random maps"),
    "has the wrong chance": ("generalized_dice", lambda ours, h, p: ours(h, p) - 0.02, "200 random maps"),
    "is upside down": ("dice", lambda ours, h, p: ours(-np.asarray(h), p), "the map turned round"),
    "says nothing": ("auroc", lambda ours, h, p: 0 * ours(h, p) + 0.5, "oracle, noisier oracles, random"),
    "reacts to dust": (
        "spearman",
        lambda ours, h, p: ours(np.asarray(h), p) * (1 - 0.3 * (np.abs(np.asarray(h)).sum((1, 2)) * 1e4 % 1)),
        "resilience to noise",
    ),
    "does not react": ("iou", lambda ours, h, p: 0.99 + 0.001 * ours(h, p), "a constant map"),
    "gives ties away": (
        "average_precision",
        lambda ours, h, p: ours(np.asarray(h) + 1e-9 * np.asarray(p.mask), p),
        "gamed: tied",
    ),
    "is no Dice": ("dice", lambda ours, h, p: ours(h, p) ** 1.01, "agrees with scikit-learn"),
    "never gives full marks": ("generalized_dice", lambda ours, h, p: np.minimum(ours(h, p), 0.99), "a perfect map"),
    "rounds": ("auroc", lambda ours, h, p: ours(np.asarray(h).round(3), p), "scaled by 1e-06"),
    "divides by zero plus epsilon": ("generalized_dice", lambda ours, h, p: np.nan_to_num(ours(h, p), nan=1.0), "a full truth"),
    "looks at the place in the batch": ("iou", lambda ours, h, p: ours(h, p) * (1 - 0.01 * np.arange(len(h))), "shuffled batch"),
    "treats containers unlike": (
        "auroc",
        lambda ours, h, p: ours(h, p) * (0.9 if isinstance(h, torch.Tensor) else 1),
        "torch and numpy agree",
    ),
    "takes whichever clip fits": (
        "dice",
        lambda ours, h, p: np.fmax(ours(h, p), ours(h, p.take(np.roll(np.arange(len(h)), 1)))),
        "reactivity to another clip's map",
    ),
    "rewards plateaus": (
        "average_precision",
        lambda ours, h, p: ours(h, p) + 0.9 * np.mean(np.diff(np.asarray(h), axis=2) == 0, (1, 2)),
        "gamed: dilated",
    ),
    "rewards ties at the top": (
        "auroc",
        lambda ours, h, p: ours(h, p) + np.mean(np.asarray(h) == np.max(np.asarray(h), (1, 2), keepdims=True), (1, 2)),
        "gamed: saturated",
    ),
    "is fond of large numbers": ("auroc", lambda ours, h, p: ours(h, p) + 1e-6 * np.mean(np.asarray(h), (1, 2)), "gamed: shifted"),
    "forgets the sign": ("spearman", lambda ours, h, p: ours(np.abs(np.asarray(h)), p), "agrees with scipy"),
    "joins the points by lines": ("average_precision", trapezoids, "agrees with torchmetrics"),
    "takes signed sums": (
        "relevance_mass",
        lambda _, h, p: (np.asarray(h) * np.asarray(p.mask)).sum((1, 2)) / np.asarray(h).sum((1, 2)),
        "agrees with Quantus",
    ),
    "leaves the background out": ("generalized_dice", lambda _, h, p: OURS["dice"](h, p), "agrees with MONAI"),
}


def test_every_check_has_a_planted_fault_that_it_finds(findings):
    assert {f.check for f in findings} == {check for _, _, check in FAULTS.values()}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    name, function, check = FAULTS[fault]
    if check in ("agrees with MONAI", "agrees with torchmetrics", "agrees with Quantus"):
        pytest.importorskip(check.split()[-1].lower(), exc_type=ImportError)
    assert check in broken(name, function)


def test_bounds_are_data_and_formulas_are_no_code():
    bounds = json.loads(BOUNDS.read_text())
    bounds["chance"]["dice"] = ["__import__('os')", 1]
    with pytest.raises(ValueError, match="formula must be sums and products"):
        audit(["dice"], bounds)
    with pytest.raises(ValueError, match="metric must be under audit, got 'deletion'"):
        audit(["deletion"])


def test_problems_have_the_stated_density_and_are_repeatable():
    one, other = make_problem(3, seed=4), make_problem(3, seed=4)
    assert np.array_equal(one.mask, other.mask)
    assert one.mask.reshape(3, -1).sum(1).tolist() == [round(0.05 * 48 * 60)] * 3
    assert isinstance(audit(["causal_spearman"])[0], Finding)
