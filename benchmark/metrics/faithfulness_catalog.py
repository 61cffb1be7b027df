"""The faithfulness metrics as registered: what each one tells, and where it misleads (formulas: ``faithfulness.py``, ``confidence.py``)."""

from dataclasses import dataclass

from xaibench.benchmark.metrics import faithfulness as pure
from xaibench.benchmark.metrics.info import Metric, MetricInfo
from xaibench.registry import METRICS

INF = float("inf")
RISE = "Petsiuk et al. 2018, arXiv:1806.07421"
SRG = "Blücher et al. 2024, arXiv:2401.06654"
GRADCAM = "Chattopadhay et al. 2018, arXiv:1710.11063"
OURS = "xaibench, docs/metrics.md"
CURVES = "2 (steps - 1) forwards"
TWO = "2 forwards per budget"
BESIDE = "the value of a random order"


@METRICS.register("deletion")
@dataclass(frozen=True)
class Deletion(Metric):
    """Mean log-odds while the strongest cells are taken away first; lower means that the detector misses them.

    What replaces a cell decides: silence may itself sound fake, and then everything looks relevant. Compare with the random order.
    """

    info = MetricInfo("deletion", "Deletion", False, -INF, INF, BESIDE, RISE, "faithfulness", "log-odds", CURVES)
    function = staticmethod(lambda curves: pure.summary(curves)["deletion"])


@METRICS.register("insertion")
@dataclass(frozen=True)
class Insertion(Metric):
    """Mean log-odds while the strongest cells are put back first; higher means that they suffice."""

    info = MetricInfo("insertion", "Insertion", True, -INF, INF, BESIDE, RISE, "faithfulness", "log-odds", CURVES)
    function = staticmethod(lambda curves: pure.summary(curves)["insertion"])


@METRICS.register("srg")
@dataclass(frozen=True)
class Srg(Metric):
    """Symmetric relevance gain: area of the least-relevant-first minus that of the most-relevant-first deletion.

    Whatever the occluder does to any clip cancels, so SRG agrees between occluders where deletion alone contradicts itself.
    """

    info = MetricInfo("srg", "Symmetric relevance gain", True, -INF, INF, "0", SRG, "faithfulness", "log-odds", CURVES)
    function = staticmethod(lambda curves: pure.summary(curves)["srg"])


@METRICS.register("deletion_normalized")
@dataclass(frozen=True)
class DeletionNormalized(Metric):
    """Deletion on a scale where 1 is the clip's own score and 0 its real twin's."""

    info = MetricInfo("deletion_normalized", "Deletion over gap", False, -INF, INF, BESIDE, RISE, "faithfulness", "gaps", CURVES)
    function = staticmethod(lambda curves, gap: pure.summary(curves, gap)["deletion_normalized"])


@METRICS.register("insertion_normalized")
@dataclass(frozen=True)
class InsertionNormalized(Metric):
    """Insertion on a scale where 1 is the clip's own score and 0 its real twin's."""

    info = MetricInfo("insertion_normalized", "Insertion over gap", True, -INF, INF, BESIDE, RISE, "faithfulness", "gaps", CURVES)
    function = staticmethod(lambda curves, gap: pure.summary(curves, gap)["insertion_normalized"])


@METRICS.register("srg_normalized")
@dataclass(frozen=True)
class SrgNormalized(Metric):
    """SRG in units of the gap between the clip's score and its real twin's, so that clips weigh alike."""

    info = MetricInfo("srg_normalized", "SRG over gap", True, -INF, INF, "0", SRG, "faithfulness", "gaps", CURVES)
    function = staticmethod(lambda curves, gap: pure.summary(curves, gap)["srg_normalized"])


@METRICS.register("out_of_range")
@dataclass(frozen=True)
class OutOfRange(Metric):
    """Share of masked inputs whose score no known clip has; above a fifth the curve says more about the occluder than about the map."""

    info = MetricInfo("out_of_range", "Masked inputs out of range", False, 0, 1, "", OURS, "diagnostic", cost=CURVES)
    function = staticmethod(lambda curves, gap=None, score_range=None: pure.summary(curves, gap, score_range)["out_of_range"])


