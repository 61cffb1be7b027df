"""Run the audit, and compare with other people's libraries where they are installed and right."""

import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xaibench.benchmark.audit.checks import Bounds, Finding, cases, chance, gaming, meaning, near, properties
from xaibench.benchmark.audit.problem import Problem, make_problem, noisy
from xaibench.benchmark.audit.subjects import Subject, subjects

BOUNDS = Path(__file__).with_name("bounds.json")
FINDINGS = Path(__file__).with_name("findings.json")
CHECKS = (cases, properties, chance, meaning, gaming)
DEVIATIONS = {
    "average_precision": "trapezoids under the curve give a constant map .525 at 5 %; torchmetrics squashes scores outside [0, 1]",
    "auroc": "torchmetrics squashes scores outside [0, 1] through a sigmoid, and returns 0 for an empty truth",
    "generalized_dice": "torchmetrics lets an empty class borrow its weight from other clips of the batch",
    "pointing_game": "Quantus counts a hit if any of several tied maxima hits, so a constant map always hits",
    "relevance_mass": "Quantus divides signed sums: far outside [0, 1] on signed maps",
    "relevance_rank": "Quantus sorts unstably: a constant map scores by the position of the mask",
}
"""Named differences to other libraries, reproduced in docs/metrics.md."""
INSTALL = {"Quantus": "pip install quantus"}
"""Libraries that no extra brings: OpenCV and scikit-image come with it."""
Reference = Callable[[Any, Problem, int], float]


def audit(names: Sequence[str] = (), bounds: Bounds | None = None, under_test: Sequence[Subject] | None = None) -> list[Finding]:
    """Check metrics against the bounds that were written down.

    Args:
        names: Metrics; all of them by default.
        bounds: Other bounds than ``bounds.json``.
        under_test: Other subjects than the registered metrics.

    Raises:
        ValueError: If a name is not under audit.
    """
    limits = bounds or json.loads(BOUNDS.read_text(encoding="utf-8"))
    known = {subject.name: subject for subject in (under_test if under_test is not None else subjects())}
    for name in names:
        if name not in known:
            raise ValueError(f"metric must be under audit, got {name!r}; choose from {', '.join(known)}")
    found: list[Finding] = []
    for subject in (known[name] for name in names or known):
        for check in CHECKS:
            found += check(subject, limits)
        found += _libraries(subject)
    return found


def _libraries(subject: Subject) -> Iterator[Finding]:
    problem = make_problem(5, seed=12)
    maps = noisy(subject.oracle(problem), 1.0, seed=13)
    for library, reference in _REFERENCES.get(subject.name, {}).items():
        try:
            expected = np.array([reference(maps[i], problem, i) for i in range(len(maps))])
        except ImportError:
            yield Finding(
                subject.name,
                f"agrees with {library}",
                "equal",
                "not installed",
                passed=True,
                remark=INSTALL.get(library, "pip install 'xaibench[xcheck]'"),
            )
            continue
        yield near(subject, f"agrees with {library}", float(np.abs(subject(maps, problem) - expected).max()), 0.0, 1e-6)


def _top(one: Any, mask: Any) -> Any:
    chosen = np.zeros(mask.size, bool)
    chosen[np.argsort(-one.reshape(-1), kind="stable")[: int(mask.sum())]] = True
    return chosen.reshape(mask.shape)


def _sklearn_ap(one: Any, problem: Problem, i: int) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(problem.mask[i].ravel(), one.ravel()))


def _sklearn_auroc(one: Any, problem: Problem, i: int) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(problem.mask[i].ravel(), one.ravel()))


def _sklearn_iou(one: Any, problem: Problem, i: int) -> float:
    from sklearn.metrics import jaccard_score

    return float(jaccard_score(problem.mask[i].ravel(), _top(one, problem.mask[i]).ravel()))


def _sklearn_dice(one: Any, problem: Problem, i: int) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(problem.mask[i].ravel(), _top(one, problem.mask[i]).ravel()))


def _scipy_spearman(one: Any, problem: Problem, i: int) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(one.ravel(), problem.difference[i].ravel()).statistic)


def _scipy_tiles(one: Any, problem: Problem, i: int) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(one, problem.values[i]).statistic)


def _monai_gdice(one: Any, problem: Problem, i: int) -> float:
    import torch
    from monai.metrics.generalized_dice import compute_generalized_dice

    truth, chosen = (torch.from_numpy(np.stack([~m, m])[None].astype(np.float32)) for m in (problem.mask[i], _top(one, problem.mask[i])))
    return float(compute_generalized_dice(chosen, truth, include_background=True, weight_type="square", sum_over_classes=True))


def _torchmetrics(name: str) -> Reference:
    def score(one: Any, problem: Problem, i: int) -> float:
        import torch
        from torchmetrics.functional import classification

        places = np.argsort(np.argsort(one.ravel())) / one.size  # scores outside [0, 1] it would squash
        return float(getattr(classification, name)(torch.from_numpy(places), torch.from_numpy(problem.mask[i].ravel()).long()))

    return score


def _quantus(name: str) -> Reference:
    """Ask Quantus where it is right: on maps without ties and without negative cells."""

    def score(one: Any, problem: Problem, i: int) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch

            metric = getattr(importlib.import_module("quantus"), name)
            positive = np.maximum(one, 0) if name == "RelevanceMassAccuracy" else one - one.min()
            clip, nothing = positive[None, None], torch.nn.Flatten().eval()
            options = {"x_batch": clip, "y_batch": np.zeros(1, int), "a_batch": clip, "s_batch": problem.mask[i][None, None].astype(int)}
            options |= {"model": nothing, "device": "cpu"}
            return float(metric(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)(**options)[0])

    return score


_REFERENCES: dict[str, dict[str, Reference]] = {
    "average_precision": {"scikit-learn": _sklearn_ap, "torchmetrics": _torchmetrics("binary_average_precision")},
    "auroc": {"scikit-learn": _sklearn_auroc, "torchmetrics": _torchmetrics("binary_auroc")},
    "relevance_mass": {"Quantus": _quantus("RelevanceMassAccuracy")},
    "relevance_rank": {"Quantus": _quantus("RelevanceRankAccuracy")},
    "pointing_game": {"Quantus": _quantus("PointingGame")},
    "iou": {"scikit-learn": _sklearn_iou},
    "dice": {"scikit-learn": _sklearn_dice},
    "spearman": {"scipy": _scipy_spearman},
    "causal_spearman": {"scipy": _scipy_tiles},
    "generalized_dice": {"MONAI": _monai_gdice},
}


def shipped() -> dict[str, Any]:
    """Return the findings of the present metrics as they were written down; a test keeps them true."""
    found: dict[str, Any] = json.loads(FINDINGS.read_text(encoding="utf-8"))
    return found


def to_json(findings: Sequence[Finding]) -> str:
    """Write findings as JSON, with the deviations of other libraries by metric."""
    made = {"findings": [asdict(finding) for finding in findings], "deviations": DEVIATIONS}
    return json.dumps(made, indent=1, allow_nan=False) + "\n"
