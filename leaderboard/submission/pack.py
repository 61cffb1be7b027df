"""Write packages: the heatmaps of a finished run, or the code of a plugin project."""

import zipfile
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from xaibench.benchmark.folder import JOURNAL
from xaibench.benchmark.heatmaps import read_heatmap
from xaibench.benchmark.journal import Journal
from xaibench.benchmark.results import Results
from xaibench.benchmark.units import FAILED, Explanation
from xaibench.errors import RunError, SubmissionError
from xaibench.leaderboard.submission.archive import CARD, INDEX
from xaibench.leaderboard.submission.card import Card, read_card, write_card
from xaibench.leaderboard.submission.index import Entry, write_index
from xaibench.leaderboard.submission.npy import dump
from xaibench.tasks.cache import atomic_path

SUFFIX = ".xaib.zip"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every member, so that equal content gives equal bytes."""


def pack_run(run_dir: str | Path, out: str | Path, facts: Mapping[str, Any], *, explainer: str | None = None, half: bool = False) -> Path:
    """Pack the heatmaps of one explainer of a finished run.

    Args:
        run_dir: Run folder.
        out: Folder of the package, or its file name if it ends in ``.zip``.
        facts: What the run does not know: ``authors`` and ``licence`` at least; further keys of the card, ``name`` and ``version`` too.
        explainer: Row label; may be left out where the run has one explainer beside the controls.
        half: Store float16, which halves the package and may tie cells.

    Returns:
        Path of the package.

    Raises:
        RunError: If the run is not finished, or the explainer is not in it.
        SubmissionError: If the facts break a rule of the card.
    """
    results = Results.read(run_dir)
    label = _chosen(results, explainer)
    with Journal(results.path / JOURNAL, read_only=True) as journal:
        everything = (r for r in journal.records("explanation") if isinstance(r, Explanation))
        current = set(results.frame["key"])
        records = [r for r in everything if r.unit.explainer == label and r.key in current]
    tasks = {record.unit.clip.task for record in records}
    if len(tasks) != 1:
        raise SubmissionError(f"a package must be about one task, got {', '.join(sorted(tasks)) or 'none'}; pack a run of one task")
    card = _card(results, records, facts)
    maps = {r.key: dump(_narrow(read_heatmap(results.path, r.heatmap_sha256).numpy(), half)) for r in records if r.status == "ok"}
    entries = [_entry(record, maps) for record in records if record.status == "ok" or record.status in FAILED]
    files = {f"heatmaps/{sha256(content).hexdigest()}.npy": content for content in maps.values()}
    return write_package(out, card, {INDEX: write_index(entries), **files})


def _narrow(heatmap: "np.ndarray[Any, np.dtype[np.float32]]", half: bool) -> "np.ndarray[Any, Any]":
    """Scale into the range of float16, which keeps the order of cells as far as its 11 bits tell them apart."""
    if not half:
        return heatmap
    peak = float(np.abs(heatmap).max())
    return (heatmap / peak if peak else heatmap).astype(np.float16)


def _chosen(results: Results, explainer: str | None) -> str:
    own = sorted({row.explainer for row in results.summary.rows if not row.control})
    if explainer is None and len(own) != 1:
        raise RunError(f"explainer must be named where a run has several, got {', '.join(own) or 'none'}; give --explainer")
    if explainer is not None and explainer not in own:
        raise RunError(f"explainer must be a row of the run and no control, got {explainer!r}; there is {', '.join(own) or 'none'}")
    return explainer or own[0]


def _card(results: Results, records: list[Explanation], facts: Mapping[str, Any]) -> Card:
    summary, unit = results.summary, records[0].unit
    task = next(task for task in summary.tasks if task["name"] == unit.clip.task)
    detector = next(row for row in summary.detectors if row.task == unit.clip.task)
    method = unit.identity["explainer"]
    known = {
        "name": method["name"].partition("@")[0],  # of a row that was itself a submission
        "version": method["version"],
        "suite": summary.suite,
        "polarity": unit.polarity,
        "by_recipe": bool(unit.recipe),
        "seeds": [unit.identity["seed"]],
        "task": {"name": unit.clip.task, "fingerprint": task["fingerprint"]},
        "detector": {"name": detector.detector, "fingerprint": detector.fingerprint},
    }
    return checked_card({**known, **facts})


def checked_card(values: Mapping[str, Any]) -> Card:
    """Make a card by the rules that a reader applies.

    Raises:
        SubmissionError: If one is broken.
    """
    from pydantic import ValidationError

    try:
        made = Card.model_validate(dict(values))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise SubmissionError(f"card must follow docs/submitting.md, got {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    return read_card(write_card(made))


def _entry(record: Explanation, maps: Mapping[str, bytes]) -> Entry:
    unit = record.unit
    if record.status == "ok":
        return Entry(id=unit.clip.pair, recipe=unit.recipe, sha256=sha256(maps[record.key]).hexdigest())
    why = f"{record.problem.kind}: {record.problem.message}" if record.problem else ""
    return Entry(id=unit.clip.pair, recipe=unit.recipe, status="failed", why=why)


def pack_code(project: str | Path, out: str | Path, facts: Mapping[str, Any]) -> Path:
    """Pack the Python files and weights beside the module of a plugin project.

    Args:
        project: Folder with the module, or a ``src`` package, that ``facts["code"]["entry"]`` names.
        out: Folder of the package, or its file name if it ends in ``.zip``.
        facts: The card.

    Raises:
        SubmissionError: If the facts break a rule, or there is no such module.
    """
    card = checked_card({**facts, **_fingerprints(facts), "track": "code"})
    module = card.code.entry.partition(":")[0] if card.code else ""
    found = sorted(p for p in Path(project).rglob(f"{module}.py") if "tests" not in p.parts and not p.is_symlink())
    if len(found) != 1:
        raise SubmissionError(f"project must hold one {module}.py, got {len(found)} in {project}; correct [code] entry")
    suffixes = {".py", ".safetensors", ".json", ".csv"}
    beside = (p for p in sorted(found[0].parent.iterdir()) if p.suffix in suffixes and p.is_file() and not p.is_symlink())
    files = {f"code/{p.name}": p.read_bytes() for p in beside if p.name not in ("setup.py", "conftest.py", "__init__.py")}
    return write_package(out, card, files)


def _fingerprints(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Complete task and detector by the hashes of those at hand, where the card gives their names alone."""
    from xaibench.registry import DETECTORS, TASKS

    found = {}
    for key, registry in (("task", TASKS), ("detector", DETECTORS)):
        subject = facts.get(key)
        if isinstance(subject, Mapping) and set(subject) == {"name"} and isinstance(subject["name"], str):
            found[key] = {**subject, "fingerprint": registry.load(subject["name"]).fingerprint()}
    return found


def write_package(out: str | Path, card: Card, files: Mapping[str, bytes]) -> Path:
    """Write a package; equal content gives equal bytes.

    Raises:
        DataError: If it cannot be written.
    """
    target = Path(out)
    path = target if target.suffix == ".zip" else target / f"{card.name}-{card.version}{SUFFIX}"
    members: Iterable[tuple[str, bytes]] = ((CARD, write_card(card)), *sorted(files.items()))
    with atomic_path(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as package:
        for name, content in members:
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o100644 << 16
            package.writestr(info, content)
    return path
