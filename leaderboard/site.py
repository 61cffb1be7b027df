"""The report of a run: a folder of static pages that open from the disk and load nothing from anywhere.

``index.html`` and everything beside it are a function of the run folder and the audio of its tasks: the same files give the same bytes.
"""

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xaibench
from xaibench.errors import RunError, XaibenchError
from xaibench.leaderboard import notes, pictures
from xaibench.leaderboard.curves import Plot, plots, read_curves
from xaibench.leaderboard.pages import render
from xaibench.leaderboard.rows import Board, Row, Run, Score, number, read_run
from xaibench.leaderboard.samples import Sample, Studio, choose, read_units
from xaibench.leaderboard.views import Leaderboard, Matrix, by_occluder, by_vocoder, headline, leaderboard
from xaibench.leaderboard.words import CHANCE_GDICE, MEANINGLESS_ABOVE, PRIMARY, clean
from xaibench.types import Detector, Task

N_SAMPLES = 12


@dataclass(frozen=True)
class Figure:
    """One of the large numbers above a table."""

    kind: str
    title: str
    value: str
    text: str


@dataclass(frozen=True)
class Card:
    """Link to one sample page."""

    page: str
    thumb: str
    truth: str
    pair: str
    vocoder: str
    reason: str
    value: str


@dataclass(frozen=True)
class Section:
    """Everything that the page says about one task and detector."""

    number: int
    board: Board
    recipe: str
    headline: str
    n_explainers: int
    n_clips: int
    clusters: str
    gate: str
    few: str
    few_curves: str
    figures: tuple[Figure, ...]
    views: tuple[Leaderboard, ...]
    vocoders: Matrix | None
    plots: tuple[Plot, ...]
    colours: tuple[tuple[Row, str], ...]
    occluders: Matrix | None
    leader: str
    samples: tuple[Card, ...]
    why_no_samples: str


def build(
    run_dir: str | Path,
    out_dir: str | Path | None = None,
    *,
    tasks: Mapping[str, Task] | None = None,
    detectors: Mapping[str, Detector] | None = None,
    samples: int = N_SAMPLES,
) -> Path:
    """Write the report of a finished run.

    Args:
        run_dir: Run folder with ``manifest.json``, ``summary.json`` and, where present, units, curves and heatmaps.
        out_dir: Folder of the report, ``report`` in the run folder by default; pages of an earlier report there are replaced.
        tasks: Loaded tasks by name; others are loaded from the names in the run.
        detectors: Loaded detectors by name, in ``eval()`` mode; others are loaded like the run did.
        samples: Sample pages for each task and detector.

    Returns:
        Path of ``index.html``.

    Raises:
        RunError: If the run cannot be read or the report cannot be written.
    """
    run = read_run(run_dir)
    out = Path(out_dir) if out_dir is not None else run.path / "report"
    try:
        return _build(run, out, dict(tasks or {}), dict(detectors or {}), samples)
    except OSError as error:
        raise RunError(f"out_dir must be a folder that can be written, got {out}: {error.strerror or error}; choose another one") from error


