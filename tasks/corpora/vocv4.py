"""Voc.v4: ASVspoof2019 LA recordings copied by four neural vocoders (Wang and Yamagishi 2023, arXiv:2210.10570); recordings come apart.

    voc.v4/wav/<vocoder>_LA_[TD]_NNNNNNN.wav      voc.v4/scp/{train,dev}.lst, names without suffix
    voc.v4/protocol.txt                           lines "LA_0079 hifigan_LA_T_1703395 - hifigan spoof"
    LA/ASVspoof2019_LA_{train,dev}/flac/LA_[TD]_NNNNNNN.flac

Two vocoders have hyphens in their names, one is the beginning of the other (``hn-sinc-nsf``, ``hn-sinc-nsf-hifi``): names are cut at
``_LA_`` and nowhere else. The lists may hold recordings too. Official split: ``train.lst`` for training and ``dev.lst`` for testing, which
share no speaker, as the public re-implementation of Grinberg et al. 2025 has it; there is no vocoded evaluation part.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.corpora.asvspoof_lists import HOME as RECORDINGS
from xaibench.tasks.corpora.asvspoof_lists import Trial, candidates, part_of, protocol_path, read_protocol, recordings
from xaibench.tasks.corpora.released import Home, Released, audio_by_stem, read_lines, require_all, shown
from xaibench.types import Pair, Split

HOME = Home("Voc.v4", "doi:10.5281/zenodo.7314976, project09-voc.v4.tar", "20 512 files", "licence on its record")
FAMILIES = {"hifigan": "HiFi-GAN", "hn-sinc-nsf": "NSF", "hn-sinc-nsf-hifi": "NSF", "waveglow": "WaveGlow"}
"""Vocoder to family; both NSF vocoders share a generator."""
SPLITS: dict[str, Split] = {"train": "train", "dev": "test"}
"""Published list to split."""
STEM = re.compile(r"^(?P<vocoder>.+)_(?P<utterance>LA_[TDE]_\d{7})$")
RECORDING = re.compile(r"^LA_[TDE]_\d{7}$")


@TASKS.register("vocv4")
@dataclass(frozen=True)
class VocV4(Released):
    """20 512 pairs of 5 128 recordings by 40 speakers: HiFi-GAN, WaveGlow and two neural source filters."""

    title: ClassVar[str] = "Voc.v4: ASVspoof2019 LA recordings through four neural vocoders"
    licence: ClassVar[str] = "Voc.v4 as on its record; ASVspoof2019 LA ODC-BY 1.0"
    default_detector: ClassVar[str] = "spectrogram_cnn:weights=public_pairs"
    homes: ClassVar[tuple[Home, ...]] = (HOME, RECORDINGS)
    published: ClassVar[int] = 4 * (2580 + 2548)

    bonafide: str = field(default="", metadata={"config": False})
    """Folder of ASVspoof2019 LA; by default looked for in ``data`` and beside it."""

    def root(self) -> Path:
        """Return the folder ``voc.v4``."""
        place = self.given
        return self.home_of(place, place / "voc.v4", place / "project09-voc.v4" / "voc.v4", needs="wav", home=HOME)

    def proposed(self) -> Sequence[Pair]:
        """Return the pairs of both lists.

        Raises:
            DataError: If a list, a protocol line, a vocoded file or a recording is missing, or a name is not a published one.
        """
        home = self._recordings_home()
        trials = {t.utterance: t for t in read_protocol(self._root / "protocol.txt")}
        files = audio_by_stem(self._root / "wav")
        pairs: list[Pair] = []
        for part, split in SPLITS.items():
            stems = _vocoded(self._root / "scp" / f"{part}.lst")
            require_all(f"lines of protocol.txt for scp/{part}.lst", stems, trials, HOME)
            require_all(f"files of scp/{part}.lst in wav/", stems, files, HOME)
            pairs += _with_recordings([_pair(trials[stem], files[stem], split) for stem in stems], home, self._root)
        used = {f"{p.vocoder}_{p.utterance}" for p in pairs}
        self.warn_of("files of wav/ are in no list", files.keys() - used)
        self.warn_of("spoof lines of protocol.txt are in no list", {t.utterance for t in trials.values() if not t.bonafide} - used)
        return pairs

    def _recordings_home(self) -> Path:
        given = [Path(self.bonafide).expanduser()] if self.bonafide else [self.given, self.given.parent, self._root.parent]
        return self.home_of(*candidates(*given), needs="ASVspoof2019_LA_train", home=RECORDINGS, option="bonafide (or data)")


def _vocoded(path: Path) -> list[str]:
    """Return the vocoded names of a list; recordings, which it may hold too, are passed over, anything else is an error."""
    stems = [name for name in read_lines(path) if not RECORDING.match(name)]
    for stem in stems:
        found = STEM.match(stem)
        if found is None or found["vocoder"] not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise DataError(
                f"{path.name} must name <vocoder>_LA_[TD]_NNNNNNN with a vocoder of {known}, got {stem!r}; restore it from {HOME}"
            )
    if len(set(stems)) < len(stems):
        raise DataError(f"{path.name} must name each file once, got {len(stems) - len(set(stems))} twice; restore it from {HOME}")
    return stems


def _pair(trial: Trial, file: str, split: Split) -> Pair:
    found = STEM.match(trial.utterance)
    assert found is not None  # _vocoded has looked
    vocoder, utterance = found["vocoder"], found["utterance"]
    if trial.bonafide:
        raise DataError(f"protocol.txt must call {trial.utterance} spoof, got bonafide; restore it from {HOME}")
    return Pair(
        id=f"{vocoder}/{utterance}",
        utterance=utterance,
        speaker=trial.speaker,
        vocoder=vocoder,
        bonafide="",
        spoof=f"wav/{file}",
        split=split,
        corpus="ASVspoof2019 LA",
        family=FAMILIES[vocoder],
        licence=VocV4.licence,
    )


def _with_recordings(pairs: Sequence[Pair], home: Path, root: Path) -> list[Pair]:
    """Give each pair its recording, and hold its speaker against the recordings' own protocol where that lies beside them.

    Raises:
        DataError: If a recording is missing or the two protocols name different speakers.
    """
    known: dict[str, str] = {}
    for part in sorted({part_of(p.utterance) for p in pairs}):
        wanted = [p for p in pairs if part_of(p.utterance) == part]
        there = recordings(home, part)
        require_all(f"recordings of ASVspoof2019_LA_{part}/flac", dict.fromkeys(p.utterance for p in wanted), there, RECORDINGS)
        known |= {p.utterance: os.path.relpath(home / there[p.utterance], root) for p in wanted}
        if (protocol := protocol_path(home, part)).is_file():
            speakers = {t.utterance: t.speaker for t in read_protocol(protocol)}
            other = [p for p in wanted if speakers.get(p.utterance, p.speaker) != p.speaker]
            if other:
                found = f"{speakers[other[0].utterance]} for {shown([p.utterance for p in other])}"
                raise DataError(
                    f"protocol.txt must name the speakers of {protocol.name}, got another one than {found}; restore it from {HOME}"
                )
    return [replace(p, bonafide=known[p.utterance]) for p in pairs]
