"""The words of the leaderboard: titles and explanations of metrics, and outside text made safe to show.

Escaping is the template engine's task; here go the characters that escaping leaves alone: control codes, line breaks and bidirectional
overrides, with which a name could rewrite the line it stands in, on a page as in a terminal.
"""

import unicodedata
from dataclasses import dataclass

PRIMARY = "generalized_dice"
CORRECTED = "generalized_dice_corrected"
STRATIFIED = "stratified_auc"
PRIOR = "frequency_level_prior"
"""The control whose score is the floor of stratified AUC."""
MAX_TEXT = 600
CHANCE_GDICE = 0.095
"""Generalized Dice of a random map at 5 % area, 2m(1 - m) with m = .05."""
TIER_RULE = "No two rows of one tier can be told apart by a paired test (Holm-corrected); rows of different tiers may still be inseparable."
MEANINGLESS_ABOVE = 0.76
"""Half a hop of shift moves the truth to Dice .75, which is .76 in Generalized Dice at 5 % area."""


@dataclass(frozen=True)
class Primary:
    """The score by which a board is ordered; which one depends on what is known of its task."""

    name: str
    chance: float
    chance_text: str
    question: str
    asked: str
    """What an explainer had to do, after "explainers of DETECTOR had to"."""
    dead: float | None = None
    """Above it differences mean nothing."""


PRIMARIES = (
    Primary(
        PRIMARY,
        CHANCE_GDICE,
        "any map that knows nothing, at 5 % area",
        "Where does a vocoded clip differ from the real recording it was made from?",
        "point at it",
        MEANINGLESS_ABOVE,
    ),
    Primary("time_auroc", 0.5, "any map that knows nothing", "Which stretches of a recording are fake?", "find them"),
    Primary("srg", 0.0, "cells in random order", "Which cells does the detector need? No twin tells.", "rank them"),
)
"""In the order of preference: twins or planted truth, labels in time, nothing but the detector."""


@dataclass(frozen=True)
class MetricWords:
    """How a metric is shown."""

    name: str
    title: str
    short: str
    higher_is_better: bool
    scale: float
    digits: int
    group: str
    text: str


