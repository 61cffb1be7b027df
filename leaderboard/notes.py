"""What a report says beside its tables: how many clips count, what stands on too few of them, where a measured floor lies."""

from collections.abc import Mapping, Sequence
from typing import Any

from xaibench.benchmark.suite import EVERY_GAP
from xaibench.leaderboard.rows import Board, Score, number
from xaibench.leaderboard.words import METRICS, PRIOR, STRATIFIED, MetricWords


def gate(record: Mapping[str, Any]) -> str:
    """Say how many clips count for the detector-dependent scores."""
    passed, total = record.get("n_gated"), record.get("n_clips")
    if passed is None or total is None:
        return ""
    if record.get("gap_gate", 2.0) <= EVERY_GAP:
        return "Every clip counts, whether or not the detector tells the twins apart."
    gap = f"at least {record.get('gap_gate', 2.0):g} log-odds"
    return f"On {passed} of {total} clips the detector separates the twins by {gap}; only those count where its answer matters."


def few(clips: int, record: Mapping[str, Any]) -> str:
    """Say that there are fewer clips than a tier needs; empty where there are enough."""
    least = record.get("min_clips", 20)
    if not isinstance(least, int) or not 0 < clips < least:
        return ""
    return f"Only {clips} clips, under the {least} that a tier needs: not enough to rank. Intervals are wide and no row gets a tier."


def few_curves(record: Mapping[str, Any], tier: str) -> str:
    """Say that curves stand on fewer clips than a tier needs; empty where they do not."""
    clips, least = record.get("curve_clips"), record.get("min_clips", 20)
    if not clips or clips >= least:
        return ""
    start = f"In the {tier} tier the" if tier == "quick" else "The"
    remedy = "; run with --full for all clips" if tier == "quick" else ""
    return (
        f"{start} faithfulness curves run on {clips} clips, under the {least} needed for a tier, so they are shown without tiers{remedy}."
    )


def resolution(board: Board, recipe: str) -> str:
    """Say what difference from the best control the clips could have shown, and how much one vocoder decides; empty where unknown."""
    scores = [s for row in board.rows if row.group == "explainer" and (s := board.main(row, recipe))]
    told, name = [], board.primary.name
    if smallest := [s.detectable for s in scores if s.detectable is not None]:
        told.append(f"A true difference of {number(max(smallest), name)} {board.unit} from the best control would be found with power .8.")
    spans = [high - low for s in scores if (low := s.without_vocoder_low) is not None and (high := s.without_vocoder_high) is not None]
    if spans:
        told.append(f"Leaving out one vocoder moves a mean by at most {number(max(spans), name)}.")
    return " ".join(told)


def clusters(score: Score) -> str:
    """Say from how many utterances and speakers the clips come, and over which intervals are drawn."""
    parts = [f"{n} {word}" for n, word in ((score.clusters_utterance, "utterances"), (score.clusters_speaker, "speakers")) if n]
    by = f", intervals over {score.interval_by}s" if score.interval_by else ""
    return " from ".join(parts[:1]) + (f" of {parts[1]}" if len(parts) > 1 else "") + (by if parts else "")


def explained(boards: Sequence[Board]) -> list[tuple[MetricWords, str]]:
    """Return the metrics of the run with their words, and beside a metric whose floor is a measured prior its value here."""
    measured = {name for board in boards for name in board.metrics}
    known = [words for words in METRICS.values() if words.name in measured and words.text]
    return [(words, _floor(boards) if words.name == STRATIFIED else "") for words in known]


def _floor(boards: Sequence[Board]) -> str:
    """Say what the prior of frequency and level scores in stratified AUC, board by board and truth by truth."""
    told = []
    for board in boards:
        row = next((row for row in board.rows if row.explainer == PRIOR), None)
        for recipe in board.recipes if row else ():
            score = row.score(STRATIFIED, recipe=recipe) if row else None
            if score is not None and score.mean is not None:
                told.append(f"{number(score.mean, STRATIFIED)} ({board.task}, {board.detector}, truth {recipe})")
    return f"{PRIOR} here: {', '.join(told)}." if told else ""
