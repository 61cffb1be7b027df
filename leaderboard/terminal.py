"""A board as text: one line per row, on 80 columns with the scores that matter most, on wider terminals with more of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from xaibench.leaderboard.notes import resolution
from xaibench.leaderboard.rows import Board, Group, Row, Score, number
from xaibench.leaderboard.views import GROUPS, headline
from xaibench.leaderboard.words import CORRECTED, TIER_RULE, clean, metric

EXTRA = (CORRECTED, "time_average_precision", "average_precision", "stratified_auc", "|map|", "auroc", "pointing_game", "srg", "n")
"""Columns beside name, score, interval and verdict, the first to come first."""
STYLES: dict[Group, str] = {"oracle": "dim italic", "explainer": "bold", "control": "dim"}
WIDE = 100
"""From this width on columns stand two blanks apart, below it one."""
NAMED = 3
"""Explainers named in a line about faithfulness."""


@dataclass(frozen=True)
class Part:
    """One column: its heading and its text for each row."""

    heading: str
    cell: Callable[[Row], str]

    def width(self, rows: list[Row]) -> int:
        """Return the columns of the terminal that it takes."""
        from rich.cells import cell_len

        return max(cell_len(text) for text in (self.heading, *(self.cell(row) for row in rows)))


@dataclass(frozen=True)
class BoardText:
    """A board and recipe that fits itself to the width of the console."""

    board: Board
    recipe: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Give the headline, the table, and what must be known to read it."""
        board = self.board
        yield Text(clean(headline(board, self.recipe)), style="bold")
        yield Text(f"{clean(board.task)} · {clean(board.detector)} · truth {clean(self.recipe) or 'none'}", style="dim")
        yield self._table(options.max_width)
        for line in (*self._faithfulness(), self._legend()):
            yield Text(line, style="dim")
        yield Text()

    def _table(self, width: int) -> Table:
        groups = [(group, self.board.ranked(group, self.recipe)) for group, _ in GROUPS]
        main = metric(self.board.primary.name).short
        rows = [row for _, members in groups for row in members]
        score, span = Part(main, self._score), Part("95 %", self._interval)
        verdict = Part("verdict", self._verdict)
        gap = 2 if width >= WIDE else 1
        room = width - sum(part.width(rows) + gap for part in (score, span, verdict))
        name = Part("explainer", lambda row: _middle(clean(row.title), max(room, len("explainer"))))
        parts = [name, score, span, *self._that_fit(room - name.width(rows), gap, rows), verdict]
        table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
        for part in parts:
            table.add_column(part.heading, justify="left" if part in (name, verdict) else "right", no_wrap=True, overflow="ellipsis")
        for i, (group, members) in enumerate((g, m) for g, m in groups if m):
            if i:
                table.add_row()
            for row in members:
                table.add_row(*(Text(part.cell(row), style=STYLES[group]) for part in parts))
        return table

    def _that_fit(self, left: int, gap: int, rows: list[Row]) -> Iterator[Part]:
        """Take the extra columns in order until the next one is too wide."""
        for name in EXTRA:
            part = self._extra(name)
            texts = {part.cell(row) for row in rows}
            if texts <= {"–", ""} or name == self.board.primary.name:
                continue
            left -= part.width(rows) + gap
            if left < 0:
                return
            yield part

    def _extra(self, name: str) -> Part:
        if name == "n":
            return Part("n", lambda row: f"{self._main(row).n}/{self._main(row).n_total}")
        if name == "|map|":
            return Part(name, lambda row: self._number((self.board.main(row, self.recipe, polarity="magnitude") or Score()).mean))
        occluder = self.board.occluders[0] if name == "srg" and self.board.occluders else ""
        return Part(metric(name).short, lambda row: number((row.score(name, recipe=self.recipe, occluder=occluder) or Score()).mean, name))

    def _main(self, row: Row) -> Score:
        return self.board.main(row, self.recipe) or Score()

    def _number(self, value: float | None) -> str:
        return number(value, self.board.primary.name)

    def _score(self, row: Row) -> str:
        return self._number(self._main(row).mean)

    def _interval(self, row: Row) -> str:
        score = self._main(row)
        if score.low is None or score.high is None:
            return ""
        return f"{self._number(score.low)}{' to ' if score.low < 0 else '-'}{self._number(score.high)}"

    def _verdict(self, row: Row) -> str:
        """Say in at most 16 characters what a row is: its tier, the best control or oracle, or why it has none."""
        score, floor, ceiling = self._main(row), self.board.floor(self.recipe), self.board.ceiling(self.recipe)
        if row.group == "oracle":
            return "ceiling" if ceiling and ceiling[0] is row else "oracle"
        tier = f"tier {score.tier}" if score.tier else ""
        if row.group == "control":
            return f"{tier} {'floor' if floor and floor[0] is row else 'control'}".strip()
        if tier:
            return f"{tier} beats" if score.beats_best_control else tier
        return "not applicable" if score.note.startswith("not applicable") else "not enough clips"

    def _faithfulness(self) -> Iterator[str]:
        """Write for each occluder the gain of the best explainers and of the best control."""
        for occluder in self.board.occluders:
            found = [
                (s.mean, row)
                for row in self.board.rows
                if row.group == "explainer" and (s := row.score("srg", recipe=self.recipe, occluder=occluder)) and s.mean is not None
            ]
            best = sorted(found, key=lambda pair: (-pair[0], pair[1].explainer))[:NAMED]
            told = [f"{clean(row.title)} {number(mean, 'srg')}{_greyed(row, occluder)}" for mean, row in best]
            floor = self.board.floor(self.recipe, "srg", occluder=occluder)
            if floor:
                told.append(f"best control {clean(floor[0].title)} {number(floor[1].mean, 'srg')}{_greyed(floor[0], occluder)}")
            if told:
                yield f"SRG, cells replaced by {clean(occluder).replace('_', ' ')}: {', '.join(told)}"

    def _legend(self) -> str:
        scores, facts = [self._main(row) for row in self.board.rows], self.board.facts
        unit = "Percent; chance" if metric(self.board.primary.name).scale == 100 else "Log-odds; chance"
        told = [f"{unit} is {self._number(self.board.primary.chance)}."]
        told.append(TIER_RULE if any(s.tier for s in scores) else f"No tiers under {facts.get('min_clips') or 20} clips.")
        if any(s.beats_best_control for s in scores):
            told.append("beats: better than every control (paired, Holm-corrected).")
        if facts.get("n_clips") is not None:
            gap = f"{float(facts.get('gap_gate') or 2.0):.1f}"
            told.append(f"{facts['n_clips']} clips entered, {facts.get('n_gated', 0)} with a gap >= {gap} between the twins.")
        told.append(resolution(self.board, self.recipe))
        told += [
            f"{clean(row.title)}: {clean(score.note)}."
            for row in self.board.rows
            if row.group == "explainer" and (score := self._main(row)).tier and score.note
        ]
        return " ".join(filter(None, told))


def _greyed(row: Row, occluder: str) -> str:
    return " (out of range)" if row.leaves_range(occluder) else ""


def _middle(text: str, width: int) -> str:
    """Cut the middle out of a text that is too wide: options that tell two rows apart stand at the end."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
