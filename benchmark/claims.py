"""Whether an explainer's claim holds: is it better than the same method without what it claims to use, its ablation?

``addsegdiff`` claims to read what a detector has learned; ``addsegdiff_random`` is the same on a detector that has learned nothing.
"""

from typing import Literal

from xaibench.errors import XaibenchError
from xaibench.registry import EXPLAINERS

Outcome = Literal["better", "same", "worse", "missing"]


def claim_of(label: str) -> tuple[str, str]:
    """Return what the explainer of a row claims to be and the label of the row that tests it: same options, other name.

    Both are empty for one without a claim, or whose plugin is not installed.
    """
    name, colon, options = label.partition(":")
    try:
        kind = EXPLAINERS.get(name)
    except XaibenchError:
        return "", ""
    return (kind.claim, f"{kind.ablation}{colon}{options}") if kind.ablation else ("", "")


def outcome(low: float, high: float) -> Outcome:
    """Judge the paired interval of claim minus ablation, larger being better; one that is undefined tells no difference."""
    return "better" if low > 0 else "worse" if high < 0 else "same"


def sentence(claim: str, ablation: str, found: Outcome) -> str:
    """Say in words what came out.

    Example:
        >>> sentence("detector-specific", "addsegdiff_random", "same")
        'not detector-specific: cannot be told from addsegdiff_random'
    """
    return {
        "better": f"{claim}: better than {ablation}",
        "same": f"not {claim}: cannot be told from {ablation}",
        "worse": f"not {claim}: worse than {ablation}",
        "missing": f"whether {claim} was not tested: run {ablation} beside it",
    }[found]
