"""The three truths side by side, never blended: where the artifact is, what the detector uses, what was planted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xaibench.leaderboard.rows import Board, Group, Row, Run, Score, interval, number
from xaibench.leaderboard.views import GROUPS, Cell, Matrix, option
from xaibench.leaderboard.words import metric

DOMAINS = {"twin_tiles": "tiles of the spectrogram", "twin_segments": "segments of the waveform"}
CAUSAL = ("causal_spearman", "causal_average_precision", "causal_gap_closed_normalized")
SANITY = (
    "sanity_entropy_rise",
    "sanity_randomized_similarity",
    "sanity_repeatability",
    "sanity_maximum_sensitivity",
    "sanity_cross_vocoder_similarity",
)
ONLY_COMPETING: tuple[Group, ...] = ("explainer", "control")


@dataclass(frozen=True)
class Truth:
    """One column of the comparison."""

    kind: str
    title: str
    where: str
    """Task, detector and recipe or domain."""
    unit: str


@dataclass(frozen=True)
class Comparison:
    """Explainers by truths."""

    truths: tuple[Truth, ...]
    rows: tuple[tuple[Row, tuple[Cell, ...]], ...]


def causal_matrix(board: Board) -> Matrix | None:
    """Lay out the scores against the causal truth, domain by domain; ``None`` where none was measured."""
    places = [(d, m) for d in DOMAINS for m in CAUSAL if any(row.score(m, occluder=d) for row in board.rows)]
    if not places:
        return None

    def cell(row: Row, domain: str, name: str) -> Cell:
        score = row.score(name, occluder=domain)
        mean = score.mean if score else None
        css = "over" if score and score.beats_best_control and row.group == "explainer" else ""
        return Cell(number(mean, name), f"{mean:.6g}" if mean is not None else "", metric(name).short, interval(score, name), css)

    recipe = board.recipes[0] if board.recipes else ""
    groups = tuple((g, tuple((row, tuple(cell(row, *place) for place in places)) for row in board.ranked(g, recipe))) for g, _ in GROUPS)
    headings = tuple((f"{d}/{m}", f"{metric(m).short}, {DOMAINS[d].split()[0]}") for d, m in places)
    return Matrix("Causal truth", "", headings, groups)


def sanity_matrix(board: Board) -> Matrix | None:
    """Lay out what examining the maps found; ``None`` where nothing was examined. Rows do not compete in it."""
    names = [name for name in SANITY if any(row.score(name, occluder="sanity") for row in board.rows)]
    if not names:
        return None

    def cell(row: Row, name: str) -> Cell:
        score = row.score(name, occluder="sanity")
        mean = score.mean if score else None
        return Cell(number(mean, name), f"{mean:.6g}" if mean is not None else "", metric(name).short, interval(score, name))

    recipe = board.recipes[0] if board.recipes else ""
    groups = tuple((g, tuple((row, tuple(cell(row, name) for name in names)) for row in board.ranked(g, recipe))) for g, _ in GROUPS)
    return Matrix("Sanity", "", tuple((name, metric(name).short) for name in names), groups)


def causal_quality(board: Board) -> list[str]:
    """Say what the causal truths of a board are worth, a sentence for each domain."""
    told = []
    records = board.facts.get("causal")
    for record in (r for r in records if isinstance(r, dict)) if isinstance(records, list) else ():
        name, n, refused = DOMAINS.get(str(record.get("domain")), str(record.get("domain"))), record.get("n_clips"), record.get("n_refused")
        if not n:
            continue
        words = f"Swapping {name}: {n - (refused or 0)} of {n} clips count"
        words += f"; {refused} refused ({_reasons(record.get('reasons'))})" if refused else ""
        half, shift = (v if isinstance(v := record.get(key), int | float) else None for key in ("split_half", "null_shift"))
        words += f"; two halves of the permutations agree to {half:.2f} (median rank correlation)" if half is not None else ""
        words += f", on {record['n_unsteady']} clips to less than .9" if record.get("n_unsteady") else ""
        words += f"; the null control moves the log-odds by {100 * shift:.1f} % of the gap" if shift is not None else ""
        words += f", by 5 % or more on {record['n_null_failed']} clips" if record.get("n_null_failed") else ""
        told.append(f"{words}.")
    scores = [row.score(m, occluder=d) or Score() for row in board.rows for d in DOMAINS for m in CAUSAL]
    if told and all(score.beats_best_control is None for score in scores):
        told.append("Too few clips count for a test against the controls, so nothing is bold.")
    return told


def _reasons(found: Any) -> str:
    return "; ".join(f"{count}: {reason}" for reason, count in sorted(found.items())) if isinstance(found, dict) else "no reason told"


def compare(run: Run) -> Comparison | None:
    """Set the truths of a run side by side; ``None`` unless there are at least two kinds."""
    columns = list(_columns(run))
    if len({truth.kind for truth, _, _ in columns}) < 2:
        return None
    rows: dict[str, Row] = {}
    for _, board, _ in columns:
        for group in ONLY_COMPETING:
            for row in board.ranked(group, board.recipes[0] if board.recipes else ""):
                rows.setdefault(row.explainer, row)
    cells = tuple((row, tuple(_cell(board, name, place) for _, board, place in columns)) for name, row in rows.items())
    return Comparison(tuple(truth for truth, _, _ in columns), cells)


def kinds(run: Run) -> set[str]:
    """Return which of the three truths a run measured."""
    return {truth.kind for truth, _, _ in _columns(run)}


def _columns(run: Run) -> "Sequence[tuple[Truth, Board, dict[str, Any]]]":
    found = []
    for board in run.boards:
        kind = str(option(run.manifest, "tasks", board.task, "truth") or "artifact")
        where = f"{board.task}, {board.detector}"
        title = {"artifact": "Artifact truth", "planted": "Planted truth", "time": "Labels in time"}.get(kind)
        for recipe in board.recipes[:1] if title else ():
            unit = board.unit
            found.append((Truth(kind, title or "", f"{where}, {recipe}", unit), board, {"name": board.primary.name, "recipe": recipe}))
        for domain, words in DOMAINS.items():
            if any(row.score(CAUSAL[0], occluder=domain) for row in board.rows):
                place = {"name": CAUSAL[0], "occluder": domain}
                found.append((Truth("causal", "Causal truth", f"{where}, {words}", "rank correlation"), board, place))
    return found


def _cell(board: Board, name: str, place: dict[str, Any]) -> Cell:
    row = next((row for row in board.rows if row.explainer == name), None)
    score = row.score(**place) if row else None
    mean = score.mean if score else None
    css = "over" if score and score.beats_best_control and row and row.group == "explainer" else "void" if mean is None else ""
    return Cell(number(mean, place["name"]), f"{mean:.6g}" if mean is not None else "", "", interval(score, place["name"]), css)
