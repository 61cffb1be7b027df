"""A paired corpus out of any folder of speech: every recording is copied by every vocoder, in parallel, resumable.

    OUT/bonafide/<name>.flac    OUT/spoof/<vocoder>/<name>.flac    OUT/manifest.csv    OUT/vocode.jsonl

The result is read by ``--task folder --data OUT``. ``vocode.jsonl`` has a line per finished copy with the hashes of what it was made from
and by what, so that the same command goes on where it stopped, makes again what changed, and adds vocoders to a corpus that is there.

For a corpus to train on, ``Selection`` cuts long recordings into pieces and draws a few of many vocoders for each.
"""

import contextlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaibench.errors import AudioError, DataError
from xaibench.registry import VOCODERS
from xaibench.tasks.audio import decoded_sha256, read_audio, to_int16, write_audio
from xaibench.tasks.cache import atomic_write
from xaibench.tasks.corpora.folder import AUDIO_SUFFIXES, speaker_of
from xaibench.tasks.facts import file_sha256
from xaibench.tasks.manifest import write_manifest
from xaibench.tasks.pairs import split_by_speaker
from xaibench.tasks.vocoders.vocoder import MIN_SAMPLES, Vocoder
from xaibench.types import SAMPLE_RATE, Pair

JOURNAL = "vocode.jsonl"
CEILING = 0.9999
MIN_SPEAKERS = 5
"""Speakers from which on a corpus is split; smaller ones are tested whole."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Selection:
    """What of recordings and vocoders becomes pairs; drawn from names, so that a corpus can be made again."""

    per_recording: int = 0
    """Vocoders drawn for each recording or piece; 0 for all."""
    seconds: float = 0.0
    """A recording gives as many pieces of this length as fit, each from a drawn place of its share; 0 keeps it whole. A shorter one is one
    piece."""
    train: bool = False
    """Everything belongs to the train split, instead of being split by speaker."""

    def __post_init__(self) -> None:
        """Refuse what selects nothing."""
        if self.per_recording < 0:
            raise ValueError(f"per_recording must be at least 0, got {self.per_recording}; 0 takes all vocoders")
        if self.seconds and self.seconds * SAMPLE_RATE < MIN_SAMPLES:
            raise ValueError(f"seconds must be 0 or at least {MIN_SAMPLES / SAMPLE_RATE}, got {self.seconds}; 5.2 suits 4-s clips")

    def pieces(self, name: str, waveform: Tensor) -> dict[str, Tensor]:
        """Return the pieces of a recording (T,) by name: ``<name>-<number>``, or the recording itself."""
        wanted = round(self.seconds * SAMPLE_RATE)
        if not wanted:
            return {name: waveform}
        count = max(1, len(waveform) // wanted)
        share = len(waveform) // count
        starts = [n * share + _drawn(f"{name}|{n}") % (max(0, share - wanted) + 1) for n in range(count)]
        return {f"{name}-{n}": waveform[start : start + min(wanted, share)] for n, start in enumerate(starts)}

    def vocoders(self, name: str, specs: dict[str, str]) -> dict[str, str]:
        """Return the vocoders of a piece among those at hand."""
        drawn = sorted(specs, key=lambda folder: _drawn(f"{name}|{folder}"))
        return {folder: specs[folder] for folder in drawn[: self.per_recording or None]}


def _drawn(text: str) -> int:
    """Return a large number that looks random and depends on the text alone."""
    return int(sha256(text.encode()).hexdigest()[:15], 16)


@dataclass(frozen=True)
class Copied:
    """One finished copy: a line of the journal."""

    name: str
    vocoder: str
    bonafide_sha256: str
    identity: str
    """Name, version and options of the vocoder."""
    spoof_sha256: str
    kind: str


@dataclass
class Vocoded:
    """What a call did."""

    manifest: Path
    pairs: int = 0
    made: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Recording, and vocoder if it is its fault, to the reason."""


