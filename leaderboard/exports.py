"""The board for other programs: CSV for spreadsheets, JSON for scripts, LaTeX for papers, BibTeX for what must be cited.

Every text comes from outside: CSV cells that a spreadsheet would run as a formula are defused, LaTeX and BibTeX specials are escaped.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict

from xaibench.leaderboard.rows import Board, Row, Score
from xaibench.leaderboard.words import PRIMARY, clean, metric

KEYS = ("recipe", "polarity", "occluder", "metric", "slice")
COLUMNS = ("mean", "low", "high", "n", "n_total", "n_undefined", "n_failed", "interval_by", "tier", "beats_best_control", "note")
PAPER = (
    PRIMARY,
    "time_auroc",
    "time_average_precision",
    "average_precision",
    "stratified_auc",
    "pointing_game",
    "deletion",
    "insertion",
    "srg",
)
"""Metrics of the LaTeX table, in this order, those that were measured."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
}
_ARXIV = re.compile(r"arXiv:\s*(\d{4}\.\d{4,5})", re.IGNORECASE)
_YEAR = re.compile(r"\b(19|20)\d{2}\b")


def csv_bytes(boards: Sequence[Board]) -> bytes:
    """Write every score as CSV; a text that a spreadsheet would run as a formula is quoted with an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("task", "detector", "explainer", "title", "group", *KEYS, *COLUMNS))
    for board in boards:
        for row in board.rows:
            for key, score in row.scores.items():
                values = (board.task, board.detector, row.explainer, row.title, row.group, *key, *(getattr(score, c) for c in COLUMNS))
                writer.writerow([_cell(v) for v in values])
    return buffer.getvalue().encode()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


def json_bytes(boards: Sequence[Board]) -> bytes:
    """Write every score as JSON: a list of boards, each with its rows, each with its scores; undefined values are null."""
    made = [
        {
            "task": board.task,
            "detector": board.detector,
            "recipes": list(board.recipes),
            "rows": [
                {
                    "explainer": row.explainer,
                    "title": row.title,
                    "group": row.group,
                    "scores": [dict(zip(KEYS, key, strict=True)) | asdict(score) for key, score in row.scores.items()],
                }
                for row in board.rows
            ],
        }
        for board in boards
    ]
    return (json.dumps(made, separators=(",", ":"), allow_nan=False) + "\n").encode()


def latex(board: Board, recipe: str, occluder: str = "") -> str:
    """Write a board as a ``booktabs`` table: means with intervals, best explainer in bold, controls and oracles apart.

    Args:
        board: The board.
        recipe: Mask recipe of the localisation columns.
        occluder: Occluder of the faithfulness columns; the board's first by default.
    """
    occluder = occluder or (board.occluders[0] if board.occluders else "")
    names = [n for n in PAPER if any(_mean(_score(row, n, recipe, occluder)) is not None for row in board.rows)]
    best = {name: _best(board, name, recipe, occluder) for name in names}
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{Explainers of {tex(board.detector)} on {tex(board.task)}, truth {tex(recipe) or 'none'}; 95\,\% intervals first.}}",
        rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
        r"\toprule",
        " & ".join(["Explainer", *(tex(metric(n).short) for n in names)]) + r" \\",
    ]
    for group in ("oracle", "explainer", "control"):
        rows = board.ranked(group, recipe)
        lines += [r"\midrule"] if rows else []
        for row in rows:
            cells = [_tex_score(_score(row, n, recipe, occluder), n, row.explainer in best[n], first=i == 0) for i, n in enumerate(names)]
            lines.append(" & ".join([tex(row.title), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def tex(text: str) -> str:
    """Escape outside text for LaTeX."""
    return "".join(_LATEX.get(c, c) for c in clean(text))


def _score(row: Row, name: str, recipe: str, occluder: str) -> Score | None:
    return row.score(name, recipe=recipe, occluder=occluder if metric(name).group == "faithfulness" else "")


def _mean(score: Score | None) -> float | None:
    return score.mean if score else None


def _best(board: Board, name: str, recipe: str, occluder: str) -> set[str]:
    """Return the competing rows with the best mean, as it is printed."""
    from xaibench.leaderboard.rows import number

    means = {
        r.explainer: m
        for r in board.rows
        if r.group == "explainer" and r.competes and (m := _mean(_score(r, name, recipe, occluder))) is not None
    }
    if not means:
        return set()
    top = max(means.values()) if metric(name).higher_is_better else min(means.values())
    return {explainer for explainer, mean in means.items() if number(mean, name) == number(top, name)}


def _tex_score(score: Score | None, name: str, best: bool, *, first: bool) -> str:
    from xaibench.leaderboard.rows import number

    if score is None or score.mean is None:
        return "--"
    text = tex(number(score.mean, name))
    text = rf"\textbf{{{text}}}" if best else text
    if first and score.low is not None and score.high is not None:
        text += rf" {{\scriptsize [{tex(number(score.low, name))}, {tex(number(score.high, name))}]}}"
    return text


def bibtex(references: Sequence[tuple[str, str]], version: str) -> str:
    """Write one entry for each cited source, and one for the benchmark itself.

    Args:
        references: Name of a plugin and its ``reference``, e.g. ``("deep_shap", "Lundberg & Lee 2017, arXiv:1705.07874")``.
        version: Release of the benchmark that made the numbers.
    """
    entries = [
        "@software{xaibench,\n  title = {xaibench: a benchmark of explanations of audio-deepfake detectors},\n"
        f"  version = {{{tex(version)}}}\n}}",
        "@inproceedings{grinberg2025,\n  author = {Grinberg, Petr and Kumar, Ankur and Koppisetti, Surya and Bharaj, Gaurav},\n"
        "  title = {A Data-Driven Diffusion-based Approach for Audio Deepfake Explanations},\n  booktitle = {Interspeech},\n"
        "  year = {2025},\n  eprint = {2506.03425},\n  archiveprefix = {arXiv}\n}",
    ]
    known, keys = {"2506.03425"}, {"xaibench", "grinberg2025"}
    for name, reference in references:
        found = [arxiv for arxiv in _ARXIV.findall(reference) if arxiv not in known]
        year = _YEAR.search(reference)
        if not found and (not year or _ARXIV.search(reference)):
            continue  # known already, or no source at all
        known.update(found)
        for arxiv in found or [""]:
            key = _key(name, keys)
            fields = [f"  note = {{{_bib(reference)}}}"]
            fields += [f"  year = {{20{arxiv[:2]}}}", f"  eprint = {{{arxiv}}}", "  archiveprefix = {arXiv}"] if arxiv else []
            fields += [f"  year = {{{year[0]}}}"] if year and not arxiv else []
            entries.append(f"@misc{{{key},\n" + ",\n".join(fields) + "\n}")
    return "\n\n".join(entries) + "\n"


def _bib(text: str) -> str:
    r"""Escape outside text for BibTeX, which counts braces even behind a backslash."""
    return tex(text).replace(r"\{", r"{\textbraceleft}").replace(r"\}", r"{\textbraceright}")


def _key(name: str, taken: set[str]) -> str:
    """Return a citation key that no other entry has."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "x"
    key = next(k for k in (plain, *(f"{plain}-{i}" for i in range(2, len(taken) + 3))) if k not in taken)
    taken.add(key)
    return key
