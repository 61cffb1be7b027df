"""A board as a Markdown table, for a README: ``python -m xaibench.leaderboard.markdown RUN --slice seen --slice unseen``.

One line per row, a column per recipe and slice: the primary score with its interval, bold where the row beats every control there. What a
row says of itself (a failed explanation, a claim that does not hold) follows as a list.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence

from xaibench.leaderboard.rows import Board, Group, Row, interval, number, read_run
from xaibench.leaderboard.words import clean

GROUPS: tuple[Group, ...] = ("explainer", "control", "oracle")
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


def table(board: Board, recipes: Sequence[str] = (), slices: Sequence[str] = ("all",)) -> str:
    """Return the Markdown of a board; a cell that was not measured holds a dash.

    Args:
        board: One task and detector.
        recipes: Truths to show; all of the board by default.
        slices: ``all``, ``seen``, ``unseen`` or ``vocoder:NAME``.

    Raises:
        ValueError: If the board has no such recipe or slice.
    """
    chosen = tuple(recipes) or board.recipes or ("",)
    for what, wanted, known in (("recipes", chosen, board.recipes or ("",)), ("slices", slices, board.slices)):
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(f"{what} must be among {', '.join(known)}, got {', '.join(unknown)}; choose of these")
    heads = [f"{text(recipe)}, {part}" if recipe else part for recipe in chosen for part in slices]
    lines = [f"| {board.unit} (95 %) | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    rows = [row for group in GROUPS for row in board.ranked(group, chosen[0])]
    for row in rows:
        cells = [_cell(board, row, recipe, part) for recipe in chosen for part in slices]
        kind = "" if row.group == "explainer" else f" ({row.group})"
        lines.append(f"| {text(row.title)}{kind} | {' | '.join(cells)} |")
    notes = list(dict.fromkeys(note for row in rows for note in _notes(board, row, chosen)))
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _cell(board: Board, row: Row, recipe: str, part: str) -> str:
    score = board.main(row, recipe, part=part)
    if score is None or score.mean is None:
        return "–"
    value = number(score.mean, board.primary.name)
    value = f"**{value}**" if score.beats_best_control and row.group == "explainer" else value
    span = interval(score, board.primary.name)
    return f"{value} ({span})" if span else value


def _notes(board: Board, row: Row, recipes: Sequence[str]) -> Iterator[str]:
    for recipe in recipes:
        score = board.main(row, recipe)
        if score is not None and score.note and row.group == "explainer":
            yield f"- {text(row.title)}{f', {text(recipe)}' if recipe else ''}: {text(score.note)}"


def text(value: str) -> str:
    """Make outside text safe to stand in a Markdown table."""
    return _SPECIAL.sub(r"\\\1", clean(value))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of a run folder, one per board."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    parser.add_argument("--recipe", action="append", default=[])
    parser.add_argument("--slice", action="append", default=[])
    options = parser.parse_args(arguments)
    for board in read_run(options.run).boards:
        shown = options.slice or [part for part in board.slices if not part.startswith("vocoder:")]
        sys.stdout.write(f"{text(board.task)}, detector {text(board.detector)}\n\n{table(board, options.recipe, shown)}\n")


if __name__ == "__main__":
    main()
