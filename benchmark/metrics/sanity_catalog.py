"""The sanity checks as registered: what each one tells, and where it misleads (``sanity.py``, ``benchmark/sanity.py``)."""

import math
from dataclasses import dataclass

from xaibench.benchmark.metrics import sanity as pure
from xaibench.benchmark.metrics.info import Metric, MetricInfo
from xaibench.benchmark.metrics.localization import spearman
from xaibench.registry import METRICS

HEDSTROEM = "Hedström et al. 2024, arXiv:2405.02383"
ADEBAYO = "Adebayo et al. 2018, arXiv:1810.03292"
YEH = "Yeh et al. 2019, arXiv:1901.09392"
GRINBERG = "Grinberg et al. 2025, arXiv:2506.03425, figure 3"
AGAIN = "one further explanation"


@METRICS.register("sanity_entropy_rise")
@dataclass(frozen=True)
class EntropyRise(Metric):
    """How much more disordered the map is once all weights of the detector are drawn anew; 0: it does not read the weights.

    A method that already gives noise cannot rise, so read it beside the rank correlation with the randomised detector's map.
    """

    info = MetricInfo("sanity_entropy_rise", "Entropy rise, randomised detector", True, -1, math.inf, "0", HEDSTROEM, "sanity", cost=AGAIN)
    function = staticmethod(pure.entropy_rise)


@METRICS.register("sanity_randomized_similarity")
@dataclass(frozen=True)
class RandomizedSimilarity(Metric):
    """Size of the rank correlation between the maps of the trained and of a randomised detector; near 1 the map paints the clip.

    A map turned round counts as the same: it paints the clip just as much.
    """

    info = MetricInfo("sanity_randomized_similarity", "Similarity, randomised detector", False, 0, 1, "0", ADEBAYO, "sanity", cost=AGAIN)
    function = staticmethod(spearman)


@METRICS.register("sanity_repeatability")
@dataclass(frozen=True)
class Repeatability(Metric):
    """Rank correlation between the maps of two seeds; 1 for a method without chance."""

    info = MetricInfo(
        "sanity_repeatability", "Repeatability over seeds", True, -1, 1, "0", "xaibench, docs/metrics.md", "sanity", cost=AGAIN
    )
    function = staticmethod(pure.repeatability)


@METRICS.register("sanity_maximum_sensitivity")
@dataclass(frozen=True)
class MaximumSensitivity(Metric):
    """Largest relative change of the map under noise that nobody hears, 60 dB under the clip; 0 is perfectly stable, as is a constant."""

    info = MetricInfo("sanity_maximum_sensitivity", "Sensitivity to inaudible noise", False, 0, math.inf, "none", YEH, "sanity", cost=AGAIN)
    function = staticmethod(pure.maximum_sensitivity)


@METRICS.register("sanity_cross_vocoder_similarity")
@dataclass(frozen=True)
class CrossVocoderSimilarity(Metric):
    """Dice of the strongest cells of one utterance through different vocoders; true masks share about .2, and more follows the speech."""

    info = MetricInfo(
        "sanity_cross_vocoder_similarity", "Similarity between vocoders", False, 0, 1, "0.05", GRINBERG, "sanity", cost="stored maps"
    )
    function = staticmethod(pure.cross_vocoder_similarity)
