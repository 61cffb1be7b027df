"""A suite is a frozen protocol, as data: which controls, clips, occluders, budgets and rules make two boards comparable.

Whoever changes a value here makes another suite and gives it another name; ``content_hash`` is part of every run's identity.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from xaibench.errors import UnknownNameError
from xaibench.tasks.pairs import spread
from xaibench.types import Pair, content_hash

TierName = Literal["quick", "full"]


@dataclass(frozen=True)
class Curves:
    """How faithfulness curves are measured: on how many clips, with how many steps, under which occluders, for which polarities."""

    clips: int | None
    steps: int
    occluders: tuple[str, ...]
    polarities: tuple[str, ...] = ("declared",)
    soft: bool = False
    """Whether confidence metrics are also measured for the soft mask, as papers do."""

    area_budgets: tuple[float, ...] = ()
    """Shares of the cells at which confidence metrics are measured beside the suite's own, for their curves over the area."""

    def without_twins(self) -> "Curves":
        """Return the occluders that a corpus without twins can have."""
        return replace(self, occluders=tuple(name for name in self.occluders if not name.startswith("twin_")))


@dataclass(frozen=True)
class Causal:
    """How the causal truth is measured: on how many clips that pass the gate, in which domains, with how many pairs of permutations."""

    clips: int | None
    permutation_pairs: int = 16
    domains: tuple[str, ...] = ("twin_tiles", "twin_segments")
    polarities: tuple[str, ...] = ("declared", "magnitude")
    least_split_half: float = 0.9
    """Rank correlation between two halves of the permutations below which a clip's truth is too unsteady to score against."""
    null_limit: float = 0.05
    """Share of the gap by which the null control may move the log-odds, on average, before a clip is refused."""


@dataclass(frozen=True)
class Sanity:
    """How maps are examined: on how many clips, against which changes."""

    clips: int
    perturbations: int = 2
    noise_db: float = -60.0
    """Level of the inaudible noise under the clip's."""
    seed: int = 1


@dataclass(frozen=True)
class Budget:
    """What one tier measures; ``None`` clips means all of them."""

    clips: int | None
    curves: Curves
    slow_curves: Curves
    """For detectors that need more than ``Suite.slow_forward_s`` per forward pass."""
    causal: Causal | None = None
    """``None`` measures no causal truth."""
    slow_causal: Causal | None = None
    sanity: Sanity | None = None
    """``None`` examines nothing; each clip costs two explanations and one for each perturbation."""


QUICK = Budget(
    clips=48,
    curves=Curves(clips=12, steps=10, occluders=("twin_complex", "floor")),
    slow_curves=Curves(clips=8, steps=8, occluders=("twin_complex",)),
)
_EVERYTHING = Curves(
    clips=None,
    steps=20,
    occluders=("zero", "floor", "mean", "twin_complex", "twin_magnitude"),
    polarities=("declared", "magnitude"),
    area_budgets=(0.01, 0.02, 0.1, 0.2),
)
FULL = Budget(
    clips=None,
    curves=_EVERYTHING,
    slow_curves=_EVERYTHING,
    causal=Causal(clips=None),
    slow_causal=Causal(clips=16, permutation_pairs=8),
    sanity=Sanity(clips=12),
)
ON_REQUEST = (Causal(clips=30), Causal(clips=8, permutation_pairs=8))
"""Causal truth of tiers that have none, where it is asked for; the second for slow detectors."""


@dataclass(frozen=True)
class Suite:
    """One protocol; the defaults are ``xaibench-v1``."""

    name: str
    controls: tuple[str, ...] = (
        "random",
        "constant",
        "energy",
        "inverse_energy",
        "edge",
        "frequency_prior",
        "frequency_level_prior",
        "oracle_mask",
        "oracle_ig",
    )
    """Run always; no argument removes them."""
    recipes: tuple[str, ...] = ("sym-floor60-v1", "grinberg-rel-linear-v1")
    """Official mask recipes, primary first. A task without these scores the recipes that it names."""
    budgets: dict[TierName, Budget] = field(default_factory=lambda: {"quick": QUICK, "full": FULL})
    gap_gate: float = 2.0
    """Log-odds by which the spoof must exceed its twin before a clip enters detector-dependent scores."""
    min_clips: int = 20
    """Rows with fewer clips say "not enough" and get no tier."""
    min_speakers: int = 20
    """From this many speakers on, intervals are clustered by speaker, else by utterance."""
    slow_forward_s: float = 0.1
    area_budgets: tuple[float, ...] = (0.05,)
    """Shares of the cells at which confidence metrics (AI, AD, AG, Fid-In, FF) are measured; the first one is in the table."""
    n_draws: int = 10_000
    level: float = 0.95
    statistics_seed: int = 0
    sliced_metrics: tuple[str, ...] = ("generalized_dice", "average_precision", "stratified_auc")
    """Localisation metrics that are broken down by seen and unseen vocoders and by vocoder, with intervals."""

    def content_hash(self) -> str:
        """Hash the protocol; what came later (``soft``, causal, sanity and area budgets) counts where it is set."""
        whole = asdict(self)
        for budget in whole["budgets"].values():
            for name in ("causal", "slow_causal", "sanity"):
                _ = budget[name] or budget.pop(name)
            for curves in (budget["curves"], budget["slow_curves"]):
                for name in ("soft", "area_budgets"):
                    _ = curves[name] or curves.pop(name)
        return content_hash(whole)


EVERY_GAP = -1e9
"""A gate that lets every clip pass."""
_SOFT = Curves(clips=None, steps=2, occluders=("zero",), polarities=("magnitude",), soft=True)
SUITES = {
    "xaibench-v1": Suite("xaibench-v1"),
    "grinberg2025": Suite(
        "grinberg2025",
        recipes=("grinberg-rel-linear-v1", "sym-floor60-v1"),
        budgets={"quick": Budget(clips=48, curves=_SOFT, slow_curves=_SOFT), "full": Budget(clips=None, curves=_SOFT, slow_curves=_SOFT)},
        gap_gate=EVERY_GAP,
    ),
}


def suite_by_name(name: str) -> Suite:
    """Return a frozen suite.

    Raises:
        UnknownNameError: If there is none of this name.
    """
    if name not in SUITES:
        raise UnknownNameError(f"suite must be one of {', '.join(SUITES)}, got {name!r}; leave it out for the current one")
    return SUITES[name]


def checked_suite(suite: str | Suite) -> Suite:
    """Return a suite by name, or one of the user's own, which must not go by the name of a frozen one.

    Raises:
        UnknownNameError: If there is none of this name.
        ValueError: If the name is taken.
    """
    if isinstance(suite, str):
        return suite_by_name(suite)
    if suite.name in SUITES and suite.content_hash() != SUITES[suite.name].content_hash():
        raise ValueError(f"suite must have a name of its own, got another protocol called {suite.name!r}; give it a new name")
    return suite


def select_pairs(pairs: Sequence[Pair], count: int | None) -> list[Pair]:
    """Choose clips that spread over utterances, speakers and vocoders, whatever the order of ``pairs``; fewer are a prefix of more.

    Args:
        pairs: Candidates.
        count: Clips wanted; ``None`` takes all.
    """
    return spread(pairs)[:count]
