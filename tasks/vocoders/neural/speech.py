"""The recordings that a vocoder is trained on: read once, levelled, kept in one file of 16-bit samples, so that memory does not grow.

A twentieth of the speakers, one at least, is held out of training and scored at the end; of one speaker, a twentieth of the recordings.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.errors import AudioError, DataError
from xaibench.tasks.audio import read_audio, to_int16
from xaibench.tasks.cache import atomic_path, atomic_write
from xaibench.tasks.corpora.folder import AUDIO_SUFFIXES, speaker_of
from xaibench.tasks.vocoders.neural.features import HOP, MARGIN, levelled, pitch
from xaibench.types import SAMPLE_RATE, content_hash

MIN_SECONDS = 0.5
HELD_OUT = 20
"""One speaker in so many is held out."""
SCORED = 12
"""Held-out recordings that are scored, at most, spread over speakers."""


@dataclass(frozen=True)
class Utterance:
    """A recording's place in the file of samples."""

    name: str
    speaker: str
    first: int
    samples: int


@dataclass(frozen=True)
class Speech:
    """Recordings in one file, with F0 in another where it is needed."""

    utterances: list[Utterance]
    skipped: dict[str, str]
    """Recording to the reason why it is not used."""
    samples_path: Path
    pitch_path: Path | None

    @cached_property
    def _samples(self) -> npt.NDArray[np.int16]:
        return np.memmap(self.samples_path, dtype="<i2", mode="r")

    @cached_property
    def _f0(self) -> npt.NDArray[np.float32] | None:
        return None if self.pitch_path is None else np.memmap(self.pitch_path, dtype="<f4", mode="r")

    @cached_property
    def held_out_speakers(self) -> frozenset[str]:
        """Speakers that are not trained on, drawn by the hash of their names; none where there is but one."""
        speakers = sorted({u.speaker for u in self.utterances}, key=lambda s: sha256(s.encode()).hexdigest())
        return frozenset(speakers[: max(1, round(len(speakers) / HELD_OUT))] if len(speakers) > 1 else [])

    @cached_property
    def train(self) -> list[Utterance]:
        """Recordings that are trained on."""
        kept = set(self.held_out)
        return [u for u in self.utterances if u not in kept]

    @cached_property
    def held_out(self) -> list[Utterance]:
        """Recordings that are not."""
        if self.held_out_speakers:
            return [u for u in self.utterances if u.speaker in self.held_out_speakers]
        return self.utterances[-max(1, len(self.utterances) // HELD_OUT) :]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of samples and places."""
        places = [(u.name, u.first, u.samples) for u in self.utterances]
        return content_hash({"places": places, "samples": sha256(self._samples.tobytes()).hexdigest()})

    @property
    def seconds(self) -> float:
        """Length of what is trained on."""
        return sum(u.samples for u in self.train) / SAMPLE_RATE

    def scored(self) -> list[Utterance]:
        """Return the held-out recordings that are scored, taken from the speakers in turn."""
        turns: dict[str, int] = {}
        order = []
        for u in self.held_out:
            turns[u.speaker] = turns.get(u.speaker, 0) + 1
            order.append((turns[u.speaker], u.first, u))
        return [u for _, _, u in sorted(order, key=lambda entry: entry[:2])][:SCORED]

    def waveform(self, utterance: Utterance) -> Tensor:
        """Return ``(T,)`` of one recording."""
        part = self._samples[utterance.first : utterance.first + utterance.samples]
        return torch.from_numpy(part.astype(np.float32) / 32768)

    def crop(self, utterance: Utterance, start: int, frames: int) -> tuple[Tensor, Tensor]:
        """Cut frames with a margin; beyond a recording's end lies silence.

        Args:
            utterance: The recording.
            start: First frame.
            frames: Frames.

        Returns:
            Samples ``(200 (frames + 2 margins),)`` and F0 ``(frames + 1,)``, zero where it is not tracked.
        """
        wanted = np.zeros((frames + 2 * MARGIN) * HOP, np.float32)
        begin = (start - MARGIN) * HOP
        low, high = max(0, begin), min(utterance.samples, begin + wanted.size)
        wanted[low - begin : high - begin] = self._samples[utterance.first + low : utterance.first + high]
        f0 = np.zeros(frames + 1, np.float32)
        if self._f0 is not None:
            first = utterance.first // HOP + start
            count = min(frames + 1, utterance.samples // HOP - start)
            f0[:count] = self._f0[first : first + count]
        return torch.from_numpy(wanted / 32768), torch.from_numpy(f0)


def gather(folders: Sequence[Path], cache: Path, *, pitched: bool) -> Speech:
    """Read folders of recordings, or what an earlier call made of them.

    Args:
        folders: Folders of recordings, in subfolders or not.
        cache: Folder for the file of samples.
        pitched: Whether F0 is needed.

    Raises:
        DataError: If a folder is missing or fewer than two recordings can be used.
    """
    files = [(folder, path) for folder in folders for path in _files(Path(folder))]
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for _, p in files]
    key = content_hash({"files": stats, "version": 1})[:16]
    samples_path, index_path, pitch_path = (cache / f"{key}.{end}" for end in ("i16", "json", "f0"))
    if not index_path.is_file() or not samples_path.is_file():
        _write(files, samples_path, index_path)
    index = json.loads(index_path.read_text(encoding="utf-8"))
    utterances = [Utterance(**u) for u in index["utterances"]]
    if len(utterances) < 2:
        why = next(iter(index["skipped"].values()), "none was found")
        raise DataError(f"speech must hold two recordings of half a second at least, got {len(utterances)} ({why}); add recordings")
    speech = Speech(utterances, index["skipped"], samples_path, pitch_path if pitched else None)
    if pitched and not pitch_path.is_file():
        with atomic_path(pitch_path) as part, part.open("wb") as stream:
            for u in utterances:
                stream.write(pitch(speech.waveform(u))[: u.samples // HOP].numpy().astype("<f4").tobytes())
    return speech


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"speech must be a folder of recordings, got {folder}; check the path")
    return [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file() and not p.name.startswith(".")]


def _write(files: Sequence[tuple[Path, Path]], samples_path: Path, index_path: Path) -> None:
    """Write whole frames of every usable recording one after another, then the index."""
    utterances: list[dict[str, object]] = []
    skipped: dict[str, str] = {}
    first = 0
    with atomic_path(samples_path) as part, part.open("wb") as stream:
        for folder, path in files:
            name = path.relative_to(folder).with_suffix("").as_posix()
            try:
                voice = levelled(read_audio(path))
            except AudioError as error:
                skipped[name] = str(error)
                continue
            voice = voice[: len(voice) // HOP * HOP]
            if len(voice) < MIN_SECONDS * SAMPLE_RATE or not voice.any():
                skipped[name] = "shorter than half a second, or silent"
                continue
            stream.write(to_int16(voice).numpy().astype("<i2").tobytes())
            utterances.append({"name": name, "speaker": speaker_of(name), "first": first, "samples": len(voice)})
            first += len(voice)
    atomic_write(index_path, json.dumps({"utterances": utterances, "skipped": skipped}).encode())
