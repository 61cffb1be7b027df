"""The causal metrics as registered: what each one tells, and where it misleads (formulas: ``causal.py``; the truth: ``docs/causal.md``)."""

from dataclasses import dataclass

from xaibench.benchmark.metrics import causal as pure
from xaibench.benchmark.metrics.info import Metric, MetricInfo
from xaibench.registry import METRICS

INFOS = {record.name: record for record in pure.INFOS}


@METRICS.register("causal_spearman")
@dataclass(frozen=True)
class CausalSpearman(Metric):
    """Does the map rank the tiles as the detector uses them?

    Most tiles of a typical clip are worth almost nothing, and their order counts like that of the others.
    """

    info = INFOS["causal_spearman"]
    function = staticmethod(pure.spearman)


@METRICS.register("causal_average_precision")
@dataclass(frozen=True)
class CausalAveragePrecision(Metric):
    """Are the tiles that speak most for *spoof* on top of the map? The strongest quarter is to be found, in any order."""

    info = INFOS["causal_average_precision"]
    function = staticmethod(pure.average_precision)


@METRICS.register("causal_gap_closed")
@dataclass(frozen=True)
class CausalGapClosed(Metric):
    """Exchange the map's best quarter of tiles for the real twin's: what share of the gap between the twins closes?

    Beyond 1 the detector overshoots; compare with random tiles and with the truth's own best.
    """

    info = INFOS["causal_gap_closed"]
    function = staticmethod(pure.gap_closed)


@METRICS.register("causal_gap_closed_normalized")
@dataclass(frozen=True)
class CausalGapClosedNormalized(Metric):
    """The share of the gap closed, with random tiles at 0 and the truth's own best tiles at 1.

    Those tiles are not the best set, so a value above 1 is possible.
    """

    info = INFOS["causal_gap_closed_normalized"]
    function = staticmethod(pure.score)


@METRICS.register("causal_gap_closed_reference")
@dataclass(frozen=True)
class CausalGapClosedReference(Metric):
    """What the truth's own best quarter of tiles closes: the same for every row of a clip."""

    info = INFOS["causal_gap_closed_reference"]
    function = staticmethod(pure.score)


@METRICS.register("causal_split_half")
@dataclass(frozen=True)
class CausalSplitHalf(Metric):
    """Rank correlation between the truths of two halves of the permutations: how much of the truth is sampling error."""

    info = MetricInfo("causal_split_half", "Split-half correlation of the truth", True, -1, 1, "0", pure.OURS, "diagnostic", cost="none")
    function = staticmethod(pure.spearman)


@METRICS.register("causal_null_shift")
@dataclass(frozen=True)
class CausalNullShift(Metric):
    """Null control: the mean change of log-odds, as a share of the gap, when one tile gets random phases under its own magnitudes."""

    info = MetricInfo("causal_null_shift", "Null control of the truth", False, 0, float("inf"), "0", pure.OURS, "diagnostic", cost="none")
    function = staticmethod(pure.score)


@METRICS.register("causal_share_outside")
@dataclass(frozen=True)
class CausalShareOutside(Metric):
    """Share of the mixtures of twins that score beyond both; above a fifth the clip is refused."""

    info = MetricInfo("causal_share_outside", "Mixtures beyond both twins", False, 0, 1, "0", pure.OURS, "diagnostic", cost="none")
    function = staticmethod(pure.score)