def _build(run: Run, out: Path, tasks: dict[str, Task], detectors: dict[str, Detector], samples: int) -> Path:
    from xaibench.tasks.cache import atomic_write

    index = out / "index.html"
    if index.is_file() and b'content="xaibench"' in index.read_bytes()[:4000]:
        shutil.rmtree(out / "samples", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    curves = read_curves(run.path)
    sections = []
    for number_, board in enumerate(run.boards):
        cards, why = _samples(run, board, number_, out, tasks, detectors, samples)
        sections.append(_section(run, board, number_, curves, cards, why))
    atomic_write(out / "leaderboard.csv", _csv(run.boards))
    page = render(
        "index.html",
        title=sections[0].headline if sections else "nothing was measured",
        sections=sections,
        tier=run.summary.get("tier", ""),
        explained=notes.explained(run.boards),
        dead=f"{100 * MEANINGLESS_ABOVE:.0f}",
        provenance=_provenance(run),
        version=xaibench.__version__,
    )
    atomic_write(index, page)
    return index


def _section(run: Run, board: Board, at: int, curves: Sequence[Mapping[str, Any]], cards: tuple[Card, ...], why: str) -> Section:
    recipe = board.recipes[0] if board.recipes else ""
    detector = _detector_record(run, board)
    scores = [s for row in board.rows if (s := row.score(PRIMARY, recipe=recipe))]
    most = max(scores, key=lambda s: s.n_total, default=Score())
    drawn = tuple(plots(curves, board, recipe))
    css = {curve.row.explainer: curve.css for plot in drawn for curve in plot.curves}
    leader = board.leader(recipe) or board.floor(recipe)
    return Section(
        number=at,
        board=board,
        recipe=recipe,
        headline=headline(board, recipe),
        n_explainers=len(board.ranked("explainer", recipe)),
        n_clips=most.n_total,
        clusters=notes.clusters(most),
        gate=notes.gate(detector),
        few=f"Only {most.n_total} clips: not enough to rank. Intervals are wide and no row gets a tier." if 0 < most.n_total < 20 else "",
        few_curves=notes.few_curves(detector, str(run.summary.get("tier", ""))),
        figures=_figures(board, recipe),
        views=tuple(leaderboard(board, r, CHANCE_GDICE) for r in board.recipes or ("",)),
        vocoders=by_vocoder(board, recipe),
        plots=drawn,
        colours=tuple((row, css[row.explainer]) for row in board.ranked("explainer", recipe) if row.explainer in css),
        occluders=by_occluder(board, recipe),
        leader=leader[0].title if leader else "",
        samples=cards,
        why_no_samples=why,
    )


def _detector_record(run: Run, board: Board) -> Mapping[str, Any]:
    for record in run.summary.get("detectors", []):
        if (
            isinstance(record, dict)
            and record.get("detector", record.get("name")) == board.detector
            and record.get("task", board.task) == board.task
        ):
            return record
    return {}


def _figures(board: Board, recipe: str) -> tuple[Figure, ...]:
    found = []
    for kind, title, best in (
        ("lead", "Best explainer", board.leader(recipe)),
        ("floor", "Floor: best control", board.floor(recipe)),
        ("ceiling", "Ceiling: best oracle", board.ceiling(recipe)),
    ):
        if best:
            found.append(Figure(kind, f"{title}, GDice", number(best[1].mean), best[0].title))
    found.append(Figure("chance", "Chance, GDice", number(CHANCE_GDICE), "any map that knows nothing, at 5 % area"))
    return tuple(found)


def _samples(
    run: Run, board: Board, at: int, out: Path, tasks: dict[str, Task], detectors: dict[str, Detector], count: int
) -> tuple[tuple[Card, ...], str]:
    """Write the sample pages of a board; on trouble return none, and why."""
    recipe = board.recipes[0] if board.recipes else ""
    leader = board.leader(recipe) or board.floor(recipe)
    units = read_units(run.path, board, recipe) if leader and count else []
    if not units or not leader:
        return (), "the run keeps no scores of single clips."
    try:
        task = _task(board, tasks)
        studio = Studio(run, board, recipe, task, _detector(run, board, detectors))
        made = [
            (choice, _make(studio, choice, position, at, out))
            for position, choice in enumerate(choose(units, leader[0].explainer, count), start=1)
        ]
    except XaibenchError as error:
        return (), clean(error)
    legend = pictures.legend_colours()
    names = [f"{at}-{sample.number:02}.html" for _, sample in made]
    for i, (_, sample) in enumerate(made):
        page = render(
            "sample.html",
            sample=sample,
            section=at,
            folder=names[i].removesuffix(".html") + "/",
            before=names[i - 1] if i else "",
            after=names[i + 1] if i + 1 < len(names) else "",
            leader=leader[0].title,
            detector=board.detector,
            legend=legend,
        )
        (out / "samples" / names[i]).write_bytes(page)
    return tuple(_card(names[i], sample, leader[0]) for i, (_, sample) in enumerate(made)), ""


def _make(studio: Studio, choice: Any, position: int, at: int, out: Path) -> Sample:
    folder = out / "samples" / f"{at}-{position:02}"
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, content: bytes) -> str:
        (folder / name).write_bytes(content)
        return name

    return studio.make(position, choice, write)


def _card(page: str, sample: Sample, leader: Row) -> Card:
    folder = f"samples/{page.removesuffix('.html')}/"
    heat = next((p.heat for p in sample.panels if p.row.explainer == leader.explainer), sample.spoof)
    value = number(sample.choice.lead) if sample.choice.lead is not None else ""
    return Card(
        f"samples/{page}", folder + heat, folder + sample.truth, sample.choice.pair, sample.choice.vocoder, sample.choice.reason, value
    )


def _task(board: Board, tasks: dict[str, Task]) -> Task:
    if board.task not in tasks:
        tasks[board.task] = xaibench.load("task", board.task)
    return tasks[board.task]


def _detector(run: Run, board: Board, detectors: dict[str, Detector]) -> Detector | None:
    """Return the run's detector; ``None`` where it cannot be loaded, as the pages can do without its answers."""
    if board.detector not in detectors:
        weights = run.manifest.get("detector_weights")
        try:
            loaded: Detector = xaibench.load("detector", board.detector, **({"weights": weights} if weights else {}))
        except XaibenchError:
            return None
        detectors[board.detector] = loaded.eval().requires_grad_(False)
    return detectors[board.detector]


def _csv(boards: Sequence[Board]) -> bytes:
    """Write every score as CSV; a text that a spreadsheet would run as a formula is quoted with an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ("mean", "low", "high", "n", "n_total", "n_undefined", "n_failed", "interval_by", "tier", "beats_best_control", "note")
    writer.writerow(("task", "detector", "explainer", "title", "group", "recipe", "polarity", "occluder", "metric", "slice", *columns))
    for board in boards:
        for row in board.rows:
            for key, score in row.scores.items():
                values = (board.task, board.detector, row.explainer, row.title, row.group, *key, *(getattr(score, c) for c in columns))
                writer.writerow([_cell(v) for v in values])
    return buffer.getvalue().encode()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _provenance(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Flatten the manifest into groups of key and value: plain values first, then one group for each nested object."""
    plain = [(str(k), _plain(v)) for k, v in sorted(run.manifest.items()) if not isinstance(v, dict)]
    groups = [("Run", plain)] if plain else []
    for key, value in sorted(run.manifest.items()):
        if isinstance(value, dict) and value:
            groups.append((str(key), [(name, _plain(v)) for name, v in _flat(value)]))
    return groups


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, item in sorted(value.items()):
        name = f"{prefix}{key}"
        if name == "host":
            continue
        found += _flat(item, f"{name}.") if isinstance(item, dict) and item else [(name, item)]
    return found


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value)
    return "yes" if value is True else "no" if value is False else "–" if value is None else str(value)
