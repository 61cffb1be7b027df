"""Which recordings artifacts are planted in: those of another task, or all recordings of a folder.

A task's own splits hold, so that no voice crosses. Of ``minivoc`` the 20 shipped recordings of training voices make the train split: it
is there on every machine, which the corpus' own train split is not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.audio import decoded_sha256, read_audio
from xaibench.tasks.corpora.folder import AUDIO_SUFFIXES
from xaibench.tasks.corpora.minivoc import Minivoc
from xaibench.tasks.corpora.minivoc.lists import LICENCE, PACKAGE, read_list
from xaibench.tasks.manifest import SPLITS
from xaibench.tasks.pairs import PairedTask
from xaibench.types import Pair

FOLDER = "folder"


@dataclass(frozen=True)
class Speech:
    """Recordings, one ``Pair`` each whose bona fide side alone counts, and the corpus that knows where they lie."""

    recordings: tuple[Pair, ...]
    root: Path
    corpus: PairedTask | None = None

    def expected_sha256(self, path: str, listed: str) -> str:
        """Return the hash to which a recording must decode on this machine."""
        return self.corpus.expected_sha256(path, listed) if self.corpus else listed


def speech_of(name: str, data: str) -> Speech:
    """Return the recordings of a task, or of a folder (``name`` is ``folder``, ``data`` its path: speakers are its first subfolders).

    Raises:
        DataError: If there are none, or the task is not made of pairs of recordings.
    """
    if name == FOLDER:
        root = Path(data).expanduser()
        return Speech(tuple(_listed(root, data)), root)
    corpus = TASKS.load(name, data=data)
    if not isinstance(corpus, PairedTask):
        raise DataError(f"speech must name a corpus of recordings or {FOLDER!r}, got {name!r}; use for example minivoc")
    found = (p for split in SPLITS for p in corpus.pairs(split)) if not isinstance(corpus, Minivoc) else _minivoc(corpus)
    firsts: dict[str, Pair] = {}
    for pair in found:
        firsts.setdefault(pair.bonafide, pair)
    return Speech(tuple(firsts[path] for path in sorted(firsts)), corpus.root(), corpus)


def _minivoc(corpus: Minivoc) -> Iterable[Pair]:
    for row in read_list(PACKAGE / "references.csv"):
        yield Pair(
            id=row.utterance,
            utterance=row.utterance,
            speaker=row.speaker,
            vocoder="",
            bonafide=row.path,
            spoof="",
            split="train",
            corpus="minivoc",
            bonafide_sha256=row.sha256,
            licence=LICENCE,
        )
    for split in SPLITS[1:]:
        yield from corpus.pairs(split)


def _listed(root: Path, data: str) -> Iterable[Pair]:
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file()) if data else []
    if not paths:
        raise DataError(f"data must name a folder that holds recordings, got {data or 'nothing'}; write speech=folder,data=DIR")
    for path in paths:
        name = path.relative_to(root)
        speaker = name.parts[0] if len(name.parts) > 1 else name.stem.split("_", 1)[0].split("-", 1)[0]
        known = decoded_sha256(read_audio(path))
        utterance = name.with_suffix("").as_posix()
        yield Pair(utterance, utterance, speaker, "", name.as_posix(), "", corpus=FOLDER, bonafide_sha256=known)
