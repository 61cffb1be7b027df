"""The sample pages of a board: which clips, their pictures and sounds on disk, and the cards that lead to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xaibench
from xaibench.errors import XaibenchError
from xaibench.leaderboard import pictures
from xaibench.leaderboard.curves import COLOURS
from xaibench.leaderboard.pages import render
from xaibench.leaderboard.rows import Board, Row, Run, number
from xaibench.leaderboard.samples import Choice, Sample, Studio, choose, read_units
from xaibench.leaderboard.words import PRIMARIES, clean
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


@dataclass(frozen=True)
class Album:
    """The samples of one board, ready to be shown."""

    samples: tuple[Sample, ...] = ()
    leader: Row | None = None
    why_not: str = ""
    """Why there are none."""
    colours: tuple[tuple[Row, str], ...] = ()


@dataclass(frozen=True)
class Source:
    """Where the material of sample pages comes from."""

    run: Run
    tasks: dict[str, Task]
    detectors: dict[str, Detector]
    curves: Sequence[Mapping[str, Any]]

    def task(self, name: str) -> Task:
        """Return a task of the run, loaded once.

        Raises:
            XaibenchError: If it cannot be loaded here.
        """
        if name not in self.tasks:
            self.tasks[name] = xaibench.load("task", name)
        return self.tasks[name]

    def album(self, board: Board, at: int, count: int, make: Callable[["Studio", Choice, int], Sample], **options: Any) -> Album:
        """Choose clips of a board and make what their pages show; on trouble none, and why.

        Args:
            board: The board.
            at: Its number in the report.
            count: Clips wanted.
            make: Makes one sample: studio, choice, number.
            options: Of ``Studio``.
        """
        recipe = board.recipes[0] if board.recipes else ""
        leader = board.leader(recipe) or board.floor(recipe)
        if board.primary is not PRIMARIES[0]:
            return Album(why_not="the corpus has no real twins to show beside its clips.")
        if not count:
            return Album(why_not="none were asked for.")
        units = read_units(self.run.path, board, recipe) if leader else []
        if not units or not leader:
            return Album(why_not="the run keeps no scores of single clips.")
        try:
            task = self.task(board.task)
            studio = Studio(self.run, board, recipe, task, _detector(self.run, board, self.detectors), self.curves, **options)
            made = [make(studio, choice, position) for position, choice in enumerate(choose(units, leader[0].explainer, count), start=1)]
        except XaibenchError as error:
            return Album(why_not=clean(error))
        ranked = board.ranked("explainer", recipe)
        return Album(tuple(made), leader[0], colours=tuple((row, f"c{i % COLOURS}") for i, row in enumerate(ranked)))


def sample_pages(source: Source, board: Board, at: int, out: Path, count: int) -> tuple[tuple[Card, ...], str]:
    """Write the sample pages of a board; on trouble return none, and why."""
    album = source.album(board, at, count, lambda studio, choice, position: _make(studio, choice, position, at, out))
    if album.leader is None:
        return (), album.why_not
    names = [f"{at}-{sample.number:02}.html" for sample in album.samples]
    for i, sample in enumerate(album.samples):
        page = render(
            "sample.html",
            section=at,
            folder=names[i].removesuffix(".html") + "/",
            before=names[i - 1] if i else "",
            after=names[i + 1] if i + 1 < len(names) else "",
            **body_values(album, sample, board, names[i].removesuffix(".html")),
        )
        (out / "samples" / names[i]).write_bytes(page)
    return tuple(_card(names[i], sample, album.leader, board) for i, sample in enumerate(album.samples)), ""


def body_values(album: Album, sample: Sample, board: Board, uid: str) -> dict[str, Any]:
    """Return what the body of a sample needs, wherever it stands; ``uid`` keeps its controls apart from those of other samples."""
    cuts = pictures.cuts()
    return {
        "sample": sample,
        "leader": album.leader.title if album.leader else "",
        "lead": lead_of(sample, board),
        "detector": board.detector,
        "legend": pictures.legend_colours(),
        "cuts": cuts,
        "cut_at": next((i for i, (share, _) in enumerate(cuts) if share == "5 %"), 0),
        "colours": album.colours,
        "uid": uid,
    }


def lead_of(sample: Sample, board: Board) -> str:
    """Write what the leader scores on the clip with its unit; empty where it has no score."""
    lead = sample.choice.lead
    return f"{board.unit} {number(lead, board.primary.name)}" if lead is not None else ""


def _make(studio: Studio, choice: Any, position: int, at: int, out: Path) -> Sample:
    folder = out / "samples" / f"{at}-{position:02}"
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, content: bytes) -> str:
        (folder / name).write_bytes(content)
        return name

    return studio.make(position, choice, write)


def _card(page: str, sample: Sample, leader: Row, board: Board) -> Card:
    folder = f"samples/{page.removesuffix('.html')}/"
    heat = next((p.heat for p in sample.panels if p.row.explainer == leader.explainer), sample.spoof)
    value = lead_of(sample, board)
    return Card(
        f"samples/{page}", folder + heat, folder + sample.truth, sample.choice.pair, sample.choice.vocoder, sample.choice.reason, value
    )


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
