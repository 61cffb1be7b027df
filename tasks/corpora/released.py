"""Base of corpora that their users have on disk: the tree is checked before anything is used, and every file is accounted for.

A subclass lists pairs from the published lists or names. What is missing is an error that says where it lives; what is there and in no
pair is named in a warning. Hashes and lags are found pair by pair when a clip is planned or loaded, and kept in the cache.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from xaibench.errors import DataError, PairError, UnknownNameError
from xaibench.tasks.audio import read_audio
from xaibench.tasks.facts import file_sha256, remember
from xaibench.tasks.pairs import PairedTask, check_disjoint, load_pair, split_by_speaker
from xaibench.tasks.warping import VERSION, Alignment, measure
from xaibench.types import Clip, Pair

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
SHOWN = 3


@dataclass(frozen=True)
class Home:
    """Where a corpus comes from: what an error must say to somebody who lacks it."""

    name: str
    where: str
    """DOI or address."""
    size: str
    licence: str

    def __str__(self) -> str:
        """Return all four in one phrase."""
        return f"{self.name} ({self.where}, {self.size}, {self.licence})"


@dataclass(frozen=True)
class Released(PairedTask):
    """Base of readers; ``data`` is required."""

    homes: ClassVar[tuple[Home, ...]] = ()
    """Where its parts come from, the vocoded one first."""
    published: ClassVar[int] = 0
    """Pairs of the complete corpus."""
    speakers_cross: ClassVar[bool] = False
    """Whether the published split has speakers in common (utterances never are)."""

    split: str = "official"
    """``official`` for the published lists, ``speaker`` for one that shares no speaker, drawn by hash."""
    partial: bool = field(default=False, metadata={"config": False})
    """Take a part of the corpus for what it is; the fingerprint tells it from the whole."""

    def proposed(self) -> Sequence[Pair]:
        """Return all pairs with their published splits; raise ``DataError`` for what is missing, warn of what is in no pair."""
        raise NotImplementedError

    @property
    def expected(self) -> int:
        """Pairs that the corpus must hold."""
        return self.published

    def listed(self) -> Sequence[Pair]:
        """Return all pairs, counted against the published number.

        Raises:
            DataError: If a file or list is missing, or pairs are fewer or more than published and ``partial`` is not set.
            UnknownNameError: If ``split`` is neither ``official`` nor ``speaker``.
        """
        if self.split not in ("official", "speaker"):
            raise UnknownNameError(f"split must be official or speaker, got {self.split!r}; see docs/corpora.md")
        pairs = list(self.proposed())
        if not pairs or (len(pairs) != self.expected and not self.partial):
            raise DataError(
                f"{self.name} must hold {self.expected} pairs, got {len(pairs)} in {self._root}; complete it from "
                f"{' and '.join(map(str, self.homes))}, or give partial=true to take what is there"
            )
        return split_by_speaker(pairs, salt=self.name) if self.split == "speaker" else pairs

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raise ``DataError`` where splits share an utterance, or a speaker that the published split does not share."""
        crossing = self.speakers_cross and self.split == "official"
        check_disjoint([replace(p, speaker=p.utterance) for p in pairs] if crossing else pairs)

    def complete(self, pair: Pair) -> Pair:
        """Return the pair with hashes and lag.

        Raises:
            AudioError: If a file cannot be read.
            PairError: If the two are not twins, with the number that shows why.
        """
        if pair.bonafide_sha256 and pair.spoof_sha256:
            return pair
        bonafide, spoof = (file_sha256(self._root / name) for name in (pair.bonafide, pair.spoof))
        pair = replace(pair, bonafide_sha256=bonafide, spoof_sha256=spoof)
        return replace(pair, lag=self.alignment(pair).lag)

    def alignment(self, pair: Pair) -> Alignment:
        """Return how the twins of a pair with known hashes lie to each other; measured once, kept by content.

        Raises:
            PairError: If they are not twins, with the number that shows why.
        """
        key = f"{pair.bonafide_sha256}:{pair.spoof_sha256}"
        known = remember(VERSION, key, lambda: _measured(self._root / pair.bonafide, self._root / pair.spoof))
        if "refused" in known:
            raise PairError(known["refused"])
        return Alignment.of_json(known)

    def load(self, pair: Pair) -> Clip:
        """Load one pair, completed where it is not, on the spoof's time where the lag drifts (see ``load_pair``)."""
        pair = self.complete(pair)
        found = self.alignment(pair)
        return load_pair(pair, self._root, found if found.knots else None)

    def home_of(self, *candidates: Path, needs: str, home: Home, option: str = "data") -> Path:
        """Return the first folder that holds ``needs``.

        Raises:
            DataError: If none does, with where the corpus comes from.
        """
        for place in candidates:
            if (place / needs).exists():
                return place
        where = ", ".join(dict.fromkeys(map(str, candidates))) or "nothing given"
        raise DataError(f"{option} must name the folder that holds {needs}, got {where}; get {home}")

    @property
    def given(self) -> Path:
        """The folder that ``data`` names.

        Raises:
            DataError: If it is not given or is no folder.
        """
        folder = Path(self.data).expanduser()
        if not self.data or not folder.is_dir():
            raise DataError(f"data must name the folder of {self.name}, got {self.data or 'nothing'}; get {self.homes[0]}, then --data DIR")
        return folder

    def warn_of(self, what: str, names: Iterable[str]) -> None:
        """Warn of files that are in no pair, with their count and the first names."""
        found = sorted(names)
        if found:
            warnings.warn(f"{self._root}: {len(found)} {what}: {shown(found)}", stacklevel=2)


def _measured(bonafide: Path, spoof: Path) -> dict[str, Any]:
    """Return an alignment as plain values, or why there is none."""
    try:
        return measure(read_audio(bonafide), read_audio(spoof)).as_json()
    except PairError as error:
        return {"refused": str(error)}


def audio_by_stem(folder: Path) -> dict[str, str]:
    """Map the names of a folder's recordings without suffix to file names; hidden files (``._x`` of a Mac's archive) are none.

    Raises:
        DataError: If two recordings bear the same name, since either could be meant.
    """
    found: dict[str, str] = {}
    for name in _recordings(folder):
        stem = name.rpartition(".")[0]
        if stem in found:
            raise DataError(f"{folder} must hold one file per name, got {found[stem]} and {name}; remove or rename one")
        found[stem] = name
    return found


def _recordings(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from sorted(e.name for e in entries if not e.name.startswith(".") and e.name.lower().endswith(SUFFIXES) and e.is_file())


def read_lines(path: Path) -> list[str]:
    """Return the lines of a published list that are not empty, without white space at their ends.

    Raises:
        DataError: If it is missing, unreadable or empty.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a list in UTF-8, got {error}; restore it from its home") from error
    kept = [line for line in lines if line]
    if not kept:
        raise DataError(f"{path} must hold names, got an empty file; restore it from its home")
    return kept


def require_all(what: str, wanted: Iterable[str], there: Iterable[str], home: Home) -> None:
    """Raise ``DataError`` with the count and the first names of what is wanted and not there."""
    names = list(wanted)
    missing = sorted(set(names) - set(there))
    if missing:
        raise DataError(f"{what} must all be there, got {len(missing)} of {len(names)} missing: {shown(missing)}; restore them from {home}")


def shown(names: Sequence[str]) -> str:
    """Return the first names and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
