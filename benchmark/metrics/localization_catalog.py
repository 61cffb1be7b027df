"""The localisation metrics as registered: what each one tells, and where it misleads (formulas: ``localization.py``)."""

from dataclasses import dataclass

from xaibench.benchmark.metrics import localization as pure
from xaibench.benchmark.metrics.info import Metric, MetricInfo
from xaibench.registry import METRICS

SUDRE = "Sudre et al. 2017, arXiv:1707.03237"
ARRAS = "Arras et al. 2022, arXiv:2003.07258"
OURS = "xaibench, docs/metrics.md"
MARGINAL = "one sort of frames or bins"


@METRICS.register("generalized_dice")
@dataclass(frozen=True)
class GeneralizedDice(Metric):
    """Overlap of the strongest cells with the truth, both classes weighted by the inverse square of their size.

    As many cells are taken as the truth has, so that a bolder map gains nothing. At 5 % area: chance .095, no overlap .047, perfect 1.
    The chance level depends on the mask's area, so scores of tasks with other areas cannot be compared; the corrected score can.
    """

    info = MetricInfo("generalized_dice", "Generalized Dice", True, 0, 1, "2m(1-m)", SUDRE, "localization")
    function = staticmethod(pure.generalized_dice)


@METRICS.register("generalized_dice_corrected")
@dataclass(frozen=True)
class GeneralizedDiceCorrected(Metric):
    """Generalized Dice with chance moved to 0 and perfect left at 1; negative where a map avoids the truth."""

    info = MetricInfo("generalized_dice_corrected", "Generalized Dice above chance", True, -1, 1, "0", SUDRE, "localization")
    function = staticmethod(lambda *args, **kwargs: pure.generalized_dice(*args, chance_corrected=True, **kwargs))


@METRICS.register("dice")
@dataclass(frozen=True)
class Dice(Metric):
    """Dice (F1) of the strongest cells with the truth; at equal area also precision, recall and relevance rank."""

    info = MetricInfo("dice", "Dice", True, 0, 1, "m", "Dice 1945, doi:10.2307/1932409", "localization")
    function = staticmethod(pure.dice)


@METRICS.register("iou")
@dataclass(frozen=True)
class IoU(Metric):
    """Intersection over union; at equal area Dice / (2 - Dice), so it orders explainers as Dice does."""

    info = MetricInfo(
        "iou", "Intersection over union", True, 0, 1, "m/(2-m)", "Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x", "localization"
    )
    function = staticmethod(pure.iou)


@METRICS.register("average_precision")
@dataclass(frozen=True)
class AveragePrecision(Metric):
    """Precision averaged over all thresholds, each weighted by the truth that it finds; tied cells enter together.

    It needs no binarisation and looks mostly at the strongest cells.
    """

    info = MetricInfo(
        "average_precision", "Average precision", True, 0, 1, "m", "Davis and Goadrich 2006, doi:10.1145/1143844.1143874", "localization"
    )
    function = staticmethod(pure.average_precision)


@METRICS.register("auroc")
@dataclass(frozen=True)
class Auroc(Metric):
    """Probability that a cell of the truth outranks another cell, ties counting half.

    With 5 % truth it is dominated by the many weak cells: a map can score .8 and still put its strongest cells elsewhere.
    """

    info = MetricInfo("auroc", "AUROC", True, 0, 1, "0.5", "Fawcett 2006, doi:10.1016/j.patrec.2005.10.010", "localization")
    function = staticmethod(pure.auroc)


@METRICS.register("stratified_auc")
@dataclass(frozen=True)
class StratifiedAuc(Metric):
    """AUROC among cells of the same frequency band and level: what a map knows beyond "these frequencies, this loud".

    A prior of finer resolution than 16 bands and 9 dB still scores above .5; its measured value stands beside the score as the floor.
    """

    info = MetricInfo("stratified_auc", "Stratified AUC", True, 0, 1, "0.5", OURS, "localization", cost="one sort and one radix sort")
    function = staticmethod(pure.stratified_auc)


@METRICS.register("relevance_mass")
@dataclass(frozen=True)
class RelevanceMass(Metric):
    """Share of the positive relevance that lies in the truth.

    It is the one localisation score that depends on the values and not only on their order: a monotone stretch of the map changes it.
    """

    info = MetricInfo("relevance_mass", "Relevance mass", True, 0, 1, "m", ARRAS, "localization", cost="one pass")
    function = staticmethod(pure.relevance_mass)


@METRICS.register("relevance_rank")
@dataclass(frozen=True)
class RelevanceRank(Metric):
    """Share of the truth among as many strongest cells: Dice at equal area under its other name."""

    info = MetricInfo("relevance_rank", "Relevance rank", True, 0, 1, "m", ARRAS, "localization")
    function = staticmethod(pure.relevance_rank)


@METRICS.register("pointing_game")
@dataclass(frozen=True)
class PointingGame(Metric):
    """Does the single strongest cell lie in the truth? Among tied maxima, the share that does.

    One cell of 130 000 decides, so only the mean over many clips tells anything.
    """

    info = MetricInfo("pointing_game", "Pointing game", True, 0, 1, "m", "Zhang et al. 2018, arXiv:1608.00507", "localization")
    function = staticmethod(pure.pointing_game)
    tolerance_bins: int = 0


