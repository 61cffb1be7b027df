"""A paper's table in one command: what it explains with what, and the figures that it reports beside those measured here.

``xaibench run --suite grinberg2025`` runs Table 1 of Grinberg et al. 2025 (arXiv:2506.03425) on whatever part of its corpora is present.
The full text could not be opened when this was written: figures are those that could be recovered, everything else is left open.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xaibench.benchmark.results import Results
from xaibench.benchmark.summary import SummaryRow
from xaibench.errors import DataError, XaibenchError
from xaibench.registry import EXPLAINERS, TASKS
from xaibench.types import Explainer, Task


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    heading: str
    metric: str
    occluder: str = ""
    factor: float = 1.0
    """From the metric's unit to the table's."""


@dataclass(frozen=True)
class Figure:
    """A figure that the paper reports."""

    task: str
    explainer: str
    metric: str
    value: float
    """In the table's unit."""


@dataclass(frozen=True)
class Paper:
    """The line-up of a suite that repeats a paper."""

    suite: str
    title: str
    tasks: tuple[str, ...]
    detector: str
    explainers: tuple[str, ...]
    recipe: str
    polarity: str
    columns: tuple[Column, ...]
    figures: tuple[Figure, ...]
    caveats: tuple[str, ...]
    """What differs from the paper, or is not known of it."""

    def reported(self, task: str, explainer: str, metric: str) -> float | None:
        """Return the paper's figure; options of task and explainer do not matter."""
        wanted = (base(task), base(explainer), metric)
        return next((f.value for f in self.figures if (f.task, f.explainer, f.metric) == wanted), None)


GDICE, OCCLUDER = "generalized_dice", "zero"
PAPERS = {
    "grinberg2025": Paper(
        suite="grinberg2025",
        title="Grinberg et al. 2025, arXiv:2506.03425, Table 1",
        tasks=("vocv4", "librisevoc"),
        detector="wav2vec2_aasist",
        explainers=("deep_shap", "gradient_shap", "attn_lrp", "specsegdiff", "addsegdiff"),
        recipe="grinberg-rel-linear-v1",
        polarity="magnitude",
        columns=(
            Column("GDice %", GDICE, factor=100),
            Column("AI %", "average_increase_soft", OCCLUDER),
            Column("AD %", "average_drop_soft", OCCLUDER),
            Column("AG %", "average_gain_soft", OCCLUDER),
            Column("Fid-In %", "fidelity_in_soft", OCCLUDER, factor=100),
        ),
        figures=(
            Figure("vocv4", "specsegdiff", GDICE, 57.46),
            Figure("vocv4", "addsegdiff", GDICE, 48.26),
            Figure("vocv4", "attn_lrp", GDICE, 12.65),
            Figure("librisevoc", "specsegdiff", GDICE, 51.73),
        ),
        caveats=(
            "Known figures of the paper only; its other cells, its class weights of GDice and its detector's weights are not published.",
            "AI, AD, AG, Fid-In: the clip times min-max scaled |map| in linear magnitude, own phase; class spoof; every clip counts.",
            "48.26 is reported without its dataset; 51.73 may be transfer from VocV4 or trained anew.",
        ),
    )
}


@dataclass(frozen=True)
class LineUp:
    """What a run of a paper's table asks for."""

    explainers: list[str]
    tasks: list[str | Task]
    detector: str | None
    notes: tuple[str, ...]


def base(label: str) -> str:
    """Return the name of a plugin without its options."""
    return label.partition(":")[0]


def line_up(
    paper: Paper, explainers: Sequence[str] = (), tasks: Sequence[str | Task] = (), folders: Sequence[str] = (), detector: str | None = None
) -> LineUp:
    """Return the paper's line-up on what is present.

    Args:
        paper: The table.
        explainers: Specifications that replace the paper's of the same name, and further ones.
        tasks: Tasks asked for in place of the paper's corpora, so that another corpus may stand in.
        folders: Folders that may hold the paper's corpora.
        detector: In place of the paper's.

    Raises:
        DataError: If none of its corpora is present and no task was asked for.
    """
    found, absent = (list(tasks), []) if tasks else present(paper, folders)
    if not found:
        raise DataError(
            f"{' or '.join(paper.tasks)} must be present for suite {paper.suite}, got neither ({'; '.join(absent)}); "
            f"give their folder with --data, or let another corpus stand in, as --task public_pairs"
        )
    own = {base(spec): spec for spec in explainers}
    usable, left_out = [], []
    for name in paper.explainers:
        reason = unusable(own.get(name, name), found)
        if reason and name not in own:
            left_out.append(f"{name} is left out: {reason}")
        else:
            usable.append(own.get(name, name))
    usable += [spec for spec in explainers if base(spec) not in paper.explainers]
    return LineUp(usable, found, detector or paper.detector, (*(f"Left out: {reason}" for reason in absent), *left_out))


