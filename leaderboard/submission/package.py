"""A package opened: its card, its index, and its heatmaps or code, each verified before it is handed out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from xaibench.benchmark.units import clean
from xaibench.errors import DataMismatchError, SubmissionError
from xaibench.leaderboard.submission.archive import CARD, INDEX, PIECE_BYTES, Archive
from xaibench.leaderboard.submission.card import Card, read_card
from xaibench.leaderboard.submission.index import Entry, Key, read_index
from xaibench.leaderboard.submission.npy import parse
from xaibench.types import Task

HEADER_BYTES = 128
"""Of what ``np.save`` writes for a map; a longer header is padding."""


class Package:
    """One submission; open it as a context manager.

    Raises:
        SubmissionError: If anything in it breaks a rule. Heatmaps are looked at when they are asked for.
    """

    def __init__(self, path: str | Path):
        self.archive = Archive(path)
        try:
            self.card: Card = read_card(self.archive.read(CARD))
            self.index: dict[Key, Entry] = read_index(self.archive.read(INDEX)) if self.card.track == "heatmaps" else {}
            self._check_members()
        except BaseException:
            self.archive.close()
            raise

    def _check_members(self) -> None:
        """Refuse files that nothing refers to, and references to nothing."""
        listed = {_file(entry.sha256) for entry in self.index.values() if entry.sha256}
        rest = set(self.archive.members) - {CARD} - ({INDEX} if self.index else set())
        code = {name for name in rest if name.startswith("code/")} if self.card.code else set()
        if missing := sorted(listed - rest):
            raise SubmissionError(f"package must hold every heatmap of its index, got {len(missing)} missing, first {missing[0]}; add it")
        if stray := sorted(rest - listed - code):
            raise SubmissionError(f"package must hold nothing that no entry names, got {stray[0]}; remove it or list it")
        if self.card.code and f"code/{self.card.code.entry.partition(':')[0]}.py" not in code:
            raise SubmissionError(f"package must hold the module of its entry, got no {self.card.code.entry}; add it under code/")

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        digest = sha256()
        with self.archive.path.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()

    def heatmap(self, entry: Entry, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return one map (F, N), finite float32.

        Args:
            entry: Which one; its status is "ok".
            shape: Grid of the task.

        Raises:
            SubmissionError: If it is damaged, has another grid, or holds NaN or infinity.
        """
        name, cells = _file(entry.sha256), shape[0] * shape[1]
        if self.archive.size(name) > HEADER_BYTES + 4 * cells:
            raise SubmissionError(f"heatmap must have shape {shape}, got {self.archive.size(name)} bytes; project it to the task's grid")
        content = self.archive.read(name)
        if sha256(content).hexdigest() != entry.sha256:
            raise SubmissionError("heatmap must have the SHA-256 that the index names, got another; pack it again")
        found = parse(content)
        if found.shape != shape:
            raise SubmissionError(f"heatmap must have shape {shape}, got {found.shape}; project it to the task's grid")
        if not np.isfinite(found).all():
            bad = int((~np.isfinite(found)).sum())
            raise SubmissionError(f"heatmap must be finite, got {bad} cells with NaN or infinity; guard divisions and logarithms")
        return found

    def code(self) -> dict[str, bytes]:
        """Return the files under ``code/`` by their plain names."""
        return {name.removeprefix("code/"): self.archive.read(name) for name in sorted(self.archive.members) if name.startswith("code/")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.archive.close()


def _file(digest: str) -> str:
    return f"heatmaps/{digest}.npy"


@dataclass(frozen=True)
class Coverage:
    """How much of a task a package of heatmaps covers, and which of its maps cannot be used."""

    expected: int
    """Maps that a complete package has: clips, times recipes where there is a map for each."""
    given: int
    failed: int
    """Clips for which the author reports a failure; they take the lowest control, as a failure of a run does."""
    invalid: dict[Key, str] = field(default_factory=dict)
    """Maps that are no heatmaps, with the reason; they take the lowest control."""

    @property
    def missing(self) -> int:
        """Maps of which the package does not speak."""
        return self.expected - self.given - self.failed


def check_subject(card: Card, task: Task) -> None:
    """Refuse a package about another content of the task than the one at hand.

    Raises:
        DataMismatchError: If the hashes differ.
    """
    here = task.fingerprint()
    if card.task.fingerprint != here:
        raise DataMismatchError(
            f"task must be the {task.name} that was explained ({card.task.fingerprint[:12]}...), got {here[:12]}...; "
            "use the same release of the data"
        )


def check_coverage(package: Package, task: Task, shape: tuple[int, int], *, maps: bool = True) -> Coverage:
    """Compare a package of heatmaps with the clips of its task, and look at every map.

    Args:
        package: The package.
        task: Its task, verified by ``check_subject``.
        shape: Grid of the task, (F, N).
        maps: Whether to look at the maps, too.

    Raises:
        SubmissionError: If an id or recipe is unknown.
    """
    ids = {pair.id for pair in task.pairs("test")}
    recipes = tuple(task.recipes) if package.card.by_recipe else ("",)
    _check_keys(package.index, ids, recipes)
    entries = package.index.values()
    invalid = dict(_invalid(package, shape)) if maps else {}
    given = sum(entry.status == "ok" for entry in entries)
    return Coverage(len(ids) * len(recipes), given, len(entries) - given, invalid)


def _check_keys(index: dict[Key, Entry], ids: set[str], recipes: Sequence[str]) -> None:
    for name, recipe in index:
        if name not in ids:
            raise SubmissionError(f"id must be that of a test clip of the task, got {clean(name)[:80]!r}; see `xaibench submit clips`")
        if recipe not in recipes:
            wanted = "be empty, unless by_recipe is set" if recipes == ("",) else f"be one of {', '.join(recipes)}"
            raise SubmissionError(f"recipe must {wanted}, got {clean(recipe)[:80]!r} for {clean(name)[:80]!r}; correct index.jsonl")


def _invalid(package: Package, shape: tuple[int, int]) -> Iterator[tuple[Key, str]]:
    for key, entry in package.index.items():
        if entry.status == "ok":
            try:
                package.heatmap(entry, shape)
            except SubmissionError as error:
                yield key, str(error)
