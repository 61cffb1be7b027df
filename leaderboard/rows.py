"""The rows of the leaderboard: a run folder read, grouped by task and detector, and ranked by tier.

Nothing is computed here that the harness has not written: rows are chosen, ordered and put into words. Undefined values stay ``None``.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xaibench.benchmark.migrate import read_document
from xaibench.errors import RunError
from xaibench.leaderboard.words import PRIMARIES, PRIMARY, Primary, metric

if TYPE_CHECKING:
    from xaibench.leaderboard.terminal import BoardText

LARGEST = 1e12
"""No score, count or time of a run comes near; what is larger was not written by a run."""
Group = Literal["explainer", "control", "oracle"]


@dataclass(frozen=True)
class Score:
    """One mean with its interval, as the harness wrote it."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    n_total: int = 0
    n_undefined: int = 0
    n_failed: int = 0
    clusters_utterance: int = 0
    clusters_speaker: int = 0
    interval_by: str = ""
    tier: int | None = None
    beats_best_control: bool | None = None
    note: str = ""
    detectable: float | None = None
    without_vocoder_low: float | None = None
    without_vocoder_high: float | None = None


_TYPES = {name: getattr(f.type, "__name__", str(f.type)).removesuffix(" | None") for name, f in Score.__dataclass_fields__.items()}


@dataclass(frozen=True)
class Row:
    """One explainer with all its scores; keys are (recipe, polarity, occluder, metric, slice)."""

    explainer: str
    title: str
    group: Group
    scores: Mapping[tuple[str, str, str, str, str], Score] = field(repr=False)
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Of a submitted row: track, isolation, coverage; on a board of signed records whether the signature was verified."""

    @property
    def competes(self) -> bool:
        """Whether the row covers all clips asked for; a submission of the easy ones is shown and leads nothing."""
        covered, asked = self.origin.get("covered", 0), self.origin.get("asked", 0)
        return not (isinstance(covered, int) and isinstance(asked, int)) or covered >= asked

    @property
    def badge(self) -> str:
        """Say where a submitted row comes from; empty for rows that the harness explained itself."""
        if not self.origin:
            return ""
        track = {"results": "A · reported by its author", "heatmaps": "B · heatmaps", "code": "C · code"}.get(
            str(self.origin.get("track")), ""
        )
        covered, asked = self.origin.get("covered", 0), self.origin.get("asked", 0)
        parts = (
            track,
            str(self.origin.get("isolation") or ""),
            "reproduced" if self.origin.get("reproduced") else "",
            f"partial {covered} of {asked}" if covered < asked else "",
            "" if self.vouched_for else "not isolated",
            str(self.origin.get("signature") or ""),
        )
        return " · ".join(part for part in parts if part)

    @property
    def vouched_for(self) -> bool:
        """Whether code of this row was isolated, or there was none to isolate; other rows are greyed."""
        return bool(self.origin.get("trusted", True))

    def score(self, name: str, *, recipe: str = "", polarity: str = "declared", occluder: str = "", part: str = "all") -> Score | None:
        """Return a score, or ``None`` where it was not measured; a metric that knows no recipe answers for every recipe."""
        found = self.scores.get((recipe, polarity, occluder, name, part))
        return found or self.scores.get(("", polarity, occluder, name, part))

    def outside(self, occluder: str) -> float | None:
        """Return the share of this row's masked clips whose log-odds leave the range of the run's clips."""
        score = self.score("out_of_range", occluder=occluder)
        return score.mean if score else None

    def leaves_range(self, occluder: str) -> bool:
        """Whether the occluder leads this row's clips so often out of what the detector knows that its curves say little."""
        from xaibench.benchmark.metrics.faithfulness import OUT_OF_RANGE_LIMIT

        share = self.outside(occluder)
        return share is not None and share > OUT_OF_RANGE_LIMIT


