"""The report as one file: the leaderboard and a dozen samples with pictures and Opus sound inside, small enough to send.

Pictures become WebP and sounds Ogg Opus, all as ``data:`` addresses. If the file would exceed its limit, it is made again with fewer and
coarser heatmaps for each sample, never with fewer rows or samples.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

import xaibench
from xaibench.errors import RunError
from xaibench.leaderboard import notes, pictures
from xaibench.leaderboard.album import Album, Card, Source, body_values, lead_of
from xaibench.leaderboard.curves import read_curves
from xaibench.leaderboard.ogg import opus_bytes
from xaibench.leaderboard.pages import render
from xaibench.leaderboard.rows import Board, Run, read_run
from xaibench.leaderboard.samples import Choice, Sample, Studio
from xaibench.leaderboard.sections import section
from xaibench.leaderboard.site import command_of, provenance
from xaibench.leaderboard.truths import compare, kinds
from xaibench.leaderboard.words import MEANINGLESS_ABOVE
from xaibench.types import Detector, Task

LIMIT_BYTES = 5_000_000


@dataclass(frozen=True)
class Grade:
    """How much a sample may show."""

    panels: int
    quality: int
    scale: float
    """Of the pictures' sides; 1 keeps one pixel to a cell."""


GRADES = (Grade(9, 60, 1.0), Grade(6, 45, 1.0), Grade(5, 35, 0.75), Grade(4, 25, 0.5), Grade(3, 15, 0.5))
"""Finest first."""


@dataclass(frozen=True)
class Sheet:
    """One sample inside the file."""

    uid: str
    section: int
    body: Markup


def build_single(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    tasks: Mapping[str, Task] | None = None,
    detectors: Mapping[str, Detector] | None = None,
    samples: int = 12,
    limit_bytes: int = LIMIT_BYTES,
) -> Path:
    """Write a finished run's report as one HTML file.

    Args:
        run_dir: Run folder.
        out: The file; ``report.html`` in the run folder by default.
        tasks: Loaded tasks by name; others are loaded from the names in the run.
        detectors: Loaded detectors by name, in ``eval()`` mode.
        samples: Samples in all, shared among the tasks and detectors of the run.
        limit_bytes: Largest size.

    Returns:
        Path of the file.

    Raises:
        RunError: If the run cannot be read, the file cannot be written, or not even the coarsest report fits.
    """
    run = read_run(run_dir)
    path = Path(out) if out is not None else run.path / "report.html"
    source = Source(run, dict(tasks or {}), dict(detectors or {}), read_curves(run.path))
    content = b""
    for grade in GRADES:
        content = _render(run, source, samples, grade)
        if len(content) <= limit_bytes:
            break
    else:
        got = f"{len(content) / 1e6:.1f} MB with {samples} samples"
        remedy = "ask for fewer samples, or for a folder" if samples else "ask for a folder"
        raise RunError(f"report must fit into {limit_bytes / 1e6:g} MB, got {got}; {remedy}")
    from xaibench.tasks.cache import atomic_write

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)
    except OSError as error:
        raise RunError(f"out must be a file that can be written, got {path}: {error.strerror or error}; choose another one") from error
    return path


def _render(run: Run, source: Source, samples: int, grade: Grade) -> bytes:
    sections, sheets = [], []
    for at, board in enumerate(run.boards):
        fewest, more = divmod(samples, len(run.boards))
        album = source.album(board, at, fewest + (at < more), _sample(grade), panels=grade.panels, encode=("opus", opus_bytes))
        uids = [f"sample-{at}-{sample.number:02}" for sample in album.samples]
        cards = tuple(_card(uid, sample, album, board) for uid, sample in zip(uids, album.samples, strict=True))
        for uid, sample in zip(uids, album.samples, strict=True):
            body = render("sample_body.html", folder="", **body_values(album, sample, board, uid)).decode()
            sheets.append(Sheet(uid, at, Markup(body)))
        sections.append(section(run, board, at, source.curves, cards, album.why_not))
    return render(
        "single.html",
        title=sections[0].headline if sections else "nothing was measured",
        sections=sections,
        slugs={},
        comparison=compare(run),
        kinds=kinds(run),
        tier=run.summary.get("tier", ""),
        explained=notes.explained(run.boards),
        dead=f"{100 * MEANINGLESS_ABOVE:.0f}",
        pages=sheets,
        provenance=provenance(run),
        command=command_of(run),
        version=xaibench.__version__,
    )


def _sample(grade: Grade) -> Any:
    def write(name: str, content: bytes) -> str:
        if name.endswith(".png"):
            scale = 1.0 if name.startswith(("spoof", "twin")) else grade.scale
            return _address("image/webp", pictures.webp(content, grade.quality, scale))
        return _address("audio/ogg", content)

    def make(studio: Studio, choice: Choice, position: int) -> Sample:
        return studio.make(position, choice, write)

    return make


def _address(kind: str, content: bytes) -> str:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")  # ours, and longer than outside text may be


def _card(uid: str, sample: Sample, album: Album, board: Board) -> Card:
    leader = album.leader.explainer if album.leader else ""
    heat = next((p.heat for p in sample.panels if p.row.explainer == leader), sample.spoof)
    value = lead_of(sample, board)
    return Card(f"#{uid}", heat, sample.truth, sample.choice.pair, sample.choice.vocoder, sample.choice.reason, value)
