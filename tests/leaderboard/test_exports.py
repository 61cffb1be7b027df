"""The board in other forms: formulas defused, specials escaped, best values bold, only true fronts."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from xaibench.leaderboard import exports
from xaibench.leaderboard.rows import Board, Row, Score, read_run
from xaibench.leaderboard.tradeoff import pareto, tradeoffs


def test_json_holds_every_score_of_the_csv(toy_run: Path) -> None:
    boards = read_run(toy_run).boards
    table = list(csv.DictReader(io.StringIO(exports.csv_bytes(boards).decode())))
    scores = [s for board in json.loads(exports.json_bytes(boards)) for row in board["rows"] for s in row["scores"]]
    assert len(table) == len(scores) > 50
    assert [s["mean"] for s in scores] == [float(line["mean"]) for line in table]


@pytest.mark.parametrize("name", ["=SUM(A1)", "+1", "-1", "@x", "\t=1"])
def test_a_name_cannot_become_a_formula(name: str) -> None:
    row = Row(name, name, "explainer", {("", "declared", "", "generalized_dice", "all"): Score(mean=0.3)})
    board = Board("toy", "toy", ("",), (), ("generalized_dice",), ("all",), (row,))
    cells = list(csv.reader(io.StringIO(exports.csv_bytes([board]).decode())))[1]
    assert not any(cell[:1] in ("=", "+", "-", "@") for cell in cells)


def test_latex_is_escaped_and_marks_the_best_explainer_alone(toy_run: Path) -> None:
    board = read_run(toy_run).boards[0]
    text = exports.latex(board, board.recipes[0])
    lines = {line.split(" & ")[0]: line for line in text.splitlines() if " & " in line}
    assert set(lines) == {"Explainer", r"oracle\_mask", "specsegdiff", "saliency", "energy", "random"}
    assert len({line.count(" & ") for line in lines.values()}) == 1
    first = {name: line.split(" & ")[1] for name, line in lines.items()}
    assert first["specsegdiff"].startswith(r"\textbf{")
    assert sum(r"\textbf" in cell for cell in first.values()) == 1
    assert text.count("{") == text.count("}")
    assert exports.tex(r"a_b\c%{x}~") == r"a\_b\textbackslash{}c\%\{x\}\textasciitilde{}"


def test_bibtex_cites_each_source_once() -> None:
    both = "Lundberg & Lee 2017, arXiv:1705.07874"
    cited = [("deep_shap", both), ("gradient_shap", both), ("own", "")]
    text = exports.bibtex([*cited, ("specsegdiff", "Grinberg et al. 2025, arXiv:2506.03425")], "1.0")
    assert re.findall(r"^@\w+\{([^,]+),$", text, re.M) == ["xaibench", "grinberg2025", "deep-shap"]
    assert r"Lundberg \& Lee 2017" in text
    assert "year = {2017}" in text


def test_the_front_is_what_a_slow_definition_says() -> None:
    points = [(str(i), float((7 * i) % 11), float((5 * i) % 13)) for i in range(11)]
    slow = {n for n, x, y in points if all(not (a >= x and b >= y and (a, b) != (x, y)) for _, a, b in points)}
    assert pareto(points) == slow
    assert 0 < len(slow) < len(points)


def test_every_competing_row_is_drawn_inside_the_frame(toy_run: Path) -> None:
    board = read_run(toy_run).boards[0]
    plots = tradeoffs(board, board.recipes[0])
    assert [plot.key for plot in plots] == ["faithfulness"]
    for plot in plots:
        assert {m.row.explainer for m in plot.marks} == {"specsegdiff", "saliency", "energy", "random"}
        assert all(46 <= m.x <= 446 and 14 <= m.y <= 256 for m in plot.marks)
        assert {m.row.explainer for m in plot.marks if m.css == "front"} == {"specsegdiff"}


def test_no_reference_can_break_out_of_its_entry_or_share_a_key() -> None:
    cited = [("a:b", "Nobody 2017} trailing {"), ("a_b", "Nobody 2018"), ("grinberg2025", "Nobody 2019"), ("random", "the chance level")]
    text = exports.bibtex([*cited, ("two", "A 1977; B, arXiv:1705.07874 and arXiv:1801.00001")], "1.0")
    keys = re.findall(r"^@\w+\{([^,]+),$", text, re.M)
    assert keys == ["xaibench", "grinberg2025", "a-b", "a-b-2", "grinberg2025-2", "two", "two-2"]
    for entry in text.split("\n\n"):
        depth = 0
        for character in entry:  # BibTeX counts braces whatever stands before them
            depth += (character == "{") - (character == "}")
            assert depth >= 0
        assert depth == 0
    assert re.findall(r"year = \{(\d+)\},\n  eprint = \{([\d.]+)\}", text)[-2:] == [("2017", "1705.07874"), ("2018", "1801.00001")]
