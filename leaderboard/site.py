"""The report of a run: a folder of static pages that open from the disk and load nothing from anywhere.

``index.html`` and everything beside it are a function of the run folder and the audio of its tasks: the same files give the same bytes.
"""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

import xaibench
from xaibench.benchmark.audit.run import shipped
from xaibench.benchmark.mask_quality import verdicts
from xaibench.errors import RunError, XaibenchError
from xaibench.leaderboard import exports, notes
from xaibench.leaderboard.album import Source, sample_pages
from xaibench.leaderboard.cards import ExplainerCard, TaskCard, explainer_cards, task_cards
from xaibench.leaderboard.curves import read_curves
from xaibench.leaderboard.mask_page import kept_quality, page_values
from xaibench.leaderboard.pages import render, source_hash, static
from xaibench.leaderboard.rows import Run, read_run
from xaibench.leaderboard.scores import HEADINGS, datatables, encoded, records
from xaibench.leaderboard.sections import Section, section
from xaibench.leaderboard.truths import compare, kinds
from xaibench.leaderboard.views import option
from xaibench.leaderboard.words import MEANINGLESS_ABOVE, MetricWords, clean
from xaibench.types import Detector, Task

N_SAMPLES = 12
NAVIGATION = (
    ("index.html", "Leaderboard"),
    ("explainers.html", "Explainers"),
    ("tasks.html", "Tasks"),
    ("metrics.html", "Metrics"),
    ("scores.html", "All scores"),
    ("runs.html", "Provenance"),
    ("about.html", "About"),
)
QUALITY_CLIPS = 12
OURS = ("samples", "explainers", "figures", "tasks")
"""Folders of an earlier report that are replaced."""


def build(
    run_dir: str | Path,
    out_dir: str | Path | None = None,
    *,
    tasks: Mapping[str, Task] | None = None,
    detectors: Mapping[str, Detector] | None = None,
    samples: int = N_SAMPLES,
    quality: bool = False,
) -> Path:
    """Write the report of a finished run.

    Args:
        run_dir: Run folder with ``manifest.json``, ``summary.json`` and, where present, units, curves and heatmaps.
        out_dir: Folder of the report, ``report`` in the run folder by default; pages of an earlier report there are replaced.
        tasks: Loaded tasks by name; others are loaded from the names in the run.
        detectors: Loaded detectors by name, in ``eval()`` mode; others are loaded like the run did.
        samples: Sample pages for each task and detector.
        quality: Whether to add a page on the ground truth of each task that has twins; it is measured on 12 clips, once for equal content.

    Returns:
        Path of ``index.html``.

    Raises:
        RunError: If the run cannot be read or the report cannot be written.
    """
    run = read_run(run_dir)
    out = Path(out_dir) if out_dir is not None else run.path / "report"
    try:
        return _Site(run, out).build(dict(tasks or {}), dict(detectors or {}), samples, quality)
    except OSError as error:
        raise RunError(f"out_dir must be a folder that can be written, got {out}: {error.strerror or error}; choose another one") from error


