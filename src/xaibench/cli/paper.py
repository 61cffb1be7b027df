"""A suite that repeats a paper's table, on the command line: its line-up before the run, its table after it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xaibench.benchmark.published import LineUp, Paper
    from xaibench.benchmark.results import Results

TABLE = "published.md"


def paper_of(suite: str) -> "Paper | None":
    """Return the paper that a suite repeats; ``None`` for other suites."""
    if suite == "xaibench-v1":
        return None  # without an import of what is not needed
    from xaibench.benchmark.published import PAPERS

    return PAPERS.get(suite)


def line_up(
    paper: "Paper | None", explainers: Sequence[str], tasks: Sequence[str], folders: Sequence[str], detector: str | None
) -> "LineUp":
    """Return what is run: as asked, and where a paper is repeated, what it ran on what is present."""
    from xaibench.benchmark import published
    from xaibench.cli.tasks import tasks_with_data

    if paper is None:
        return published.LineUp(list(explainers), tasks_with_data(tasks or ["minivoc"], folders), detector, ())
    asked = tasks_with_data(tasks, folders) if tasks else []
    return published.line_up(paper, explainers, asked, folders, detector)


def show_paper(paper: "Paper", results: "Results", notes: Sequence[str]) -> None:
    """Print the paper's table with measured and reported figures, and write it into the run folder as Markdown."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from xaibench.benchmark import published
    from xaibench.benchmark.units import clean

    console = Console()
    console.print(Text(f"{paper.title}: measured [95 %] (paper: reported), truth {paper.recipe}, |map|", style="bold"))
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("task", "explainer", *(column.heading for column in paper.columns), "clips"):
        shown.add_column(heading, justify="left" if heading in ("task", "explainer") else "right")
    for line in published.table(paper, results):
        style = "dim" if line.control else "bold"
        cells = (clean(line.task), clean(line.explainer), *(cell.text() for cell in line.cells), str(line.n))
        shown.add_row(*(Text(cell, style=style) for cell in cells))
    console.print(shown)
    for note in (*notes, *paper.caveats):
        console.print(Text(clean(note), style="dim"))
    (results.path / TABLE).write_text(published.markdown(paper, results, notes), encoding="utf-8")