@METRICS.register("spearman")
@dataclass(frozen=True)
class Spearman(Metric):
    """Rank correlation with the continuous difference of the twins: no mask, no threshold.

    All cells count alike, so agreement about inaudible cells can outweigh the artifact.
    """

    info = MetricInfo("spearman", "Spearman correlation", True, -1, 1, "0", "Spearman 1904, doi:10.2307/1412159", "localization")
    function = staticmethod(pure.spearman)


@METRICS.register("time_auroc")
@dataclass(frozen=True)
class TimeAuroc(Metric):
    """AUROC where each cell carries its frame's mean relevance: does the map know *when*?"""

    info = MetricInfo("time_auroc", "AUROC in time", True, 0, 1, "0.5", OURS, "localization", cost=MARGINAL)
    function = staticmethod(lambda heatmap, mask, valid=None: pure.auroc(pure.marginal(heatmap, "time", valid), mask, valid))


@METRICS.register("time_average_precision")
@dataclass(frozen=True)
class TimeAveragePrecision(Metric):
    """Average precision where each cell carries its frame's mean relevance."""

    info = MetricInfo("time_average_precision", "Average precision in time", True, 0, 1, "m", OURS, "localization", cost=MARGINAL)
    function = staticmethod(lambda heatmap, mask, valid=None: pure.average_precision(pure.marginal(heatmap, "time", valid), mask, valid))


@METRICS.register("frequency_auroc")
@dataclass(frozen=True)
class FrequencyAuroc(Metric):
    """AUROC where each cell carries its frequency's mean relevance: does the map know *which frequencies*?"""

    info = MetricInfo("frequency_auroc", "AUROC in frequency", True, 0, 1, "0.5", OURS, "localization", cost=MARGINAL)
    function = staticmethod(lambda heatmap, mask, valid=None: pure.auroc(pure.marginal(heatmap, "frequency", valid), mask, valid))


@METRICS.register("frequency_average_precision")
@dataclass(frozen=True)
class FrequencyAveragePrecision(Metric):
    """Average precision where each cell carries its frequency's mean relevance."""

    info = MetricInfo("frequency_average_precision", "Average precision in frequency", True, 0, 1, "m", OURS, "localization", cost=MARGINAL)
    function = staticmethod(
        lambda heatmap, mask, valid=None: pure.average_precision(pure.marginal(heatmap, "frequency", valid), mask, valid)
    )


@METRICS.register("tied_cells")
@dataclass(frozen=True)
class TiedCells(Metric):
    """How many equal cells the binarisation had to cut between; large where a map is coarse or flat."""

    info = MetricInfo("tied_cells", "Tied cells at the cut", False, 0, float("inf"), "0", OURS, "diagnostic", unit="cells")
    function = staticmethod(pure.tied_cells)


@METRICS.register("generalized_dice_at_threshold")
@dataclass(frozen=True)
class GeneralizedDiceAtThreshold(Metric):
    """Overlap of the cells above the explainer's own threshold, however many, as SegDiff's papers score it; none, or all, is chance."""

    info = MetricInfo(
        "generalized_dice_at_threshold", "Generalized Dice at its threshold", True, 0, 1, "2m(1-m)", SUDRE, "diagnostic", cost="one pass"
    )
    function = staticmethod(lambda heatmap, mask, valid=None, *, threshold: pure.generalized_dice(heatmap > threshold, mask, valid))
    threshold: float = 0.5


@METRICS.register("dice_at_threshold")
@dataclass(frozen=True)
class DiceAtThreshold(Metric):
    """Dice of the cells above the explainer's own threshold; 0 where it chooses none."""

    info = MetricInfo(
        "dice_at_threshold",
        "Dice at its threshold",
        True,
        0,
        1,
        "2am/(a+m) for a share a of cells",
        "Dice 1945, doi:10.2307/1932409",
        "diagnostic",
    )
    function = staticmethod(lambda heatmap, mask, valid=None, *, threshold: pure.dice(heatmap > threshold, mask, valid))
    threshold: float = 0.5


@METRICS.register("area_at_threshold")
@dataclass(frozen=True)
class AreaAtThreshold(Metric):
    """Share of the vocoded clip's cells that lie above the explainer's own threshold; beside the false-alarm area of the real recording."""

    info = MetricInfo("area_at_threshold", "Area at its threshold", False, 0, 1, "", OURS, "diagnostic", cost="one pass")
    function = staticmethod(pure.false_alarm_area)
    threshold: float = 0.5


@METRICS.register("false_alarm_area")
@dataclass(frozen=True)
class FalseAlarmArea(Metric):
    """Share of a real recording's cells that are called artifact; the only localisation score that a clip without artifact has."""

    info = MetricInfo("false_alarm_area", "False-alarm area", False, 0, 1, "the share it flags", OURS, "diagnostic", cost="one pass")
    function = staticmethod(pure.false_alarm_area)
    threshold: float = 0.5
