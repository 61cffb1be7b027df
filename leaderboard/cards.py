"""Cards: one page for each explainer and each task, drawn from the run folder and what the plugins say of themselves."""

import hashlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xaibench.errors import XaibenchError
from xaibench.leaderboard.rows import Board, Group, Row, Run, Score, interval, number, verdict
from xaibench.leaderboard.views import Cell, option, part_title
from xaibench.leaderboard.words import metric

SHOWN = (
    "time_average_precision",
    "generalized_dice_corrected",
    "average_precision",
    "auroc",
    "stratified_auc",
    "pointing_game",
    "relevance_mass",
    "gini",
    "entropy",
)
CURVES = ("deletion", "insertion", "srg")
COST = ("seconds", "forwards", "backwards", "peak_rss_mb")
NEEDS = {
    "gradients": "gradients of the detector",
    "logits": "answers of the detector",
    "references": "20 recordings of other speakers",
    "training_pairs": "training on pairs",
}
_ARXIV = re.compile(r"arXiv:\s*(\d{4}\.\d{4,5})", re.IGNORECASE)


@dataclass(frozen=True)
class Standing:
    """How an explainer stands on one board and recipe."""

    board: Board
    recipe: str
    main: Cell
    tier: int | None
    verdict: str
    good: bool | None
    n: str
    failures: str
    others: tuple[tuple[str, str, str], ...]
    """(title, value, interval) of further metrics."""
    parts: tuple[tuple[str, str, str], ...]
    """(slice, value, interval)."""


@dataclass(frozen=True)
class ExplainerCard:
    """What the page of an explainer shows."""

    row: Row
    slug: str
    group: Group
    summary: str
    text: tuple[str, ...]
    """Paragraphs of the class's own words."""
    reference: str
    link: str
    facts: tuple[tuple[str, str], ...]
    config: tuple[tuple[str, str], ...]
    standings: tuple[Standing, ...]
    cost: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TaskCard:
    """What the page of a task shows."""

    name: str
    slug: str
    title: str
    facts: tuple[tuple[str, str], ...]
    detectors: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    boards: tuple[Board, ...]


def slug(name: str) -> str:
    """Make a file name of outside text: plain characters, and a part of its hash where any were replaced.

    >>> slug("gradient_shap")
    'gradient_shap'
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")[:48] or "x"
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def explainer_cards(run: Run) -> tuple[ExplainerCard, ...]:
    """Describe every explainer of a run, in the order of its first board."""
    rows: dict[str, Row] = {}
    for board in run.boards:
        for group in ("explainer", "control", "oracle"):
            for row in board.ranked(group, board.recipes[0] if board.recipes else ""):
                rows.setdefault(row.explainer, row)
    return tuple(_card(run, row) for row in rows.values())


def _card(run: Run, row: Row) -> ExplainerCard:
    found = option(run.manifest, "explainers", row.explainer)
    known: dict[str, Any] = found if isinstance(found, dict) else {}
    needs = known.get("needs")
    reference = str(known.get("reference") or "")
    arxiv = _ARXIV.search(reference)
    summary, text = _own_words(str(known.get("name") or row.explainer))
    facts = [
        (
            "Kind",
            {"explainer": "explainer", "control": "control: knows nothing of the detector", "oracle": "oracle: handed the real twin"}[
                row.group
            ],
        )
    ]
    if isinstance(needs, list):
        facts += [("Needs", ", ".join(NEEDS.get(str(n), str(n)) for n in needs) or "nothing but the clip")]
    if known.get("polarity") in ("signed", "magnitude"):
        signed = known["polarity"] == "signed"
        facts += [("Sign", "larger is more spoof, negative speaks against" if signed else "size alone counts")]
    if isinstance(known.get("deterministic"), bool):
        repeats = "the same map whatever the seed" if known["deterministic"] else "draws random numbers from the clip's seed"
        facts += [("Repeatable", repeats)]
    facts += [("Version", str(known.get("version")))] if known.get("version") else []
    config = known.get("config") if isinstance(known.get("config"), dict) else {}
    return ExplainerCard(
        row=row,
        slug=slug(row.explainer),
        group=row.group,
        summary=summary,
        text=text,
        reference=reference,
        link=f"https://arxiv.org/abs/{arxiv[1]}" if arxiv else "",
        facts=tuple(facts),
        config=tuple((str(k), _plain(v)) for k, v in sorted((config or {}).items())),
        standings=tuple(s for board in run.boards for recipe in board.recipes or ("",) if (s := _standing(row.explainer, board, recipe))),
        cost=_cost(run, row.explainer),
    )


def _own_words(name: str) -> tuple[str, tuple[str, ...]]:
    """Return what the plugin's class says of itself: its first line and further paragraphs; nothing where it cannot be loaded."""
    from xaibench.registry import EXPLAINERS

    try:
        doc = inspect.getdoc(EXPLAINERS.get(name)) or ""
    except XaibenchError:
        return "", ()
    paragraphs = [" ".join(p.split()) for p in doc.split("\n\n")]
    return paragraphs[0].replace("``", ""), tuple(
        p.replace("``", "") for p in paragraphs[1:] if not p.startswith(("Args:", "Raises:", ">>>"))
    )


