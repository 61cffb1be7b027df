"""What an older release wrote, as this one would have: one function per kind of document and version, kept for ever.

A document says its own version. Older ones are brought up when they are read, and ``xaibench migrate`` writes them down so; a newer one is
refused, because what this release does not know it would lose. ``tests/benchmark/old_runs`` holds a run of every version.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xaibench.errors import RunError

Document = dict[str, Any]
Migration = Callable[[Document], Document]

NEWEST = {"manifest": 2, "summary": 1, "explanation": 1, "twins": 1, "score": 1}
"""Version that this release writes, by kind; the last three stand in the journal, whose own version is the largest of theirs."""
RECORDS = ("explanation", "twins", "score")
MIGRATIONS: dict[tuple[str, int], Migration] = {}
"""From which version; to the next one."""


def migration(kind: str, version: int) -> Callable[[Migration], Migration]:
    """Register the step from a version to the next."""

    def register(step: Migration) -> Migration:
        assert (kind, version) not in MIGRATIONS
        MIGRATIONS[kind, version] = step
        return step

    return register


def upgraded(kind: str, found: Document, where: object) -> Document:
    """Bring a document to the newest version.

    Args:
        kind: ``"manifest"``, ``"summary"`` or a kind of journal record.
        found: As it was read; one without a version is of the first.
        where: Where it was read, for the message.

    Raises:
        RunError: If a newer release wrote it, or its version is none.
    """
    version = found.get("schema_version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RunError(f"schema_version must be a positive number, got {version!r} in {where}; give the run's command again")
    if version > NEWEST[kind]:
        raise RunError(f"{kind} must have schema {NEWEST[kind]} or older, got {version} in {where}; use the release that wrote it")
    for number in range(version, NEWEST[kind]):
        found = {**MIGRATIONS[kind, number](found), "schema_version": number + 1}
    return found


def read_document(kind: str, path: Path) -> Document:
    """Read ``manifest.json`` or ``summary.json`` as strict JSON, in the newest version.

    Raises:
        FileNotFoundError: If there is none.
        RunError: If it is no such document, or a newer release wrote it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{kind} must be JSON, got {path}: {error}; give the same command again") from error
    if not isinstance(found, dict):
        raise RunError(f"{kind} must be a JSON object, got {type(found).__name__} in {path}; give the same command again")
    return upgraded(kind, found, path)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of strict JSON")


@migration("manifest", 1)
def _provenance(found: Document) -> Document:
    """Version 2 knows source, packages, determinism and coverage; of an older run they are unknown, which is not the same as none."""
    unknown = {"source": None, "determinism": None, "coverage": None, "seconds": None, "shard": None, "scored_again": None}
    place = {"processor": None, "gpu_software": None, "variables": None}
    environment = {**place, **found.get("environment", {})}
    environment["threads"] = {**environment.get("threads", {}), "torch": ""}
    explainers = {label: {"source": None, "distribution": None, **told} for label, told in found.get("explainers", {}).items()}
    return {**unknown, **found, "environment": environment, "explainers": explainers}
