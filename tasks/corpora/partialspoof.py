"""PartialSpoof: recordings in which fake segments were laid (Zhang et al. 2023, doi:10.1109/TASLP.2022.3233236). Truth in time alone.

    database/{train,dev,eval}/con_wav/{CON,LA}_[TDE]_NNNNNNN.wav     database/{train,dev,eval}/{train,dev,eval}.lst
    database/protocols/PartialSpoof_LA_cm_protocols/PartialSpoof.LA.cm.{train,dev,eval}.trl.txt  "LA_0079 CON_T_0000000 - CON spoof"
    database/segment_labels/{train,dev,eval}_seglab_0.01.npy         a pickled dict, utterance to labels of 10 ms: 1 bona fide, 0 fake

The labels are pickled and never opened here: ``xaibench data convert partialspoof DIR`` writes them once as ``<part>_seglab_0.01.npz``
(``labels.py``). They say when, not at which frequency, so only the time marginal of a heatmap is scored. The published split shares no
speaker. Oddity: ``eval.lst`` of v1.2 names two recordings that its archive, protocol and labels lack; they are named in a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.audio import tile
from xaibench.tasks.corpora.asvspoof_lists import Trial, read_protocol
from xaibench.tasks.corpora.labels import SegmentLabels, converted_name, read_labels
from xaibench.tasks.corpora.lone import Lone, Recording
from xaibench.tasks.corpora.released import Home, audio_by_stem, read_lines, require_all
from xaibench.types import CLIP_SAMPLES, SAMPLE_RATE, Clip, Pair, Split

HOME = Home("PartialSpoof v1.2", "doi:10.5281/zenodo.5766198", "121 461 files", "CC BY 4.0")
SPLITS: dict[str, Split] = {"train": "train", "dev": "dev", "eval": "test"}
UNRELEASED = {"CON_E_0034982", "CON_E_0058039"}
"""Names in ``eval.lst`` of v1.2 without audio, protocol line and labels: 71 239 names, 71 237 recordings."""
SEGMENT = 0.01
FAKE = 0


@TASKS.register("partialspoof")
@dataclass(frozen=True)
class PartialSpoof(Lone):
    """108 978 recordings with fake segments: scored on the time marginal and on the detector."""

    title: ClassVar[str] = "PartialSpoof: fake segments in real recordings, truth in time"
    licence: ClassVar[str] = "CC BY 4.0"
    truth: ClassVar[Literal["artifact", "planted", "time", "none"]] = "time"
    recipes: ClassVar[tuple[str, ...]] = ()
    default_detector: ClassVar[str] = "spectrogram_cnn:weights=public_pairs"
    homes: ClassVar[tuple[Home, ...]] = (HOME,)
    published: ClassVar[int] = 22800 + 22296 + 63882

    labels: str = field(default="", metadata={"config": False})
    """Folder of the converted labels; by default ``segment_labels/``."""

    def root(self) -> Path:
        """Return the folder ``database``."""
        return self.home_of(self.given, self.given / "database", self.given / "PartialSpoof" / "database", needs="protocols", home=HOME)

    def proposed(self) -> Sequence[Pair]:
        """Return the recordings with fake segments.

        Raises:
            DataError: If a list, protocol line, file or label is missing, or the labels were not converted.
        """
        pairs = [self._spoof(trial, path, part) for part in SPLITS for trial, path in self._trials[part] if not trial.bonafide]
        for part, split in SPLITS.items():
            wanted = [p.id for p in pairs if p.split == split]
            require_all(f"labels of {part} in {converted_name(part)}", wanted, self._labels[part].names(), HOME)
        return pairs

    def recordings(self) -> Sequence[Recording]:
        """Return the untouched recordings of the train part."""
        return [Recording(t.utterance, t.speaker, path) for t, path in self._trials["train"] if t.bonafide]

    def load(self, pair: Pair) -> Clip:
        """Load one recording with the samples that are labelled fake.

        Raises:
            DataError: If the labels end more than a tenth of a second before the recording does.
        """
        clip = super().load(pair)
        part = next(part for part, split in SPLITS.items() if split == pair.split)
        labels = torch.from_numpy(self._labels[part][pair.id] == FAKE)
        fake = labels.repeat_interleave(round(SEGMENT * SAMPLE_RATE))
        lacking = clip.valid_samples - len(fake)
        if lacking > SAMPLE_RATE // 10:
            found = f"{clip.valid_samples / SAMPLE_RATE:.2f} s, got {len(fake) / SAMPLE_RATE:.2f} s"
            raise DataError(f"labels of {pair.id} must cover its {found}; get {HOME}")
        whole = torch.cat([fake, fake[-1:].expand(max(0, lacking))])[: clip.valid_samples]
        return replace(clip, fake=tile(whole, CLIP_SAMPLES))

    @cached_property
    def _trials(self) -> dict[str, list[tuple[Trial, str]]]:
        return {part: self._part(part) for part in SPLITS}

    @cached_property
    def _labels(self) -> dict[str, SegmentLabels]:
        folder = Path(self.labels).expanduser() if self.labels else self._root / "segment_labels"
        return {part: read_labels(folder / converted_name(part)) for part in SPLITS}

    def _part(self, part: str) -> list[tuple[Trial, str]]:
        protocol = self._root / f"protocols/PartialSpoof_LA_cm_protocols/PartialSpoof.LA.cm.{part}.trl.txt"
        trials = {t.utterance: t for t in read_protocol(protocol)}
        folder = self._root / part / "con_wav"
        if not folder.is_dir():
            raise DataError(f"{self._root} must hold {part}/con_wav, got no such folder; get {HOME}")
        files, listed = audio_by_stem(folder), read_lines(self._root / part / f"{part}.lst")
        absent = UNRELEASED & set(listed) - files.keys()
        self.warn_of(f"names of {part}.lst were never released", absent)
        listed = [name for name in listed if name not in absent]
        require_all(f"names of {part}.lst in {part}/con_wav", listed, files, HOME)
        require_all(f"names of {part}.lst in {protocol.name}", listed, trials, HOME)
        self.warn_of(f"files of {part}/con_wav are in no list", files.keys() - set(listed))
        return [(trials[name], f"{part}/con_wav/{files[name]}") for name in listed]

    def _spoof(self, trial: Trial, path: str, part: str) -> Pair:
        return Pair(
            id=trial.utterance,
            utterance=trial.utterance,
            speaker=trial.speaker,
            vocoder=trial.attack,
            bonafide="",
            spoof=path,
            split=SPLITS[part],
            corpus="PartialSpoof",
            family="concatenation",
            licence=self.licence,
        )