_KNOWN = (
    MetricWords(
        PRIMARY,
        "Generalized Dice",
        "GDice",
        True,
        100,
        1,
        "localization",
        "Overlap of the explainer's strongest cells with the truth, both classes weighted by the inverse square of "
        "their size (Sudre et al. 2017). "
        "As many cells are taken as the truth has, by rank, so that a bolder map gains nothing. At an area of 5 % "
        "chance is 9.5 and perfect is 100.",
    ),
    MetricWords(
        CORRECTED,
        "GDice above chance",
        "corrected",
        True,
        100,
        1,
        "localization",
        "Generalized Dice with chance moved to 0 and perfect left at 100: (GDice − 2m(1−m)) / (1 − 2m(1−m)) with m the "
        "share of cells in the truth.",
    ),
    MetricWords(
        "dice",
        "Dice",
        "Dice",
        True,
        100,
        1,
        "localization",
        "Overlap of the chosen cells with the truth; at equal area the same as precision and recall.",
    ),
    MetricWords("iou", "Intersection over union", "IoU", True, 100, 1, "localization", "Dice in another unit: Dice / (2 − Dice)."),
    MetricWords(
        "average_precision",
        "Average precision",
        "AP",
        True,
        100,
        1,
        "localization",
        "Precision averaged over all thresholds; chance is the share of cells in the truth, usually 5.",
    ),
    MetricWords(
        "auroc",
        "AUROC",
        "AUROC",
        True,
        100,
        1,
        "localization",
        "How often a cell of the truth outranks a cell outside it; ties count half, chance is 50.",
    ),
    MetricWords(
        STRATIFIED,
        "Stratified AUC",
        "sAUC",
        True,
        100,
        1,
        "localization",
        "AUROC among cells of the same frequency band and level (16 bands by 9 dB), which takes away part of what a map "
        "gains by knowing in which bands and at which levels vocoders fail. Part of it stays: cells differ within a band "
        "and level, too. The floor is not 50 but the measured value of frequency_level_prior.",
    ),
    MetricWords(
        "pointing_game",
        "Pointing game",
        "pointing",
        True,
        100,
        0,
        "localization",
        "How often the single strongest cell lies in the truth (Zhang et al. 2018); ties give their expected value.",
    ),
    MetricWords(
        "relevance_mass",
        "Relevance mass",
        "mass",
        True,
        100,
        1,
        "localization",
        "Share of the positive relevance that lies in the truth (Arras et al. 2022); chance is the share of cells in the truth.",
    ),
    MetricWords(
        "relevance_rank", "Relevance rank", "rank", True, 100, 1, "localization", "Share of the strongest cells that lie in the truth."
    ),
    MetricWords(
        "time_auroc",
        "Time AUROC",
        "tAUC",
        True,
        100,
        1,
        "localization",
        "How often a frame that is labelled fake has more mean relevance than one that is not; ties count half, chance is 50.",
    ),
    MetricWords(
        "time_average_precision",
        "Time average precision",
        "tAP",
        True,
        100,
        1,
        "localization",
        "Precision of the frames by mean relevance, averaged over all thresholds; chance is the share of fake frames.",
    ),
    MetricWords(
        "deletion",
        "Deletion",
        "deletion",
        False,
        1,
        2,
        "faithfulness",
        "Area under the detector's log-odds while the strongest cells are taken away first; lower means that the detector misses them.",
    ),
    MetricWords(
        "insertion",
        "Insertion",
        "insertion",
        True,
        1,
        2,
        "faithfulness",
        "Area under the log-odds while the strongest cells are put back first; higher means that they suffice.",
    ),
    MetricWords(
        "srg",
        "Symmetric relevance gain",
        "SRG",
        True,
        1,
        2,
        "faithfulness",
        "Weakest cells first minus strongest cells first, area under the log-odds (Blücher et al. 2024). The rank order "
        "it gives depends least on "
        "what the cells are replaced by.",
    ),
    MetricWords(
        "causal_spearman",
        "Rank correlation with the causal truth",
        "rank corr.",
        True,
        100,
        0,
        "causal",
        "Do map and detector rank the tiles of the clip alike? The causal truth gives each tile its Shapley value: what swapping it for "
        "the real twin's takes from the detector's log-odds, averaged over all orders. Chance is 0.",
    ),
    MetricWords(
        "causal_average_precision",
        "Average precision of the causal tiles",
        "AP",
        True,
        100,
        0,
        "causal",
        "Are the quarter of tiles that speak most for spoof on top of the map? Chance is about 32 of 32 tiles and 37 of 16; "
        "a map that says nothing gets 25.",
    ),
    MetricWords(
        "causal_gap_closed_normalized",
        "Gap closed, random tiles 0, best tiles 100",
        "gap closed",
        True,
        100,
        0,
        "causal",
        "Swap the map's best quarter of tiles for the real twin's: how much of the gap between the twins closes, between what random tiles "
        "close (0) and what the truth's own best close (100).",
    ),
    MetricWords(
        "sanity_entropy_rise",
        "Entropy rise, randomised detector",
        "entropy rise",
        True,
        100,
        0,
        "sanity",
        "How much more disordered the map becomes once all weights of the detector are drawn anew; 0: it does not read them.",
    ),
    MetricWords(
        "sanity_randomized_similarity",
        "Similarity, randomised detector",
        "same map",
        False,
        100,
        0,
        "sanity",
        "Size of the rank correlation with the map of the randomised detector; near 100 the method paints the clip and not the detector.",
    ),
    MetricWords(
        "sanity_repeatability",
        "Repeatability over seeds",
        "repeats",
        True,
        100,
        0,
        "sanity",
        "Rank correlation between the maps of two seeds; 100 for a method without chance.",
    ),
    MetricWords(
        "sanity_maximum_sensitivity",
        "Sensitivity to inaudible noise",
        "moves",
        False,
        1,
        3,
        "sanity",
        "Largest relative change of the map under noise that nobody hears; 0 is perfectly stable, as is a constant.",
    ),
    MetricWords(
        "sanity_cross_vocoder_similarity",
        "Similarity between vocoders",
        "between vocoders",
        False,
        100,
        0,
        "sanity",
        "Overlap of the strongest cells of one utterance through different vocoders; true masks share about 20, more follows the speech.",
    ),
    MetricWords(
        "seconds", "Seconds per clip", "s / clip", False, 1, 2, "cost", "Wall time of one explanation on this machine; machines differ."
    ),
    MetricWords(
        "forwards", "Forward passes", "forwards", False, 1, 0, "cost", "Calls of the detector for one clip, counted by the harness."
    ),
    MetricWords("backwards", "Backward passes", "backwards", False, 1, 0, "cost", "Gradient passes through the detector for one clip."),
    MetricWords("peak_rss_mb", "Peak memory", "MB", False, 1, 0, "cost", "Largest resident memory of the process while explaining."),
)
METRICS = {words.name: words for words in _KNOWN}


def metric(name: str) -> MetricWords:
    """Return the words of a metric; an unknown metric is shown under its own name, in its own unit."""
    return METRICS.get(name) or MetricWords(name, name.replace("_", " "), name.replace("_", " "), True, 1, 3, "other", "")


def clean(text: object) -> str:
    r"""Make outside text safe to show: one line, no control or bidirectional characters, at most 600 characters.

    >>> clean("a\u202eb\n c")
    'a\ufffdb  c'
    """
    kept = "".join(_shown(c) for c in str(text)[: MAX_TEXT + 1])
    return kept if len(kept) <= MAX_TEXT else kept[: MAX_TEXT - 1] + "…"


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    return "\ufffd" if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"} else character
