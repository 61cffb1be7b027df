"""The sample pages of a board: which clips, their pictures and sounds on disk, and the cards that lead to them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xaibench
from xaibench.errors import XaibenchError
from xaibench.leaderboard import pictures
from xaibench.leaderboard.pages import render
from xaibench.leaderboard.rows import Board, Row, Run, number
from xaibench.leaderboard.samples import Sample, Studio, choose, read_units
from xaibench.leaderboard.words import clean
from xaibench.types import Detector, Task


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


def sample_pages(
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
            navigation=(),
            root="../",
            here="",
            version=xaibench.__version__,
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
