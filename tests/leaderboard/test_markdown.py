"""The Markdown table says what the rows say, as a Markdown reader reads it."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from xaibench.leaderboard import markdown
from xaibench.leaderboard.rows import Board, Group, Row, Score, interval, number, read_run

SAID = "not detector-specific: cannot be told from addsegdiff_random"
HOSTILE = "a|b*c*<b>x</b>`y`_z_[l](http://e)"


class Cells(HTMLParser):
    """The cells of the tables of a page, each with whether it is bold, and everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.bold: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data
        if "strong" in self.open:
            self.bold.append(data)


def read(text: str) -> Cells:
    page = Cells()
    page.feed(MarkdownIt("commonmark").enable("table").render(text))
    return page


def row(name: str, group: Group, **scores: Score) -> Row:
    return Row(name, name, group, {("r", "declared", "", "generalized_dice", part): score for part, score in scores.items()})


def board(*rows: Row) -> Board:
    return Board("t", "d", ("r",), (), ("generalized_dice",), ("all", "seen", "unseen"), rows)


def test_a_run_reads_back_as_its_scores(toy_run: Path) -> None:
    known = read_run(toy_run).boards[0]
    page = read(markdown.table(known))
    width = 1 + len(known.recipes)
    lines = [page.cells[i : i + width] for i in range(width, len(page.cells), width)]
    assert len(lines) == len(known.rows)
    ranked = [r for group in ("explainer", "control", "oracle") for r in known.ranked(group, known.recipes[0])]
    for line, found in zip(lines, ranked, strict=True):
        assert line[0] == found.title + ("" if found.group == "explainer" else f" ({found.group})")
        for cell, recipe in zip(line[1:], known.recipes, strict=True):
            score = known.main(found, recipe)
            assert score is not None
            assert cell == f"{number(score.mean)} ({interval(score)})"


def test_slices_verdicts_gaps_and_what_a_row_says() -> None:
    winner = Score(mean=0.31, low=0.28, high=0.34, tier=1, beats_best_control=True)
    text = markdown.table(
        board(
            row("addsegdiff", "explainer", all=Score(mean=0.2, tier=2, note=SAID), seen=Score(mean=0.19, beats_best_control=False)),
            row("one_shot", "explainer", all=winner, seen=winner, unseen=winner),
            row("prior", "control", all=Score(mean=0.25), seen=Score(mean=0.25), unseen=Score(mean=0.3, beats_best_control=None)),
        ),
        slices=("seen", "unseen"),
    )
    page = read(text)
    assert page.cells == [
        *("GDice (95 %)", "r, seen", "r, unseen"),
        *("one_shot", "31.0 (28.0 to 34.0)", "31.0 (28.0 to 34.0)"),
        *("addsegdiff", "19.0", "–"),
        *("prior (control)", "25.0", "30.0"),
    ]
    assert page.bold == ["31.0", "31.0"]
    assert f"- addsegdiff, r: {SAID}" in text.replace("\\", "")


def test_names_from_outside_stay_text() -> None:
    page = read(markdown.table(board(row(HOSTILE, "explainer", all=Score(mean=0.2, note=HOSTILE)))))
    assert page.cells[2:] == [HOSTILE, "20.0"]
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "ul", "li"}


def test_unknown_recipes_and_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="slices must be among all, seen, unseen, got heard; choose of these"):
        markdown.table(board(), slices=("heard",))
    with pytest.raises(ValueError, match="recipes must be among r, got q"):
        markdown.table(board(), ["q"])


def test_the_command_prints_every_board(toy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markdown.main([str(toy_run), "--slice", "all"])
    text = capsys.readouterr().out
    for known in read_run(toy_run).boards:
        assert markdown.table(known) in text