class _Site:
    """Writes the pages of one report."""

    def __init__(self, run: Run, out: Path):
        self.run, self.out = run, out

    def build(self, tasks: dict[str, Task], detectors: dict[str, Detector], samples: int, quality: bool) -> Path:
        index = self.out / "index.html"
        if index.is_file() and b'content="xaibench"' in index.read_bytes()[:4000]:
            for name in OURS:
                shutil.rmtree(self.out / name, ignore_errors=True)
        self.out.mkdir(parents=True, exist_ok=True)
        curves = read_curves(self.run.path)
        source, sections = Source(self.run, tasks, detectors, curves), []
        for number_, board in enumerate(self.run.boards):
            cards, why = sample_pages(source, board, number_, self.out, samples)
            sections.append(section(self.run, board, number_, curves, cards, why))
        explainers = explainer_cards(self.run)
        figures = self._figures(sections)
        self._exports(explainers)
        self._explainers(explainers)
        self._scores()
        explained = notes.explained(self.run.boards)
        shown = task_cards(self.run)
        self.page("tasks.html", "tasks.html", cards=shown, truths=self._truths(shown, source) if quality else {})
        self.page("metrics.html", "metrics.html", explained=[(*told, _info(told[0])) for told in explained], audit=shipped())
        self.page("runs.html", "runs.html", provenance=provenance(self.run), command=command_of(self.run))
        self.page("about.html", "about.html", dead=f"{100 * MEANINGLESS_ABOVE:.0f}", figures=figures)
        self.page(
            "index.html",
            "index.html",
            title=sections[0].headline if sections else "nothing was measured",
            sections=sections,
            comparison=compare(self.run),
            kinds=kinds(self.run),
            notices=option(self.run.manifest, "notices") or (),
            slugs={card.row.explainer: card.slug for card in explainers},
            tier=self.run.summary.get("tier", ""),
            explained=explained,
            dead=f"{100 * MEANINGLESS_ABOVE:.0f}",
        )
        return index

    def _truths(self, cards: Sequence[TaskCard], source: Source) -> dict[str, tuple[str, list[str]]]:
        """Write a page on each task's ground truth; return its address and verdicts by task, or why there is none."""
        found = {}
        for card in cards:
            recipe = next((board.recipes[0] for board in card.boards if board.recipes), "")
            if not recipe or option(self.run.manifest, "tasks", card.name, "truth") in ("time", "none"):
                continue
            try:
                quality = kept_quality(source.task(card.name), recipe, QUALITY_CLIPS)
            except XaibenchError as error:
                found[card.name] = "", [clean(error)]
                continue
            file = f"tasks/{card.slug}-masks.html"
            self.page(file, "task_masks.html", **{k: v for k, v in page_values(quality).items() if k != "version"})
            found[card.name] = file, verdicts(quality)
        return found

    def page(self, file: str, template: str, **values: Any) -> None:
        """Render one page of the report."""
        depth = "../" * file.count("/")
        shared = {"navigation": NAVIGATION, "root": depth, "here": file, "version": xaibench.__version__}
        self.write(file, render(template, **shared, **values))

    def write(self, file: str, content: bytes) -> None:
        """Write a file that appears whole or not at all."""
        from xaibench.tasks.cache import atomic_write

        path = self.out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)

    def _exports(self, cards: Sequence[ExplainerCard]) -> None:
        boards = self.run.boards
        tables = [exports.latex(board, recipe) for board in boards for recipe in board.recipes or ("",)]
        cited = [(card.row.explainer, card.reference) for card in cards if card.reference]
        self.write("leaderboard.csv", exports.csv_bytes(boards))
        self.write("leaderboard.json", exports.json_bytes(boards))
        self.write("leaderboard.tex", "\n".join(tables).encode())
        self.write("leaderboard.bib", exports.bibtex(cited, xaibench.__version__).encode())

    def _figures(self, sections: Sequence[Section]) -> list[tuple[str, str]]:
        """Write the scatter plots as files of their own, for papers."""
        made = []
        for part in sections:
            for plot in part.tradeoffs:
                file = f"figures/{part.number}-{plot.key}.svg"
                self.write(file, render("figure.svg", plot=plot))
                made.append((file, plot.title.lower()))
        return made

    def _explainers(self, cards: Sequence[ExplainerCard]) -> None:
        self.page("explainers.html", "explainers.html", cards=cards)
        for card in cards:
            self.page(f"explainers/{card.slug}.html", "explainer.html", card=card)

    def _scores(self) -> None:
        table, look = datatables()
        script = Markup("\n").join((table, Markup(static("scores.js"))))
        style = Markup("\n").join((look, Markup(static("style.css"))))
        values = {"script": script, "script_hash": Markup(source_hash(script)), "style": style, "style_hash": Markup(source_hash(style))}
        rows = list(records(self.run.boards))
        self.page("scores.html", "scores.html", headings=HEADINGS, records=encoded(rows), count=len(rows), module=True, **values)


def _info(words: MetricWords) -> Any:
    """Return the metric's own record, ``None`` for columns that are no metric, such as costs."""
    from xaibench.benchmark.metrics.info import info

    try:
        return info(words.name)
    except XaibenchError:
        return None


def command_of(run: Run) -> str:
    """Return the command that made a run, as a shell takes it."""
    argv = run.manifest.get("argv")
    if not isinstance(argv, list) or not argv:
        return ""
    return clean(shlex.join([Path(str(argv[0])).name, *map(str, argv[1:])]))


def provenance(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
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