@dataclass(frozen=True)
class Board:
    """All rows of one task and detector."""

    task: str
    detector: str
    recipes: tuple[str, ...]
    occluders: tuple[str, ...]
    metrics: tuple[str, ...]
    slices: tuple[str, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the run saw of the detector on the task: clips, gate, occluders."""

    @property
    def primary(self) -> Primary:
        """What orders the board: the first primary score that was asked for."""
        return next((known for known in PRIMARIES if known.name in self.metrics), PRIMARIES[0])

    @property
    def unit(self) -> str:
        """Short name of the primary score."""
        return metric(self.primary.name).short

    @property
    def place(self) -> str:
        """Occluder of the primary score; empty where it needs none."""
        return self.occluders[0] if self.occluders and metric(self.primary.name).group == "faithfulness" else ""

    def main(self, row: Row, recipe: str, *, part: str = "all", polarity: str = "declared") -> Score | None:
        """Return a row's primary score, ``None`` where it was not asked for."""
        return row.score(self.primary.name, recipe=recipe, polarity=polarity, occluder=self.place, part=part)

    def ranked(self, group: Group, recipe: str) -> list[Row]:
        """Return the rows of a group by tier, then mean, best first; rows without a mean come last."""

        def rank(row: Row) -> tuple[float, float, str]:
            score = self.main(row, recipe) or Score()
            return (score.tier or math.inf, -score.mean if score.mean is not None else math.inf, row.explainer)

        return sorted((row for row in self.rows if row.group == group), key=rank)

    def floor(self, recipe: str, name: str = "", *, part: str = "all", occluder: str = "") -> tuple[Row, Score] | None:
        """Return the best control and its score, by default the primary one; ``None`` where no control was measured."""
        return self._best("control", recipe, name or self.primary.name, part, occluder if name else self.place)

    def ceiling(self, recipe: str) -> tuple[Row, Score] | None:
        """Return the best oracle and its score."""
        return self._best("oracle", recipe, self.primary.name, "all", self.place)

    def leader(self, recipe: str) -> tuple[Row, Score] | None:
        """Return the best explainer that competes and its score."""
        return self._best("explainer", recipe, self.primary.name, "all", self.place)

    def _best(self, group: Group, recipe: str, name: str, part: str, occluder: str) -> tuple[Row, Score] | None:
        sign = 1 if metric(name).higher_is_better else -1
        best: tuple[Row, Score] | None = None
        for row in self.rows:
            score = row.score(name, recipe=recipe, part=part, occluder=occluder) if row.group == group and row.competes else None
            if score is None or score.mean is None:
                continue
            if best is None or sign * score.mean > sign * (best[1].mean or 0.0):
                best = (row, score)
        return best


@dataclass(frozen=True)
class Run:
    """A run folder as far as the leaderboard needs it."""

    path: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    boards: tuple[Board, ...]


def read_run(run_dir: str | Path) -> Run:
    """Read ``manifest.json`` and ``summary.json`` of a run folder.

    Raises:
        RunError: If the folder holds no finished run, or a file is not what the harness writes.
    """
    path = Path(run_dir)
    documents = []
    for name in ("manifest.json", "summary.json"):
        try:
            documents.append(read_document(name.removesuffix(".json"), path / name))
        except FileNotFoundError as error:
            raise RunError(f"run_dir must hold {name}, got {path}; finish it with `xaibench run --out {path}`") from error
        except (UnicodeDecodeError, RecursionError, TypeError, AttributeError, KeyError) as error:  # not what a run writes
            raise RunError(f"{path / name} must be readable JSON, got {error}; run the same command again") from error
    check_rows(documents[1], path / "summary.json")
    documents[1]["rows"] = [*documents[1].get("rows", []), *_seconds(path, documents[1].get("rows", []))]
    return Run(path, documents[0], documents[1], boards(documents[1]))


def check_rows(summary: Mapping[str, Any], where: Path) -> None:
    """Make sure that what a table shows is what a table can show.

    Raises:
        RunError: If rows, tasks or detectors are no lists of objects, or a value of a row has another type or is not finite.
    """
    for name in ("rows", "tasks", "detectors"):
        if not isinstance(summary.get(name, []), list) or not all(isinstance(record, dict) for record in summary.get(name, [])):
            raise RunError(f"{name} must be a list of objects, got something else in {where}; run the same command again")
    for row in summary.get("rows", []):
        for name in ("task", "detector", "explainer", "metric"):
            if not isinstance(row.get(name), str):
                raise RunError(f"{name} of a row must be text, got {row.get(name)!r:.80} in {where}; run the same command again")
        for name, kind in _TYPES.items():
            value = row.get(name)
            if value is not None and not _fits(value, kind):
                raise RunError(f"{name} of row {row['explainer']!r:.80} must be {kind}, got {value!r:.80} in {where}; run it again")
        if row.get("tier") is not None and row["tier"] < 1:
            raise RunError(f"tier of row {row['explainer']!r:.80} must be at least 1, got {row['tier']} in {where}; run it again")


def _fits(value: Any, kind: str) -> bool:
    """Tell whether a value of JSON fits a field's type: a number is finite, and no truth value."""
    if kind.startswith("bool"):
        return isinstance(value, bool)
    if kind.startswith("str"):
        return isinstance(value, str)
    whole = int if kind.startswith("int") else (int, float)
    return isinstance(value, whole) and not isinstance(value, bool) and abs(value) < LARGEST


def _seconds(path: Path, rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average the wall time of each explainer from ``timings.parquet``, as further rows; the harness keeps clocks out of the summary."""
    if not all((path / name).is_file() for name in ("timings.parquet", "units.parquet")):
        return []
    import pyarrow.parquet

    timings = pyarrow.parquet.ParquetFile(path / "timings.parquet").read(columns=["key", "stage", "seconds"]).to_pydict()
    seconds = {k: s for k, stage, s in zip(*timings.values(), strict=True) if stage == "explain"}
    columns = ["key", "task", "detector", "explainer", "status"]
    units = pyarrow.parquet.ParquetFile(path / "units.parquet").read(columns=columns)
    spent: dict[tuple[str, str, str], list[float]] = {}
    for key, task, detector, explainer, status in sorted(set(zip(*units.to_pydict().values(), strict=True))):
        if status == "ok" and key in seconds:
            spent.setdefault((task, detector, explainer), []).append(seconds[key])
    known = {(r["task"], r["detector"], r["explainer"]): r for r in rows}
    return [
        {
            **{name: known[place][name] for name in ("task", "detector", "explainer", "title", "control", "oracle")},
            **{"recipe": "", "polarity": "declared", "occluder": "", "metric": "seconds", "slice": "all"},
            **{"mean": sum(values) / len(values), "n": len(values), "n_total": len(values)},
        }
        for place, values in spent.items()
        if place in known
    ]


def boards(summary: Mapping[str, Any]) -> tuple[Board, ...]:
    """Group the rows of a summary by task and detector, in the order of the summary."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in summary.get("rows", []):
        groups.setdefault((str(record["task"]), str(record["detector"])), []).append(record)
    recipes = {record.get("name"): record.get("recipes", []) for record in summary.get("tasks", []) if isinstance(record, dict)}
    origins = summary.get("origins") or {}
    facts = {(r.get("task"), r.get("detector")): r for r in summary.get("detectors", []) if isinstance(r, dict)}
    return tuple(
        _board(task, detector, records, recipes.get(task, []), facts.get((task, detector), {}), origins)
        for (task, detector), records in groups.items()
    )


def _board(
    task: str, detector: str, records: list[Mapping[str, Any]], recipes: list[str], facts: Mapping[str, Any], origins: Mapping[str, Any]
) -> Board:
    explainers: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        explainers.setdefault(str(record["explainer"]), []).append(record)

    def seen(name: str, first: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the values of a column, those of ``first`` before the others."""
        found = dict.fromkeys(str(r[name]) for r in records if r.get(name))
        return tuple(dict.fromkeys([*(value for value in first if value in found), *found]))

    rows = tuple(_row(name, found, origins.get(name, {})) for name, found in explainers.items())
    occluders = seen("occluder", facts.get("occluders", []))
    return Board(task, detector, seen("recipe", recipes), occluders, seen("metric"), _slices(seen("slice")), rows, facts)


def _slices(found: Iterable[str]) -> tuple[str, ...]:
    order = {"all": 0, "seen": 1, "unseen": 2}
    return tuple(sorted(found, key=lambda part: (order.get(part, 3), part)))


def _row(name: str, records: list[Mapping[str, Any]], origin: Mapping[str, Any]) -> Row:
    first = records[0]
    group: Group = "oracle" if first.get("oracle") else "control" if first.get("control") else "explainer"
    names = Score.__dataclass_fields__
    scores = {
        tuple(str(r.get(key) or "") for key in ("recipe", "polarity", "occluder", "metric", "slice")): Score(
            **{k: v for k, v in r.items() if k in names and v is not None}
        )
        for r in records
    }
    return Row(name, str(first.get("title") or name), group, scores, origin)  # type: ignore[arg-type]


def verdict(row: Row, board: Board, recipe: str, *, named: bool = False) -> str:
    """Say in words how a row stands to the controls; empty for controls and oracles."""
    score = board.main(row, recipe)
    floor = board.floor(recipe)
    if row.group != "explainer" or score is None:
        return ""
    if score.mean is None:
        return score.note or "not enough clips"
    if score.beats_best_control is None:
        return score.note or "not compared with the controls"
    if score.beats_best_control:
        return "beats every control"
    return f"does not beat the best control{f' ({floor[0].title})' if floor and named else ''}"


def number(value: float | None, name: str = PRIMARY) -> str:
    """Write a value in the metric's display unit, a dash where it is undefined."""
    info = metric(name)
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value * info.scale:.{info.digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def interval(score: Score | None, name: str = PRIMARY) -> str:
    """Write ``low to high`` of an interval, empty where there is none."""
    if score is None or score.low is None or score.high is None:
        return ""
    return f"{number(score.low, name)} to {number(score.high, name)}"


def terminal_table(board: Board, recipe: str) -> "BoardText":
    """Return a board and recipe as text for a rich console: oracles as the ceiling, explainers by tier, controls as the floor."""
    from xaibench.leaderboard.terminal import BoardText

    return BoardText(board, recipe)
