"""One leaderboard over a repository of results: the rows of all records beside the controls, by the statistics and pages of every run.

For each protocol and tier a folder is written like that of a run (manifest, summary, values of single clips), and the report is drawn from
it. Means, intervals, tiers and verdicts are made anew over all rows of a board from the values of single clips: two submissions are ranked
by a paired test on the same clips, as two explainers of one run are. A hidden split keeps those values back; its rows stand as they were
signed, compared with the controls and not with each other.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from xaibench.benchmark.aggregate import Aggregator
from xaibench.benchmark.finish import directions
from xaibench.benchmark.folder import JOURNAL, MANIFEST, RunFolder
from xaibench.benchmark.migrate import NEWEST
from xaibench.benchmark.results import Table
from xaibench.benchmark.summary import SUMMARY_SCHEMA
from xaibench.benchmark.threads import one_thread
from xaibench.benchmark.tidy import UNIT_COLUMNS
from xaibench.benchmark.units import clean
from xaibench.errors import NothingMeasuredError, RunError, UnknownNameError
from xaibench.leaderboard.site import build
from xaibench.leaderboard.submission.gather import Gathered, Group, gather
from xaibench.leaderboard.submission.record import Record
from xaibench.leaderboard.submission.repository import rows_of
from xaibench.registry import TASKS

VERIFIED, UNVERIFIED = "signature verified", "signature not verified"
NO_KEY = (
    "Signatures were not verified: the key was not at hand when this page was made. Means were made again from the values of single clips."
)
HIDDEN = "hidden split: compared with the controls alone"


def write_boards(repository: str | Path, out: str | Path, key: bytes | None) -> tuple[list[Path], Gathered]:
    """Write a leaderboard for each protocol and tier of a repository of results.

    Args:
        repository: A repository of results.
        out: Folder; ``<suite>-<tier>`` in it become run folders with a report. Those of an earlier call are replaced.
        key: The signing key; without it the pages say that no signature was verified.

    Returns:
        The reports' ``index.html``, and what was gathered, records that are left out included.

    Raises:
        NothingMeasuredError: If no record passes.
        RunError: If ``out`` cannot be written or holds something else.
    """
    gathered = gather(Path(repository), key)
    if not gathered.groups:
        said = next((problem for problems in gathered.refused.values() for problem in problems), "none")
        raise NothingMeasuredError(f"repository must hold a record that passes, got {len(gathered.refused)} that do not ({said}); mend it")
    protocols: dict[tuple[str, str], list[Group]] = {}
    for group in gathered.groups:
        protocols.setdefault((group.suite.name, group.first.tier), []).append(group)
    notices = [*([] if key else [NO_KEY]), *_left_out(gathered)]
    return [_write(Path(out) / f"{suite}-{tier}", groups, bool(key), notices) for (suite, tier), groups in protocols.items()], gathered


def _left_out(gathered: Gathered) -> Iterator[str]:
    for place, problems in gathered.refused.items():
        yield clean(f"{place} is left out: {problems[0]}." if place else f"Between records: {problems[0]}.")


def _write(out: Path, groups: list[Group], verified: bool, notices: list[str]) -> Path:
    if (out / JOURNAL).exists():
        raise RunError(f"out must be a folder of boards, got the run {out}; choose another --out")
    with RunFolder(out) as folder:
        named = list(zip(_names(groups), groups, strict=True))
        with Table(folder, "units", UNIT_COLUMNS) as table:
            rows = list(chain.from_iterable(_rows(group, names, table) for names, group in named))
        records = {entry.record.card.label: entry.record for group in groups for entry in group.entries}
        signed = VERIFIED if verified else UNVERIFIED
        folder.write_json(MANIFEST, _manifest(groups[0], records, named, signed, notices))
        folder.write_json("summary.json", _summary(groups[0], records, named, signed, rows))
        return build(out, samples=0)


def _names(groups: list[Group]) -> list[tuple[str, str]]:
    """Name the task and detector of each board; where several have equal names, all but the newest say which they are."""
    found, seen = [], Counter[tuple[str, str]]()
    for group in groups:
        card = group.first.card
        names = card.task.name, card.detector.name
        seen[names] += 1
        found.append(names if seen[names] == 1 else (f"{names[0]} [{group.digest[:8]}]", names[1]))
    return found


def _rows(group: Group, names: tuple[str, str], table: Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a board; the values of its clips are written to the table."""
    renamed = {"task": names[0], "detector": names[1]}
    records = [entry.record for entry in group.entries]
    if group.controls is None:
        for row in chain.from_iterable(record.rows for record in records):
            note = "; ".join(filter(None, (HIDDEN, row.note)))
            yield row.model_dump(mode="json") | renamed | {"title": row.explainer, "tier": None, "note": note}
        return
    sources = [group.entries[0].values(group.suite, own=False), *(entry.values(group.suite, own=True) for entry in group.entries)]
    units: Iterable[dict[str, Any]] = (unit | renamed for unit in chain.from_iterable(sources))
    with one_thread():
        made = Aggregator(group.suite, rows_of(records, group.suite), directions()).summarise(table.through(units))
    yield from (row.model_dump(mode="json") for row in made)


