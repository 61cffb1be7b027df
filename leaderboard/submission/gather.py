"""The records of a repository of results that can be trusted, gathered by what they may be compared under.

Rows stand on one board only if protocol, tier, task, detector and clips are equal, and if the controls that were scored beside them have
equal values: a release whose metrics changed opens a board of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from xaibench.benchmark.block import Block, make_block
from xaibench.benchmark.suite import Suite, suite_by_name
from xaibench.leaderboard.submission.record import RECORD, UNITS, Record, read_record
from xaibench.leaderboard.submission.repository import problems_between, problems_of, record_folders
from xaibench.leaderboard.submission.values import read_values
from xaibench.types import content_hash

CLOSE = 1e-3
"""Mean difference of a control's values that two machines may have, relative to their size where that is above 1."""


@dataclass(frozen=True)
class Entry:
    """A verified record and where it lies."""

    folder: Path
    record: Record

    def values(self, suite: Suite, *, own: bool) -> Iterator[dict[str, Any]]:
        """Yield the values of single clips of the row, or of the protocol's controls beside it."""
        label = self.record.card.label
        for row in read_values(self.folder / UNITS):
            if row["explainer"] == label if own else row["explainer"] in suite.controls:
                yield row


@dataclass
class Group:
    """Records whose rows stand on one board; the first one's controls are the board's."""

    suite: Suite
    entries: list[Entry]
    controls: Block | None
    """Of the first record; ``None`` for a hidden split, whose values of single clips are kept back."""

    @property
    def first(self) -> Record:
        """The newest record."""
        return self.entries[0].record

    @property
    def digest(self) -> str:
        """A hash that no other group has."""
        card, known = self.first.card, self.controls
        values = [] if known is None else [known.clips, known.columns, sha256(known.values.tobytes()).hexdigest()]
        return content_hash([card.task.fingerprint, card.detector.fingerprint, values])

    def takes(self, record: Record, controls: Block | None) -> bool:
        """Tell whether a record may be compared with those of the group."""
        if _subject(record) != _subject(self.first) or (controls is None) != (self.controls is None):
            return False
        return controls is None or self.controls is None or agree(controls, self.controls)


@dataclass
class Gathered:
    """What a repository of results holds."""

    groups: list[Group] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    """Records that are left out, with what is wrong with them; under "" what is wrong between records."""


def gather(repository: Path, key: bytes | None) -> Gathered:
    """Verify every record of a repository and group those that pass, newest first.

    Args:
        repository: A repository of results.
        key: The signing key; without it the HMAC is not looked at.
    """
    found, passed = Gathered(), []
    for folder in record_folders(repository):
        if problems := problems_of(folder, key=key):
            found.refused[str(folder.relative_to(repository))] = problems
        else:
            passed.append(Entry(folder, read_record(folder / RECORD)))
    if between := problems_between(repository):
        found.refused[""] = between
    for entry in sorted(passed, key=lambda e: (e.record.scored_on, e.record.card.label), reverse=True):
        record, suite = entry.record, suite_by_name(entry.record.suite)
        controls = None if record.hidden else make_block(record.card.task.name, record.card.detector.name, entry.values(suite, own=False))
        group = next((g for g in found.groups if g.takes(record, controls)), None)
        if group is None:
            found.groups.append(Group(suite, [entry], controls))
        else:
            group.entries.append(entry)
    return found


def _subject(record: Record) -> tuple[str, ...]:
    card = record.card
    named = card.task.name, card.task.fingerprint, card.detector.name, card.detector.fingerprint
    return record.suite, record.suite_sha256, record.tier, *named


def agree(one: Block, other: Block) -> bool:
    """Tell whether two blocks of controls are of the same clips and have equal values wherever both were measured."""
    places = {column: j for j, column in enumerate(other.columns)}
    shared = [(i, places[column]) for i, column in enumerate(one.columns) if column in places]
    if one.clips != other.clips or not shared:
        return False
    mine, theirs = (block.values[:, list(at)] for block, at in zip((one, other), zip(*shared, strict=True), strict=True))
    size = np.maximum(1.0, np.nan_to_num(np.abs(theirs)).mean(0))
    apart = np.where(np.isnan(mine) & np.isnan(theirs), 0.0, np.nan_to_num(np.abs(mine - theirs), nan=1.0))
    return bool((apart.mean(0) <= CLOSE * size).all())
