"""The lists of minivoc: which files there are, with the hashes of their decoded samples.

``manifest.csv`` holds dev and test pairs, ``references.csv`` the shipped bona fide training recordings, ``train.csv`` the train split as
published; ``made.csv`` beside a train split says what was made on this machine.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from xaibench.registry import VOCODERS
from xaibench.tasks.cache import atomic_write, cache_dir
from xaibench.tasks.corpora.minivoc.voices import SEEN_VOCODERS
from xaibench.types import Pair, Split

PACKAGE = Path(__file__).parent
BONAFIDE = "bonafide"
LICENCE = "CC0-1.0"


@dataclass(frozen=True)
class Recorded:
    """One audio file of the corpus; ``path`` is relative, ``sha256`` that of the decoded samples."""

    utterance: str
    speaker: str
    vocoder: str
    path: str
    sha256: str


def default_train_dir() -> Path:
    """Return where the train split is made and looked for."""
    return cache_dir() / "minivoc" / "train"


def published() -> dict[tuple[str, str], str]:
    """Return the published hashes of the train split by (utterance, vocoder)."""
    return hashes(read_list(PACKAGE / "train.csv"))


def hashes(rows: Iterable[Recorded]) -> dict[tuple[str, str], str]:
    """Return hashes by (utterance, vocoder)."""
    return {(r.utterance, r.vocoder): r.sha256 for r in rows}


def read_list(path: Path) -> list[Recorded]:
    """Read a list of files; an absent one is empty."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [Recorded(**row) for row in csv.DictReader(stream)]


def write_list(path: Path, rows: Iterable[Recorded]) -> None:
    """Write a list of files, whole or not at all."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(Recorded.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(r) for r in rows)
    atomic_write(path, buffer.getvalue().encode())


def pairs_of(rows: Iterable[Recorded], split: Split) -> list[Pair]:
    """Pair every copy with its recording."""
    rows = list(rows)
    recordings = {r.utterance: r for r in rows if r.vocoder == BONAFIDE}
    return [_pair(recordings[r.utterance], r, split) for r in rows if r.vocoder != BONAFIDE]


def _pair(recording: Recorded, copied: Recorded, split: Split) -> Pair:
    return Pair(
        id=f"{copied.utterance}-{copied.vocoder}",
        utterance=copied.utterance,
        speaker=copied.speaker,
        vocoder=copied.vocoder,
        bonafide=recording.path,
        spoof=copied.path,
        split=split,
        seen_vocoder=copied.vocoder in SEEN_VOCODERS,
        corpus="minivoc",
        family=VOCODERS.get(copied.vocoder).kind,
        bonafide_sha256=recording.sha256,
        spoof_sha256=copied.sha256,
        licence=LICENCE,
    )
