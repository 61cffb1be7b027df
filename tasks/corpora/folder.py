"""A user's own pairs: ``bonafide/*.wav`` and ``spoof/<vocoder>/*.wav``, twins by equal names.

Any rate, depth, channel count and format that libsndfile reads, in subfolders or not. A spoof's name may end in ``_gen``. Twins are checked
to be the same speech, and their lag is estimated once and kept in the cache by content hash. Every file without a twin and every refused
pair is named in ``report`` and in a warning.

Speaker: ``speakers.csv`` (columns ``file`` and ``speaker``, names relative to ``bonafide/``, with or without suffix), else the first
subfolder of ``bonafide/``, else the name up to its first ``_`` or ``-``. Everything belongs to the test split unless ``manifest.csv`` (see
``xaibench.tasks.manifest``) lists the pairs; its lags are used where it has that column. A folder without a train split has no training
recordings, so references are its own recordings of other speakers and utterances.
"""

import contextlib
import csv
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from xaibench.errors import AudioError, DataError, PairError
from xaibench.registry import TASKS
from xaibench.tasks.alignment import check_twins, constant_lag
from xaibench.tasks.audio import decoded_sha256, read_audio
from xaibench.tasks.cache import atomic_write, cache_dir
from xaibench.tasks.manifest import read_manifest
from xaibench.tasks.pairs import PairedTask
from xaibench.types import SAMPLE_RATE, Pair

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"})
LAYOUT = "bonafide/*.wav and spoof/<vocoder>/*.wav"
COMPARED_SECONDS = 6.0
"""How much of the twins is compared and aligned, a little more than a detector hears; both are cut by the same share, so that unequal
lengths still show."""


@dataclass(frozen=True)
class Report:
    """What a folder holds; every audio file of it is in a pair or named in one of the three lists."""

    pairs: tuple[Pair, ...] = ()
    lone_spoof: tuple[str, ...] = ()
    """Spoof files without a recording of the same name."""
    lone_bonafide: tuple[str, ...] = ()
    """Recordings without any spoof, or that no manifest row uses."""
    refused: dict[str, str] = field(default_factory=dict)
    """Pair id to the reason: unreadable, or not the same speech."""

    def sentences(self) -> list[str]:
        """Return one sentence per kind of file that is not used, with the count and the first names."""
        lists = {
            "spoof files have no recording of the same name": self.lone_spoof,
            "recordings have no spoof": self.lone_bonafide,
            "pairs are refused": [f"{name} ({why})" for name, why in self.refused.items()],
        }
        return [f"{len(n)} {what}: {', '.join(n[:3])}{f' and {len(n) - 3} more' if len(n) > 3 else ''}" for what, n in lists.items() if n]


@TASKS.register("folder")
@dataclass(frozen=True)
class Folder(PairedTask):
    """Pairs of ``data/bonafide`` and ``data/spoof/<vocoder>``; ``data`` is required."""

    title = "A folder of your own pairs"
    licence = "yours"

    def root(self) -> Path:
        """Return the folder.

        Raises:
            DataError: If ``data`` is not given, or is no folder with the two subfolders.
        """
        if not self.data:
            raise DataError(f"data must name a folder with {LAYOUT}, got nothing; give --data DIR")
        root = Path(self.data).expanduser()
        if not ((root / "bonafide").is_dir() and (root / "spoof").is_dir()) and not (root / "manifest.csv").is_file():
            raise DataError(f"data must name a folder with {LAYOUT}, got {root}; correct the path or make the two subfolders")
        return root

    def listed(self) -> Sequence[Pair]:
        """Return the pairs, and warn of every file that is in none.

        Raises:
            DataError: If there is no pair at all, or two files of one side bear the same name.
        """
        sentences = self.report.sentences()
        if not self.report.pairs:
            raise DataError(
                f"data must hold at least one pair, got none in {self._root} ({'; '.join(sentences) or 'no audio'}); see {LAYOUT}"
            )
        for sentence in sentences:
            warnings.warn(f"{self._root}: {sentence}", stacklevel=2)
        return self.report.pairs

    @cached_property
    def report(self) -> Report:
        """Pairs and all files that are in none."""
        index = _Index.open(self._root)
        manifest = self._root / "manifest.csv"
        proposed = _from_manifest(manifest, self._root) if manifest.is_file() else _from_names(self._root)
        estimate_lag = not manifest.is_file() or "lag" not in _header(manifest)
        pairs, refused = [], {}
        try:
            for pair in proposed.pairs:
                try:
                    pairs.append(index.complete(pair, estimate_lag=estimate_lag))
                except (AudioError, PairError) as error:
                    refused[pair.id] = str(error)
        finally:
            index.save()
        return replace(proposed, pairs=tuple(pairs), refused=refused)