@METRICS.register("range_excess")
@dataclass(frozen=True)
class RangeExcess(Metric):
    """How far the furthest masked input lies outside the scores of known clips."""

    info = MetricInfo("range_excess", "Furthest out of range", False, 0, INF, "", OURS, "diagnostic", "log-odds", CURVES)
    function = staticmethod(lambda curves, gap=None, score_range=None: pure.summary(curves, gap, score_range)["range_excess"])


@METRICS.register("average_increase")
@dataclass(frozen=True)
class AverageIncrease(Metric):
    """AI: per cent of clips whose kept part scores more spoof than the whole; the sign of a difference, however small."""

    info = MetricInfo("average_increase", "Average increase", True, 0, 100, BESIDE, GRADCAM, "faithfulness", "%", TWO)
    function = staticmethod(pure.average_increase)


@METRICS.register("average_drop")
@dataclass(frozen=True)
class AverageDrop(Metric):
    """AD: relative loss of confidence when only the explanation is kept; keeping everything is perfect, so it needs an area budget."""

    info = MetricInfo("average_drop", "Average drop", False, 0, 100, BESIDE, GRADCAM, "faithfulness", "%", TWO)
    function = staticmethod(pure.average_drop)


@METRICS.register("average_gain")
@dataclass(frozen=True)
class AverageGain(Metric):
    """AG: relative gain of confidence when only the explanation is kept; rewards moving further into saturation."""

    info = MetricInfo("average_gain", "Average gain", True, 0, 100, BESIDE, "Zhang et al. 2024, arXiv:2301.07002", "faithfulness", "%", TWO)
    function = staticmethod(pure.average_gain)


@METRICS.register("fidelity_in")
@dataclass(frozen=True)
class FidelityIn(Metric):
    """Fid-In: does the kept part get the clip's decision? A detector that calls everything fake makes every map perfect."""

    info = MetricInfo(
        "fidelity_in", "Fidelity of the kept part", True, 0, 1, BESIDE, "Paissan et al. 2023, arXiv:2303.12659", "faithfulness", "", TWO
    )
    function = staticmethod(pure.fidelity_in)


@METRICS.register("faithfulness_of_spectra")
@dataclass(frozen=True)
class FaithfulnessOfSpectra(Metric):
    """FF: confidence lost when the explanation is taken away; removing everything is about the best, so it needs an area budget."""

    info = MetricInfo(
        "faithfulness_of_spectra",
        "Faithfulness of spectra",
        True,
        -1,
        1,
        BESIDE,
        "Parekh et al. 2022, arXiv:2202.11479",
        "faithfulness",
        "",
        TWO,
    )
    function = staticmethod(pure.faithfulness_of_spectra)


@METRICS.register("log_odds_drop")
@dataclass(frozen=True)
class LogOddsDrop(Metric):
    """AD in log-odds, max(0, s - s_in): not blunted by saturation."""

    info = MetricInfo(
        "log_odds_drop", "Drop in log-odds", False, 0, INF, BESIDE, "Bolaños et al. 2025, arXiv:2506.04391", "faithfulness", "log-odds", TWO
    )
    function = staticmethod(lambda original, masked_in: pure.average_drop(original, masked_in, scale="log_odds"))


@METRICS.register("log_odds_gain")
@dataclass(frozen=True)
class LogOddsGain(Metric):
    """AG in log-odds, max(0, s_in - s)."""

    info = MetricInfo(
        "log_odds_gain", "Gain in log-odds", True, 0, INF, BESIDE, "Bolaños et al. 2025, arXiv:2506.04391", "faithfulness", "log-odds", TWO
    )
    function = staticmethod(lambda original, masked_in: pure.average_gain(original, masked_in, scale="log_odds"))


@METRICS.register("log_odds_removed")
@dataclass(frozen=True)
class LogOddsRemoved(Metric):
    """FF in log-odds, s - s_out: what the detector loses with the explanation."""

    info = MetricInfo(
        "log_odds_removed",
        "Loss in log-odds",
        True,
        -INF,
        INF,
        BESIDE,
        "Bolaños et al. 2025, arXiv:2506.04391",
        "faithfulness",
        "log-odds",
        TWO,
    )
    function = staticmethod(lambda original, masked_out: pure.faithfulness_of_spectra(original, masked_out, scale="log_odds"))