def present(paper: Paper, folders: Sequence[str]) -> tuple[list[str | Task], list[str]]:
    """Return the paper's corpora that lie here, incomplete ones too, and the reason for each that does not."""
    found: list[str | Task] = []
    absent = []
    for name in paper.tasks:
        reasons: list[str] = []
        places = [{"data": folder} for folder in folders] or [{}]
        for options in [{**place, **part} for part in ({}, {"partial": "true"}) for place in places]:
            try:
                task: Task = TASKS.load(name, **options)
                if task.pairs("test"):
                    found.append(task)
                    break
                reasons.append(f"{name} has no test clip")
            except XaibenchError as error:
                reasons.append(str(error))
        else:
            absent.append(reasons[0])
    return found, absent


def unusable(spec: str, tasks: Sequence[str | Task]) -> str:
    """Say why an explainer cannot be used on a task, its weights missing for example; empty if it can."""
    if base(spec) not in EXPLAINERS.names():
        return f"there is no explainer {base(spec)!r}"
    try:
        explainer: Explainer = EXPLAINERS.load(spec)
        for task in tasks:
            explainer.bind(base(task) if isinstance(task, str) else task.name).state_hash()
    except XaibenchError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Cell:
    """A measured value with its interval, and the paper's; any of them may be missing."""

    mean: float | None
    low: float | None
    high: float | None
    reported: float | None

    def text(self) -> str:
        """Return ``measured [low, high] (paper: reported)``."""
        parts = [f"{self.mean:.1f}" if self.mean is not None else "–"]
        parts += [f"[{self.low:.1f}, {self.high:.1f}]"] if self.low is not None and self.high is not None else []
        return " ".join(parts + ([f"(paper: {self.reported:.2f})"] if self.reported is not None else []))


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    task: str
    explainer: str
    control: bool
    n: int
    cells: tuple[Cell, ...]


def table(paper: Paper, results: Results) -> list[Line]:
    """Return the rows of the table: by task, explainers before controls, higher Generalized Dice first."""
    rows = {
        (r.task, r.explainer, r.metric): r
        for r in results.summary.rows
        if r.slice == "all" and r.polarity == paper.polarity and (r.recipe, r.occluder) in _places(paper)
    }
    lines = []
    for task, explainer in dict.fromkeys((task, explainer) for task, explainer, _ in rows):
        found = [rows.get((task, explainer, column.metric)) for column in paper.columns]
        first = next(row for row in found if row is not None)
        cells = tuple(_cell(paper, column, row, task, explainer) for column, row in zip(paper.columns, found, strict=True))
        lines.append(Line(task, explainer, first.control or first.oracle, first.n, cells))
    return sorted(lines, key=lambda line: (line.task, line.control, -(line.cells[0].mean or 0.0), line.explainer))


def _places(paper: Paper) -> set[tuple[str, str]]:
    return {(paper.recipe, "") if not column.occluder else ("", column.occluder) for column in paper.columns}


def _cell(paper: Paper, column: Column, row: SummaryRow | None, task: str, explainer: str) -> Cell:
    mean, low, high = (
        None if value is None else value * column.factor for value in ((row.mean, row.low, row.high) if row else (None,) * 3)
    )
    return Cell(mean, low, high, paper.reported(task, explainer, column.metric))


def markdown(paper: Paper, results: Results, notes: Sequence[str] = ()) -> str:
    """Return the table as Markdown."""
    lines = [f"# {paper.title}", "", f"Measured here [95 % interval] (paper: reported). Truth {paper.recipe}, |map|.", ""]
    lines += [
        "| task | explainer | " + " | ".join(c.heading for c in paper.columns) + " | clips |",
        "|" + "---|" * (len(paper.columns) + 3),
    ]
    for line in table(paper, results):
        lines.append(f"| {line.task} | {line.explainer} | " + " | ".join(cell.text() for cell in line.cells) + f" | {line.n} |")
    lines += ["", *(f"- {note}" for note in (*notes, *paper.caveats)), ""]
    return "\n".join(lines)