def _standing(name: str, board: Board, recipe: str) -> Standing | None:
    row = next((row for row in board.rows if row.explainer == name), None)
    score = board.main(row, recipe) if row else None
    if row is None or score is None:
        return None
    others, name = [], board.primary.name
    for key in SHOWN:
        others += _told(row.score(key, recipe=recipe), key, metric(key).title)
    others += _told(board.main(row, recipe, polarity="magnitude"), name, f"{metric(name).title} of |heatmap|")
    for occluder in board.occluders:
        grey = ", out of range" if row.leaves_range(occluder) else ""
        for key in CURVES:
            others += _told(row.score(key, occluder=occluder), key, f"{metric(key).title}, {occluder.replace('_', ' ')}{grey}")
    parts = [(part, board.main(row, recipe, part=part)) for part in board.slices if part != "all"]
    return Standing(
        board=board,
        recipe=recipe,
        main=Cell(number(score.mean, name), "", metric(name).title, interval(score, name)),
        tier=score.tier,
        verdict=verdict(row, board, recipe, named=True),
        good=score.beats_best_control,
        n=f"{score.n} of {score.n_total} clips",
        failures=_failures(score),
        others=tuple(others),
        parts=tuple(
            (part_title(part), number(s.mean, name), interval(s, name)) for part, s in parts if s is not None and s.mean is not None
        ),
    )


def _told(score: Score | None, key: str, title: str) -> list[tuple[str, str, str]]:
    return [(title, number(score.mean, key), interval(score, key))] if score is not None and score.mean is not None else []


def _failures(score: Score) -> str:
    told = [f"{score.n_failed} failed and count as the lowest control"] if score.n_failed else []
    told += [f"{score.n_undefined} undefined"] if score.n_undefined else []
    return "; ".join([*told, *([score.note] if score.note else [])])


def _cost(run: Run, name: str) -> tuple[tuple[str, str], ...]:
    found = []
    for board in run.boards:
        row = next((row for row in board.rows if row.explainer == name), None)
        for key in COST if row else ():
            score = row.score(key) if row else None
            if score is not None and score.mean is not None:
                found.append((f"{metric(key).title}, {board.detector} on {board.task}", number(score.mean, key)))
    return tuple(found)


def task_cards(run: Run) -> tuple[TaskCard, ...]:
    """Describe every task of a run with the detectors that were explained on it."""
    found = []
    for record in run.summary.get("tasks", []):
        if not isinstance(record, dict):
            continue
        name = str(record.get("name"))
        boards = tuple(board for board in run.boards if board.task == name)
        found_task = option(run.manifest, "tasks", name)
        known: Mapping[str, Any] = found_task if isinstance(found_task, dict) else {}
        grid = known.get("stft") if isinstance(known.get("stft"), dict) else {}
        facts = [
            ("Truth", str(record.get("truth", ""))),
            ("Version", str(record.get("version", ""))),
            ("Licence", str(record.get("licence", ""))),
        ]
        facts += [("Recipes", ", ".join(map(str, record.get("recipes", [])))), ("Content", str(record.get("fingerprint", ""))[:16])]
        facts += [("Grid", f"{grid.get('window_samples')}/{grid.get('hop_samples')} samples at 16 kHz")] if grid else []
        facts += [("Clips scored", str(known.get("clips")))] if known.get("clips") is not None else []
        detectors = tuple((board.detector, _detector_facts(board.facts)) for board in boards)
        found.append(TaskCard(name, slug(name), str(record.get("title") or name), tuple((k, v) for k, v in facts if v), detectors, boards))
    return tuple(found)


def _detector_facts(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    told = []
    for key, title, form in (
        ("auc", "Twins told apart by any threshold (AUC)", "{:.3f}"),
        ("pair_accuracy", "Pairs in which the spoof scores higher", "{:.1%}"),
        ("median_gap", "Median gap between twins, log-odds", "{:.1f}"),
    ):
        value = facts.get(key)
        if isinstance(value, int | float):
            told.append((title, form.format(value)))
    if facts.get("n_clips") is not None:
        told.append(("Clips that count for detector-dependent scores", f"{facts.get('n_gated')} of {facts.get('n_clips')}"))
    return tuple(told)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return "yes" if value is True else "no" if value is False else "–" if value is None else str(value)
