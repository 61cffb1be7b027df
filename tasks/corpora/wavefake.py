"""WaveFake with LJSpeech (and JSUT): recordings of one voice each through seven vocoders (Frank and Schönherr 2021, arXiv:2111.02813).

    generated_audio/ljspeech_<vocoder>/<LJid>_gen.wav    LJSpeech-1.1/wavs/<LJid>.wav                       22.05 kHz
    generated_audio/jsut_<vocoder>/BASIC5000_NNNN_gen.wav    jsut_ver1.1/basic5000/wav/BASIC5000_NNNN.wav   24 and 48 kHz

Oddities: ``ljspeech_waveglow`` names its files without ``_gen``, ``ljspeech_hifiGAN`` with ``_generated``;
``common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech`` is synthesis from text and has no twins (and holds its files a second time
in ``generated/``); JSUT's copies need JSUT, without which they are named and left out. There is no published split: chapters of LJSpeech
are dealt out by hash, JSUT is tested. One voice per language: references are other utterances of the same voice where no other is there,
and results say nothing about unseen speakers.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.corpora.released import Home, Released, audio_by_stem, require_all
from xaibench.tasks.pairs import REFERENCES, check_disjoint
from xaibench.types import Pair, Split

HOME = Home("WaveFake", "doi:10.5281/zenodo.5642694", "117 985 files", "CC BY-SA 4.0")
LJSPEECH = Home("LJSpeech-1.1", "keithito.com/LJ-Speech-Dataset", "2.6 GB", "public domain")
JSUT = Home("JSUT 1.1", "sites.google.com/site/shinnosuketakamichi/publication/jsut", "2.7 GB", "CC BY-SA 4.0 and research use")
FAMILIES = {
    "full_band_melgan": "MelGAN",
    "hifiGAN": "HiFi-GAN",
    "melgan": "MelGAN",
    "melgan_large": "MelGAN",
    "multi_band_melgan": "MelGAN",
    "parallel_wavegan": "Parallel WaveGAN",
    "waveglow": "WaveGlow",
}
"""Vocoder to family; the folder's name is ``<voice>_<vocoder>``."""
LJ_FOLDERS = tuple(f"ljspeech_{vocoder}" for vocoder in FAMILIES)
JSUT_FOLDERS = ("jsut_multi_band_melgan", "jsut_parallel_wavegan")
TWINLESS = "common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech"
N_LJ = 13_100
SUFFIX = re.compile(r"_gen(erated)?$")


