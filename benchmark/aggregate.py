"""Clip values to table rows: means over clusters with intervals, failures imputed, tiers, and whether a row beats the best control.

Clusters are speakers where the clips with a value have enough of them, else utterances: for a mean its own clips count, for tiers and
verdicts, which use one kind per place, the clips on which all rows of the place have a value.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from xaibench.benchmark.block import Block, Mask, Values, by_place, make_block
from xaibench.benchmark.claims import Outcome, claim_of, outcome, sentence
from xaibench.benchmark.statistics import (
    Interval,
    cluster_bootstraps,
    detectable_difference,
    holm,
    leave_one_out_spread,
    paired_p,
    share_interval,
    tiers,
)
from xaibench.benchmark.suite import Suite
from xaibench.benchmark.summary import PRIMARY, SummaryRow

COLUMNS_AT_ONCE = 128
ALPHA = 0.05
HITS = {"pointing_game": 1.0, "fidelity_in": 1.0, "average_increase": 100.0}
"""Metrics of hits and misses, with the value of a hit: where all clips are one of the two, intervals are those of a share."""


@dataclass(frozen=True)
class RowInfo:
    """What a table must know of an explainer."""

    label: str
    title: str
    control: bool
    oracle: bool
    competes: bool = True
    """Whether the row is ranked. One that covers a part of the clips, chosen by its author, has means and neither tier nor verdict."""


class Aggregator:
    """Makes summary rows by the rules of a suite.

    Args:
        suite: Gate, clusters, draws and seed.
        rows: What is known of each explainer, by label.
        higher_is_better: Direction of every metric in which rows compete; others (costs, diagnostics) are averaged and no more.
    """

    def __init__(self, suite: Suite, rows: Mapping[str, RowInfo], higher_is_better: Mapping[str, bool]):
        self.suite, self.rows, self.higher = suite, rows, higher_is_better

    def summarise(self, units: Iterable[Mapping[str, Any]]) -> list[SummaryRow]:
        """Summarise the rows of ``units.parquet``, which come sorted."""
        found: list[SummaryRow] = []
        for (task, detector), part in groupby(units, key=itemgetter("task", "detector")):
            block = make_block(task, detector, part)
            self.impute(block)
            for name, inside in self._slices(block):
                found += self._slice_rows(block, name, inside)
        return found

    def impute(self, block: Block) -> None:
        """Give every failed explanation, clip by clip, the lowest control: failing must never pay."""
        for place, members in by_place(block.columns).items():
            controls = [i for i in members if self._competes_as_control(block.columns[i][0])]
            if place[3] not in self.higher or not controls:
                continue
            measured = np.where(block.failed[:, controls], np.nan, block.values[:, controls])
            worst = worst_of(measured, self.higher[place[3]])
            for i in members:
                block.values[:, i] = np.where(block.failed[:, i], worst, block.values[:, i])

    def _competes_as_control(self, label: str) -> bool:
        return label in self.suite.controls and not self.rows[label].oracle

    def _slices(self, block: Block) -> Iterator[tuple[str, Mask]]:
        seen = np.array([clip.seen_vocoder for clip in block.clips])
        yield "all", np.ones(len(seen), bool)
        if seen.any() and not seen.all():
            yield "seen", seen
            yield "unseen", ~seen
        for vocoder in sorted({clip.vocoder for clip in block.clips}):
            yield f"vocoder:{vocoder}", np.array([clip.vocoder == vocoder for clip in block.clips])

    def _sliced(self, block: Block) -> tuple[str, ...]:
        """Return the metrics that are broken down by vocoder: those of the suite, or what there is instead without twins."""
        return self.suite.sliced_metrics if any(c[4] in self.suite.sliced_metrics for c in block.columns) else PRIMARY

    def _slice_rows(self, block: Block, name: str, inside: Mask) -> Iterator[SummaryRow]:
        sliced = self._sliced(block)
        wanted = [i for i, column in enumerate(block.columns) if name == "all" or column[4] in sliced]
        part = block.take(inside, wanted)
        intervals = {by: self._row_intervals(part, by) for by in ("utterance", "speaker")}
        detectable: dict[int, float] = {}
        tier: dict[int, int | None] = {}
        beats: dict[int, bool] = {}
        claims: dict[int, str] = {}
        for place, members in by_place(part.columns).items():
            ranked = [j for j in members if (info := self.rows[part.columns[j][0]]).competes and not info.oracle]
            rows = [j for j in ranked if self._enough(intervals["utterance"][j])]
            if place[3] in self.higher and rows:
                clusters = part.clusters(self._kind(part, np.asarray(np.isfinite(part.values[:, rows]).all(1))))
                winners = self._beats(part, rows, clusters, self.higher[place[3]])
                beats |= winners
                tier |= self._tiers(part, rows, clusters, self.higher[place[3]], winners)
                detectable |= self._detectable(part, rows, clusters, self.higher[place[3]])
                claims |= self._claims(part, rows, clusters, self.higher[place[3]]) if place[3] in PRIMARY else {}
        for j, _ in enumerate(wanted):
            if part.asked[:, j].any():
                by = self._kind(part, np.isfinite(part.values[:, j]))
                row = self._row(part, j, name, {k: v[j] for k, v in intervals.items()}, by, tier.get(j), beats.get(j))
                notes = "; ".join(filter(None, (claims.get(j), row.note)))
                spread = self._without_each_vocoder(part, j, by) if name == "all" else {}
                yield row.model_copy(update={"note": notes, "detectable": finite(detectable.get(j, np.nan)), **spread})

    def _kind(self, part: Block, clips: Mask) -> str:
        """Choose the clusters of some clips: speakers if there are enough of them, else utterances."""
        speakers = {clip.speaker for clip, inside in zip(part.clips, clips, strict=True) if inside}
        return "speaker" if len(speakers) >= self.suite.min_speakers else "utterance"

    def _row_intervals(self, part: Block, by: str) -> list[Interval]:
        """Return the interval of each column's mean; of hits and misses that of a share."""
        found = self._intervals(part.values, part.clusters(by))
        for j, column in enumerate(part.columns):
            hit, values = HITS.get(column[4]), part.values[:, j]
            if hit is not None and np.isin(values[np.isfinite(values)], (0.0, hit)).all():
                found[j] = share_interval(found[j], scale=hit, level=self.suite.level)
        return found

    def _intervals(self, values: Values, clusters: Sequence[str]) -> list[Interval]:
        """Return the interval of each column: equal columns once, and some at a time, as all draws of all columns would fill the memory."""
        suite, found = self.suite, list[Interval]()
        names = [column.tobytes() for column in values.T]
        distinct = {name: j for j, name in reversed(list(enumerate(names)))}
        places = list(distinct.values())
        for start in range(0, len(places), COLUMNS_AT_ONCE):
            columns = values[:, places[start : start + COLUMNS_AT_ONCE]]
            found += cluster_bootstraps(columns, clusters, n_draws=suite.n_draws, seed=suite.statistics_seed, level=suite.level)
        by_name = dict(zip(distinct, found, strict=True))
        return [by_name[name] for name in names]

    def _enough(self, interval: Interval) -> bool:
        return interval.n >= self.suite.min_clips

    def _tiers(
        self, part: Block, rows: Sequence[int], clusters: Sequence[str], higher: bool, beats: Mapping[int, bool]
    ) -> dict[int, int | None]:
        """Rank the rows of a place in tiers; each pair of rows is compared on the clips where both have a value.

        A row that beats every control shares no tier with one, though among all pairs of rows, a larger family, it might not be told apart.
        """
        name = {j: part.columns[j][0] for j in rows}
        controls = [j for j in rows if self._competes_as_control(name[j])]
        known = [(name[j], name[c]) for j, won in beats.items() if won for c in controls]
        scores = {name[j]: part.values[:, j] for j in rows}
        ranks = tiers(scores, clusters, higher_is_better=higher, alpha=ALPHA, known_apart=known)
        return {j: ranks[part.columns[j][0]] for j in rows}

    def _beats(self, part: Block, rows: Sequence[int], clusters: Sequence[str], higher: bool) -> dict[int, bool]:
        """Tell which explainers of a place beat the best control, which means all of them, oracles excepted.

        An explainer beats the controls if the paired interval of its difference from every one lies on the good side of zero, and the
        largest p of these differences, corrected by Holm over the explainers of the place, is below 0.05. Which control happens to have
        the best mean on these clips does not matter. Differences are taken clip by clip, where both have a value.
        """
        controls = [j for j in rows if self._competes_as_control(part.columns[j][0])]
        own = [j for j in rows if not self.rows[part.columns[j][0]].control]
        if not controls or not own:
            return {}
        sign = 1.0 if higher else -1.0
        ahead = {j: sign * (part.values[:, [j]] - part.values[:, controls]) for j in own}
        largest = holm([np.nan_to_num(paired_p(difference, clusters), nan=1.0).max() for difference in ahead.values()])
        found = dict.fromkeys(own, False)
        for j, p in zip(own, largest, strict=True):
            found[j] = bool(p < ALPHA) and all(i.low > 0 for i in self._intervals(ahead[j], clusters))
        return found

    def _detectable(self, part: Block, rows: Sequence[int], clusters: Sequence[str], higher: bool) -> dict[int, float]:
        """Return, for each explainer of a place, the smallest true difference from the best control that these clips could have shown."""
        controls = [j for j in rows if self._competes_as_control(part.columns[j][0])]
        if not controls:
            return {}
        means = [float(np.nanmean(part.values[:, j])) for j in controls]
        best = controls[int(np.argmax(means) if higher else np.argmin(means))]
        own = [j for j in rows if not self.rows[part.columns[j][0]].control]
        return {j: detectable_difference(part.values[:, j] - part.values[:, best], clusters, alpha=ALPHA) for j in own}

    def _claims(self, part: Block, rows: Sequence[int], clusters: Sequence[str], higher: bool) -> dict[int, str]:
        """Say of each explainer with a claim whether the paired interval of its difference from its ablation bears it out."""
        place_of = {part.columns[j][0]: j for j in rows}
        said: dict[int, str] = {}
        for label, j in place_of.items():
            claim, ablation = claim_of(label)
            if not claim:
                continue
            found: Outcome = "missing"
            if ablation in place_of:
                difference = (1.0 if higher else -1.0) * (part.values[:, [j]] - part.values[:, [place_of[ablation]]])
                interval = self._intervals(difference, clusters)[0]
                found = outcome(interval.low, interval.high)
            said[j] = sentence(claim, ablation, found)
        return said

    def _without_each_vocoder(self, part: Block, j: int, by: str) -> dict[str, float | None]:
        """Return the least and the greatest mean with one vocoder left out, of the metrics that are told by vocoder."""
        vocoders = [clip.vocoder for clip in part.clips]
        if part.columns[j][4] not in self._sliced(part) or len(set(vocoders)) < 2:
            return {}
        means = np.array(list(leave_one_out_spread(part.values[:, j], part.clusters(by), vocoders).values()))
        means = means[np.isfinite(means)]
        return {"without_vocoder_low": finite(means.min()), "without_vocoder_high": finite(means.max())} if len(means) else {}

    def _row(
        self, part: Block, j: int, name: str, intervals: Mapping[str, Interval], by: str, tier: int | None, beats: bool | None
    ) -> SummaryRow:
        label, recipe, polarity, occluder, metric = part.columns[j]
        info, official = self.rows[label], intervals[by]
        asked, failed = part.asked[:, j], part.failed[:, j]
        return SummaryRow(
            task=part.task,
            detector=part.detector,
            explainer=label,
            title=info.title,
            control=info.control,
            oracle=info.oracle,
            recipe=recipe,
            polarity=polarity,
            occluder=occluder,
            metric=metric,
            slice=name,
            mean=finite(official.mean),
            low=finite(official.low),
            high=finite(official.high),
            n=official.n,
            n_total=int(asked.sum()),
            n_undefined=int((asked & ~failed & ~part.excused[:, j] & np.isnan(part.values[:, j])).sum()),
            n_failed=int(failed.sum()),
            clusters_utterance=intervals["utterance"].n_clusters,
            clusters_speaker=intervals["speaker"].n_clusters,
            interval_by=by,
            utterance_low=finite(intervals["utterance"].low),
            utterance_high=finite(intervals["utterance"].high),
            speaker_low=finite(intervals["speaker"].low),
            speaker_high=finite(intervals["speaker"].high),
            tier=tier,
            beats_best_control=beats,
            note=self._note(part, j, official),
        )

    def _note(self, part: Block, j: int, interval: Interval) -> str:
        notes = []
        if part.excused[:, j].any():
            notes.append(f"not applicable: {part.reasons[j]}")
        elif not self._enough(interval):
            notes.append(f"not enough clips: {interval.n} of {self.suite.min_clips}")
        if failed := int(part.failed[:, j].sum()):
            imputed = int((part.failed[:, j] & np.isfinite(part.values[:, j])).sum())
            notes += [f"{imputed} failed explanations take the lowest control"] if imputed else []
            notes += [f"{failed - imputed} failed explanations have no value"] if failed > imputed else []
        return "; ".join(notes)


def worst_of(values: Values, higher_is_better: bool) -> Values:
    """Return the worst value of each line, NaN where none is defined."""
    filled = np.where(np.isnan(values), np.inf if higher_is_better else -np.inf, values)
    found = filled.min(1) if higher_is_better else filled.max(1)
    return np.where(np.isinf(found), np.nan, found)


def finite(value: float) -> float | None:
    """Round to ten significant digits, beyond which machines differ; NaN and infinity become null."""
    return float(f"{value:.10g}") if np.isfinite(value) else None