def vocode(
    speech: Path | Sequence[Path],
    vocoders: Sequence[str],
    out: Path,
    *,
    jobs: int = 1,
    limit: int | None = None,
    progress: Progress | None = None,
    selection: Selection | None = None,
) -> Vocoded:
    """Copy folders of speech.

    Args:
        speech: Folder of recordings, or several, in subfolders or not, of any rate and format that libsndfile reads.
        vocoders: Names with options, ``"griffin_lim"`` or ``"opus:kbps=12"``.
        out: Folder of the corpus.
        jobs: Processes.
        limit: Only the first recordings.
        progress: Called with recordings done and recordings in all.
        selection: What becomes pairs; by default whole recordings through all vocoders.

    Raises:
        DataError: If there is no recording, two bear one name, or none could be copied.
        UnknownNameError: If a vocoder is not known.
        MissingExtraError: If one needs a package that is not installed.
    """
    selection, folders = selection or Selection(), [speech] if isinstance(speech, str | Path) else list(speech)
    names = dict(list(_recordings([Path(f) for f in folders], Path(out)).items())[:limit])
    specs = {label(spec): spec for spec in vocoders}
    for spec in specs.values():
        VOCODERS.load(spec).copy(0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0)))  # says at once what is missing
    known = {(c.name, c.vocoder): c for c in read_journal(out / JOURNAL)}
    result = Vocoded(out / "manifest.csv")
    out.mkdir(parents=True, exist_ok=True)
    work = partial(copy_recording, out=out, specs=specs, known=known, selection=selection)
    with (out / JOURNAL).open("a", encoding="utf-8") as journal:
        for done, (copies, failed) in enumerate(_mapped(work, list(names.items()), jobs), start=1):
            for copied, new in copies:
                known[copied.name, copied.vocoder] = copied
                result.made, result.kept = result.made + new, result.kept + (not new)
                if new:
                    journal.write(json.dumps(asdict(copied)) + "\n")
            journal.flush()
            result.failed |= failed
            if progress is not None:
                progress(done, len(names))
    result.pairs = _write(result.manifest, list(known.values()), out, train=selection.train)
    if not result.pairs:
        reason = next(iter(result.failed.values()), "")
        raise DataError(f"speech must hold recordings that can be copied, got none in {_listed(folders)}: {reason}")
    return result


def label(spec: str) -> str:
    """Return the folder's name of a vocoder with options: its specification with characters that every file system takes."""
    return spec.replace(":", "-").replace(",", "-").replace("=", "")


def identity(vocoder: Vocoder) -> str:
    """Return what a copy depends on beside its recording."""
    options = {f.name: getattr(vocoder, f.name) for f in fields(vocoder)}
    state = vocoder.state_hash()
    return json.dumps({"name": vocoder.name, "version": vocoder.version, **options} | ({"state": state} if state else {}), sort_keys=True)