@TASKS.register("wavefake")
@dataclass(frozen=True)
class WaveFake(Released):
    """91 700 pairs of 13 100 LJSpeech recordings through seven vocoders; with JSUT 10 000 more."""

    title: ClassVar[str] = "WaveFake: LJSpeech and JSUT through seven neural vocoders"
    licence: ClassVar[str] = "WaveFake CC BY-SA 4.0; LJSpeech public domain"
    default_detector: ClassVar[str] = "spectrogram_cnn:weights=public_pairs"
    homes: ClassVar[tuple[Home, ...]] = (HOME, LJSPEECH)

    ljspeech: str = field(default="", metadata={"config": False})
    """Folder of LJSpeech; by default looked for in ``data`` and beside it."""
    jsut: str = field(default="", metadata={"config": False})
    """Folder of JSUT; its copies are left out, and named, where it is nowhere."""

    @property
    def expected(self) -> int:
        """Pairs of the whole, with JSUT where it is there."""
        return 7 * N_LJ + (2 * 5000 if self._jsut_home() else 0)

    def root(self) -> Path:
        """Return the folder ``generated_audio``."""
        return self.home_of(self.given, self.given / "generated_audio", needs=LJ_FOLDERS[0], home=HOME)

    def proposed(self) -> Sequence[Pair]:
        """Return every copy that has a recording.

        Raises:
            DataError: If a vocoder's folder, a copy or a recording is missing.
        """
        folders = [p.name for p in self._root.iterdir() if p.is_dir() and not p.name.startswith(".")]
        require_all("folders of vocoders", LJ_FOLDERS, folders, HOME)
        given = [Path(self.ljspeech).expanduser()] if self.ljspeech else [self.given, self.given.parent, self._root.parent]
        home = self.home_of(*given, *(g / "LJSpeech-1.1" for g in given), needs="wavs", home=LJSPEECH, option="ljspeech (or data)")
        pairs = [pair for folder in LJ_FOLDERS for pair in self._copies(folder, home / "wavs", LJSPEECH, "LJ")]
        jsut = self._jsut_home()
        there = [folder for folder in JSUT_FOLDERS if folder in folders]
        pairs += [pair for folder in there if jsut for pair in self._copies(folder, jsut, JSUT, "JSUT")]
        self.warn_of(
            "folders have no recordings and are left out", [f for f in folders if f in (TWINLESS, *(() if jsut else JSUT_FOLDERS))]
        )
        self.warn_of("folders are no published ones and are not read", set(folders) - {*LJ_FOLDERS, *JSUT_FOLDERS, TWINLESS})
        return pairs

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raise ``DataError`` where splits share an utterance; a corpus of one voice cannot split by it."""
        check_disjoint([replace(p, speaker=p.utterance) for p in pairs] if self.split == "official" else pairs)

    def reference_pairs(self, pair: Pair) -> list[Pair]:
        """Return 20 pairs of training recordings: of the other voice if it is there, else of the same one, never of the same utterance."""
        others = [p for p in self._recordings if p.utterance != pair.utterance and p.split == "train"]
        foreign = [p for p in others if p.speaker != pair.speaker]
        chosen = (foreign or others)[:REFERENCES]
        return [chosen[i % len(chosen)] for i in range(REFERENCES)] if chosen else super().reference_pairs(pair)

    def _jsut_home(self) -> Path | None:
        given = [Path(self.jsut).expanduser()] if self.jsut else [self.given, self.given.parent, self._root.parent]
        places = [g / inner for g in given for inner in ("", "basic5000/wav", "jsut_ver1.1/basic5000/wav")]
        found = [place for place in places if place.is_dir() and any(place.glob("BASIC5000_*"))]
        if self.jsut and not found:
            self.home_of(*places, needs="BASIC5000_0001.wav", home=JSUT, option="jsut")
        return found[0] if found else None

    def _copies(self, folder: str, recordings: Path, home: Home, speaker: str) -> list[Pair]:
        files = audio_by_stem(self._root / folder)
        copies = {SUFFIX.sub("", stem): name for stem, name in files.items()}
        if len(copies) < len(files):
            raise DataError(f"{folder}/ must hold one copy of each recording, got {len(files) - len(copies)} twice; restore it from {HOME}")
        there = audio_by_stem(recordings)
        require_all(f"recordings of the copies in {folder}/", copies, there, home)
        if not self.partial:
            require_all(f"copies in {folder}/ of the recordings in {recordings.name}/", there, copies, HOME)
        vocoder = folder.partition("_")[2]
        base = os.path.relpath(recordings, self._root)
        return [
            Pair(
                id=f"{folder}/{name}",
                utterance=name,
                speaker=speaker,
                vocoder=vocoder,
                bonafide=f"{base}/{there[name]}",
                spoof=f"{folder}/{file}",
                split=_split(name),
                corpus="LJSpeech" if speaker == "LJ" else "JSUT",
                family=FAMILIES[vocoder],
                licence=self.licence,
            )
            for name, file in copies.items()
        ]


def _split(name: str) -> Split:
    """Deal out chapters of LJSpeech by hash (80, 10, 10 %); JSUT, the unseen voice, is tested."""
    chapter = name.partition("-")[0]
    rank = int.from_bytes(sha256(chapter.encode()).digest()[:4], "big") / 2**32
    if not name.startswith("LJ"):
        return "test"
    return "train" if rank < 0.8 else "dev" if rank < 0.9 else "test"
