"""Real recordings and the outputs of real neural vocoders, gathered from the public homes of 14 projects: a list, not the audio.

The list beside this file names every recording's home (repository, commit, path, hashes), speaker, vocoder, lag and licence. Audio is
looked for in ``data``, else in ``XAIBENCH_DATA``, else in the cache, where ``xaibench data get public_pairs`` puts it.

Splits share no speaker and no utterance. Training: LJ and one MLS voice. Held out from training: the families UnivNet, BigVGAN and
WaveFit; two BigVGAN pairs of a dev speaker therefore belong to no split (``put_aside``). All LibriTTS voices but one are tested, since
four of them are not named and might be any; the one in dev (2300, median F0 122 Hz) cannot be one of the four (96, 98, 166, 180 Hz).
The voice of 10 mu-law recordings is either ``clb`` or ``slt`` (its home names both), so all three are tested. A vocoder counts as seen
where its family has training pairs.

    split, vocoder family     pairs  utterances  speakers  families
    train                       239          60         2        16
    dev                          14           6         3         4
    test, seen in training       56          30        15         5
    test, unseen                 54          21        18         3
    put aside                     2           2         1         1
    unnamed corpus (test)        20           4         1         4   only with include_unnamed
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.cache import cache_dir, data_dir
from xaibench.tasks.manifest import SPLITS
from xaibench.tasks.pairs import PairedTask
from xaibench.types import Pair

LIST = Path(__file__).with_suffix(".csv")
FOLDER = "public_pairs"
BONAFIDE = "bonafide"
LOCAL_MANIFEST = "manifest.csv"
REMEDY = "run `xaibench data get public_pairs`, or set XAIBENCH_DATA to the folder that holds public_pairs/"


@dataclass(frozen=True)
class ListedFile:
    """One file: where it comes from, what it must decode to, and its place in the corpus; fields are the columns of the list."""

    path: str
    """Relative to ``public_pairs/``."""
    repository: str
    """Owner and name on GitHub."""
    commit: str
    original_path: str
    raw_sha1: str
    git_blob: str
    sha256: str
    """Of the decoded 16 kHz samples (little-endian 16-bit integers)."""
    sketch: str
    """Number of samples and RMS of 16 equal blocks (16-bit units), all in hexadecimal: tells a rounding from another recording."""
    sample_rate: int
    seconds: float
    corpus: str
    corpus_named: bool
    speaker: str
    utterance: str
    vocoder: str
    family: str
    bonafide: str
    """Path of the recording of which this is the twin; empty for recordings."""
    lag: int
    split: str
    """train, dev, test or aside."""
    seen_vocoder: bool
    licence: str
    note: str


_PARSERS: dict[str, Callable[[str], Any]] = {
    "sample_rate": int,
    "seconds": float,
    "lag": int,
    "corpus_named": "true".__eq__,
    "seen_vocoder": "true".__eq__,
}


@lru_cache(maxsize=8)
def read_list(path: Path = LIST) -> tuple[ListedFile, ...]:
    """Read the list of files, or a local manifest of the same columns.

    Raises:
        DataError: If the file is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [{k: _PARSERS.get(k, str)(v) for k, v in row.items()} for row in csv.DictReader(stream)]
        return tuple(ListedFile(**row) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} must be a list of public pairs, got {type(error).__name__}: {error}; delete it and {REMEDY}") from error


@TASKS.register("public_pairs")
@dataclass(frozen=True)
class PublicPairs(PairedTask):
    """363 pairs of 113 recordings in three splits, 17 named vocoder families and 2 unnamed generators."""

    title = "Real recordings and public outputs of neural vocoders"
    licence = "per file: public domain, CC BY 4.0, CMU ARCTIC; repositories MIT, BSD-3-Clause, Apache-2.0"
    default_detector = "spectrogram_cnn:weights=public_pairs"

    include_unnamed: bool = False
    """Also test the 20 pairs whose corpus their home does not name."""

    @cached_property
    def files(self) -> tuple[ListedFile, ...]:
        """The listed files, without those of unnamed corpora unless asked for."""
        return tuple(f for f in read_list() if f.corpus_named or self.include_unnamed)

    def listed(self) -> Sequence[Pair]:
        """Return the pairs of all splits; needs no audio."""
        return [p for f, p in self._twins if f.split in SPLITS]

    def put_aside(self) -> list[Pair]:
        """Return the pairs of held-out families by speakers who are not tested: they belong to no split (their ``split`` says test)."""
        return [p for f, p in self._twins if f.split not in SPLITS]

    def root(self) -> Path:
        """Return the folder ``public_pairs/`` that holds every listed file.

        Raises:
            DataError: If it is nowhere, or incomplete.
        """
        candidates = [Path(self.data).expanduser()] if self.data else [p for p in (data_dir(), cache_dir()) if p is not None]
        places = [place / FOLDER if (place / FOLDER).is_dir() else place for place in candidates]
        for place in places:
            if any((place / source).is_dir() for source in {f.path.split("/", 1)[0] for f in self.files}):
                self._require_all(place)
                return place
        raise DataError(f"public_pairs must lie in one of {', '.join(map(str, candidates))}, got none there; {REMEDY}")

    def expected_sha256(self, path: str, listed: str) -> str:
        """Return the hash of the file as resampled on this machine, where the download found it within tolerance of the listed one."""
        return self._local.get(path, listed)

    @cached_property
    def _local(self) -> dict[str, str]:
        manifest = self._root / LOCAL_MANIFEST
        return {f.path: f.sha256 for f in read_list(manifest)} if manifest.is_file() else {}

    @cached_property
    def _twins(self) -> list[tuple[ListedFile, Pair]]:
        recordings = {f.path: f for f in self.files if f.vocoder == BONAFIDE}
        return [(f, _pair(f, recordings[f.bonafide])) for f in self.files if f.vocoder != BONAFIDE]

    def _require_all(self, place: Path) -> None:
        missing = [f.path for f in self.files if not (place / f.path).is_file()]
        if missing:
            raise DataError(f"{place} must hold {len(self.files)} files, got {len(missing)} missing, first {missing[0]}; {REMEDY}")


def _pair(spoof: ListedFile, bonafide: ListedFile) -> Pair:
    return Pair(
        id=spoof.path.removesuffix(".flac"),
        utterance=spoof.utterance,
        speaker=spoof.speaker,
        vocoder=spoof.vocoder,
        bonafide=bonafide.path,
        spoof=spoof.path,
        lag=spoof.lag,
        split=spoof.split if spoof.split in SPLITS else "test",
        seen_vocoder=spoof.seen_vocoder,
        corpus=spoof.corpus,
        family=spoof.family,
        bonafide_sha256=bonafide.sha256,
        spoof_sha256=spoof.sha256,
        licence=spoof.licence,
    )