Named = list[tuple[tuple[str, str], Group]]


def _summary(newest: Group, records: Mapping[str, Record], named: Named, signed: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    recipes: dict[str, set[str]] = {}
    for row in rows:
        recipes.setdefault(row["task"], set()).update(filter(None, [row["recipe"]]))
    return {
        "schema_version": SUMMARY_SCHEMA,
        "run": "board",
        "suite": newest.suite.name,
        "suite_sha256": newest.first.suite_sha256,
        "tier": newest.first.tier,
        "tasks": [
            {
                **_told(group),
                "name": task,
                "fingerprint": group.first.card.task.fingerprint,
                "recipes": _recipes(group, recipes.get(task, set())),
            }
            for task, group in {task: group for (task, _), group in reversed(named)}.items()
        ],
        "detectors": [
            {
                "task": task,
                "detector": detector,
                "fingerprint": group.first.card.detector.fingerprint,
                "min_clips": group.suite.min_clips,
                "occluders": [
                    name for tier, budget in group.suite.budgets.items() if tier == group.first.tier for name in budget.curves.occluders
                ],
            }
            for (task, detector), group in named
        ],
        "origins": {label: record.origin.model_dump(mode="json") | {"signature": signed} for label, record in sorted(records.items())},
        "rows": rows,
    }


def _recipes(group: Group, found: set[str]) -> list[str]:
    """Order recipes as the task does, the official one first; those that it does not name come last."""
    try:
        first = TASKS.get(group.first.card.task.name).recipes
    except UnknownNameError:
        first = ()
    return [*(name for name in first if name in found), *sorted(found.difference(first))]


def _told(group: Group) -> dict[str, Any]:
    """Return what the task's class says of it, as far as it is installed here."""
    name = group.first.card.task.name
    try:
        kind = TASKS.get(name)
    except UnknownNameError:
        return {"title": name}
    facts = {key: getattr(kind, key, "") for key in ("title", "version", "licence", "truth")}
    return {key: value for key, value in facts.items() if isinstance(value, str)}


def _manifest(newest: Group, records: Mapping[str, Record], named: Named, signed: str, notices: list[str]) -> dict[str, Any]:
    """Describe the board as a run is described: who sent what, when it was scored, and by which release."""
    return {
        "schema_version": NEWEST["manifest"],
        "run": "board",
        "suite": newest.suite.name,
        "suite_sha256": newest.first.suite_sha256,
        "notices": notices,
        "tasks": {task: {**_told(group), "detector": detector} for (task, detector), group in reversed(named)},
        "explainers": {label: _explainer(record) for label, record in records.items()},
        "records": {label: _record(record, signed) for label, record in records.items()},
    }


def _explainer(record: Record) -> dict[str, Any]:
    card = record.card
    return {"name": card.label, "version": card.version, "reference": card.paper, "polarity": card.polarity, "needs": sorted(card.needs)}


def _record(record: Record, signed: str) -> dict[str, Any]:
    shown = {
        "folder": str(record.folder),
        "package": record.origin.package_sha256,
        "scored_on": record.scored_on,
        "xaibench": record.xaibench,
    }
    of_whom = {"authors": list(record.card.authors), "licence": record.card.licence, "sent_by": record.quota.author}
    return {**shown, **of_whom, "commitment": record.commitment, "signature": signed}