def read_journal(path: Path) -> list[Copied]:
    """Read finished copies; a last line that was cut short is none, and later lines stand for earlier ones."""
    found: dict[tuple[str, str], Copied] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            copied = Copied(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[copied.name, copied.vocoder] = copied
    return list(found.values())


def copy_recording(
    recording: tuple[str, Path],
    *,
    out: Path,
    specs: dict[str, str],
    known: dict[tuple[str, str], Copied],
    selection: Selection | None = None,
) -> tuple[list[tuple[Copied, bool]], dict[str, str]]:
    """Copy the pieces of one recording by their vocoders; return the copies, each with whether it is new, and the reasons of failures."""
    torch.set_num_threads(1)
    name, path = recording
    copies: list[tuple[Copied, bool]] = []
    failed: dict[str, str] = {}
    selection = selection or Selection()
    try:
        waveform = to_int16(read_audio(path)).float() / 32768  # what the file will hold
    except AudioError as error:
        return copies, {name: str(error)}
    for piece, samples in selection.pieces(name, waveform).items():
        made, why = _copy_piece(piece, samples, out, selection.vocoders(piece, specs), known)
        copies += made
        failed |= why
    return copies, failed


def _copy_piece(
    name: str, waveform: Tensor, out: Path, specs: dict[str, str], known: dict[tuple[str, str], Copied]
) -> tuple[list[tuple[Copied, bool]], dict[str, str]]:
    copies: list[tuple[Copied, bool]] = []
    failed: dict[str, str] = {}
    digest = decoded_sha256(waveform)
    original = out / "bonafide" / f"{name}.flac"
    if not _holds(original, digest):
        write_audio(original, waveform)
    for folder, spec in specs.items():
        vocoder: Vocoder = VOCODERS.load(spec)
        before, place = known.get((name, folder)), out / "spoof" / folder / f"{name}.flac"
        wanted = identity(vocoder)
        if before and (before.bonafide_sha256, before.identity) == (digest, wanted) and _holds(place, before.spoof_sha256):
            copies.append((before, False))
            continue
        try:
            copy = vocoder.copy(waveform)
        except ValueError as error:
            failed[f"{name} ({folder})"] = str(error)
            continue
        write_audio(place, copy * min(1.0, CEILING / max(float(copy.abs().max()), 1e-9)))
        copies.append((Copied(name, folder, digest, wanted, file_sha256(place), vocoder.kind), True))
    return copies, failed


def _holds(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and file_sha256(path) == sha256
    except AudioError:
        return False


def _recordings(folders: list[Path], out: Path) -> dict[str, Path]:
    """Map names without suffix, relative to their folder, to recordings, sorted; what lies in ``out`` itself is none of them."""
    found: dict[str, Path] = {}
    for speech in folders:
        if not speech.is_dir():
            raise DataError(f"speech must be a folder of recordings, got {speech}; check the path")
        for path in sorted(speech.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(speech).parts)
            if hidden or path.suffix.lower() not in AUDIO_SUFFIXES or out.resolve() in path.resolve().parents or not path.is_file():
                continue
            name = path.relative_to(speech).with_suffix("").as_posix()
            if name in found:
                raise DataError(f"speech must hold one file per name, got {found[name].name} and {path.name}; remove or rename one")
            found[name] = path
    if not found:
        kinds = ", ".join(sorted(AUDIO_SUFFIXES))
        raise DataError(f"speech must hold recordings ({kinds}), got none in {_listed(folders)}; check the path")
    return found


def _listed(folders: Sequence[Any]) -> str:
    return " and ".join(str(f) for f in folders)


def _mapped(work: Callable[[tuple[str, Path]], Any], items: list[tuple[str, Path]], jobs: int) -> Iterator[Any]:
    if jobs <= 1 or len(items) <= 1:
        yield from map(work, items)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")  # forked workers start at once
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(work, items)


def _write(path: Path, copies: list[Copied], out: Path, *, train: bool = False) -> int:
    """Write the manifest of all copies whose files are there; splits by speaker where there are enough of them, else all to test."""
    pairs = [
        Pair(
            id=f"{c.vocoder}/{c.name}",
            utterance=c.name,
            speaker=speaker_of(c.name),
            vocoder=c.vocoder,
            bonafide=f"bonafide/{c.name}.flac",
            spoof=f"spoof/{c.vocoder}/{c.name}.flac",
            seen_vocoder=False,
            family=c.kind,
            bonafide_sha256=c.bonafide_sha256,
            spoof_sha256=c.spoof_sha256,
        )
        for c in sorted(copies, key=lambda c: (c.vocoder, c.name))
        if (out / "spoof" / c.vocoder / f"{c.name}.flac").is_file() and (out / "bonafide" / f"{c.name}.flac").is_file()
    ]
    if train:
        pairs = [replace(p, split="train", seen_vocoder=True) for p in pairs]
    elif len({p.speaker for p in pairs}) >= MIN_SPEAKERS:
        with contextlib.suppress(DataError):  # speakers linked by common utterances
            pairs = [replace(p, seen_vocoder=True) for p in split_by_speaker(pairs)]
    if pairs:
        write_manifest(path, pairs)
    else:
        atomic_write(path, b"")
    return len(pairs)