def _from_names(root: Path) -> Report:
    recordings = _by_name(root / "bonafide", root / "bonafide")
    speakers = _speakers(root / "speakers.csv")
    direct = [p.name for p in _audio(root / "spoof", recursive=False)]
    if direct:
        raise DataError(f"spoof/ must hold a folder per vocoder, got {len(direct)} files directly in it, first {direct[0]}; move them")
    pairs, lone = [], []
    for folder in sorted(p for p in (root / "spoof").iterdir() if p.is_dir() and not p.name.startswith(".")):
        for name, path in _by_name(folder, folder).items():
            twin = name if name in recordings else name.removesuffix("_gen")
            if twin not in recordings:
                lone.append(path.relative_to(root).as_posix())
                continue
            bonafide, spoof = (p.relative_to(root).as_posix() for p in (recordings[twin], path))
            speaker = speakers.get(twin) or speakers.get(bonafide.removeprefix("bonafide/")) or speaker_of(twin)
            pairs.append(Pair(f"{folder.name}/{name}", twin, speaker, folder.name, bonafide, spoof, family=folder.name, seen_vocoder=False))
    used = {p.utterance for p in pairs}
    return Report(tuple(pairs), tuple(lone), tuple(p.relative_to(root).as_posix() for n, p in recordings.items() if n not in used))


def _from_manifest(manifest: Path, root: Path) -> Report:
    pairs = read_manifest(manifest, root)
    used = {name for p in pairs for name in (p.bonafide, p.spoof)}
    unused = [n for side in ("bonafide", "spoof") for p in _audio(root / side) if (n := p.relative_to(root).as_posix()) not in used]
    spoof = tuple(n for n in unused if n.startswith("spoof/"))
    return Report(tuple(pairs), spoof, tuple(n for n in unused if n not in spoof))


def _header(manifest: Path) -> list[str]:
    with manifest.open(encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream), [])


def _audio(folder: Path, *, recursive: bool = True) -> Iterator[Path]:
    if folder.is_dir():
        for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
            if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file():
                yield path


def _by_name(folder: Path, base: Path) -> dict[str, Path]:
    """Map names without suffix to files; two files of one name are an error, since either could be meant."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _audio(folder):
        found[path.relative_to(base).with_suffix("").as_posix()].append(path)
    for paths in found.values():
        if len(paths) > 1:
            raise DataError(f"{base} must hold one file per name, got {' and '.join(p.name for p in paths)}; remove or rename one")
    return {name: paths[0] for name, paths in found.items()}


def _speakers(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if any(not row.get("file") or not row.get("speaker") for row in rows):
        raise DataError(f"{path} must have columns file and speaker, filled in every row, got {rows[0] if rows else 'none'}; correct it")
    return {row["file"]: row["speaker"] for row in rows}


def speaker_of(name: str) -> str:
    """Return the first subfolder of a recording's name, else the name up to its first ``_`` or ``-``."""
    return name.split("/", 1)[0] if "/" in name else re.split("[_-]", name, maxsplit=1)[0] or name


@dataclass
class _Index:
    """What is known of the files of a folder, kept in the cache: hashes by name, size and time; lags by the hashes of both twins."""

    root: Path
    path: Path
    hashes: dict[str, list[Any]]
    lags: dict[str, list[Any]]
    changed: bool = False

    @classmethod
    def open(cls, root: Path) -> "_Index":
        """Read the index, or begin a new one where there is none or it is damaged."""
        path = cache_dir() / "folder" / f"{sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(root, path, dict(content["hashes"]), dict(content["lags"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(root, path, {}, {})

    def save(self) -> None:
        """Write the index if it changed; without a cache that can be written, the work is done again next time."""
        if self.changed:
            with contextlib.suppress(DataError):
                atomic_write(self.path, json.dumps({"hashes": self.hashes, "lags": self.lags}).encode())

    def complete(self, pair: Pair, *, estimate_lag: bool) -> Pair:
        """Return the pair with its hashes and lag.

        Raises:
            AudioError: If one of the twins cannot be read.
            PairError: If they are not twins.
        """
        hashes = [self._sha256(name, known) for name, known in ((pair.bonafide, pair.bonafide_sha256), (pair.spoof, pair.spoof_sha256))]
        pair = replace(pair, bonafide_sha256=hashes[0], spoof_sha256=hashes[1])
        key = ":".join(hashes)
        if key not in self.lags:
            self.lags[key], self.changed = _compare(read_audio(self.root / pair.bonafide), read_audio(self.root / pair.spoof)), True
        lag, refusal = self.lags[key]
        if refusal:
            raise PairError(refusal)
        return replace(pair, lag=lag) if estimate_lag else pair

    def _sha256(self, name: str, known: str) -> str:
        stat = (self.root / name).stat()
        entry = self.hashes.get(name)
        if entry is None or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            entry = [stat.st_size, stat.st_mtime_ns, decoded_sha256(read_audio(self.root / name))]
            self.hashes[name], self.changed = entry, True
        if known and known != entry[2]:
            raise AudioError(
                f"{name} must decode to the samples that manifest.csv names, got others; restore the file or correct the manifest"
            )
        return str(entry[2])


def _compare(bonafide: Tensor, spoof: Tensor) -> list[Any]:
    """Return ``[lag, ""]`` for twins and ``[0, reason]`` for others."""
    share = min(1.0, COMPARED_SECONDS * SAMPLE_RATE / max(len(bonafide), len(spoof)))
    bonafide, spoof = (w[: max(2, round(share * len(w)))] for w in (bonafide, spoof))
    try:
        check_twins(bonafide, spoof)
        return [constant_lag(bonafide, spoof), ""]
    except PairError as error:
        return [0, str(error)]
