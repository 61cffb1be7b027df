"""LibriSeVoc: LibriTTS recordings copied by six neural vocoders (Sun et al. 2023, CVPR Workshops).

    LibriSeVoc/gt/<id>.wav    LibriSeVoc/<vocoder>/<id>_gen.wav    id = <reader>_<chapter>_<paragraph>_<segment>, 24 kHz

The lists ``train.txt``, ``dev.txt`` and ``test.txt`` (lines ``27_123349_000012_000013.wav``) come with the code of the corpus, not with its
archive; they are looked for in ``data``, in ``LibriSeVoc/`` and in ``lists``. The published split shares no utterance, but 205 of 207 test
readers occur in training; ``split=speaker`` shares no reader and needs no list. Copies are longer than their recordings by up to a hop.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.corpora.released import Home, Released, audio_by_stem, read_lines, require_all, shown
from xaibench.tasks.manifest import SPLITS
from xaibench.types import Pair, Split

HOME = Home(
    "LibriSeVoc",
    "drive.google.com/file/d/1NXF9w0YxzVjIAwGm_9Ku7wfLHVbsT7aG, linked from doi:10.1109/CVPRW59228.2023.00097",
    "92 407 files",
    "recordings CC BY 4.0",
)
LISTS = Home("its lists", "github.com/csun22/Synthetic-Voice-Detection-Vocoder-Artifacts", "train.txt, dev.txt, test.txt", "MIT")
FAMILIES = {
    "diffwave": "DiffWave",
    "melgan": "MelGAN",
    "parallel_wave_gan": "Parallel WaveGAN",
    "wavegrad": "WaveGrad",
    "wavenet": "WaveNet",
    "wavernn": "WaveRNN",
}
IDENTIFIER = re.compile(r"^\d+_\d+_\d{6}_\d{6}$")
COPY = "_gen"


@TASKS.register("librisevoc")
@dataclass(frozen=True)
class LibriSeVoc(Released):
    """79 206 pairs of 13 201 recordings: WaveNet, WaveRNN, MelGAN, Parallel WaveGAN, WaveGrad and DiffWave."""

    title: ClassVar[str] = "LibriSeVoc: LibriTTS recordings through six neural vocoders"
    licence: ClassVar[str] = "LibriTTS CC BY 4.0; the copies carry no licence of their own"
    default_detector: ClassVar[str] = "spectrogram_cnn:weights=public_pairs"
    homes: ClassVar[tuple[Home, ...]] = (HOME, LISTS)
    published: ClassVar[int] = 6 * 13201
    speakers_cross: ClassVar[bool] = True

    lists: str = field(default="", metadata={"config": False})
    """Folder of the three lists."""

    def root(self) -> Path:
        """Return the folder ``LibriSeVoc``."""
        return self.home_of(self.given, self.given / "LibriSeVoc", needs="gt", home=HOME)

    def proposed(self) -> Sequence[Pair]:
        """Return every copy with its recording.

        Raises:
            DataError: If a vocoder's folder, a list, a copy or a recording is missing, or a name is not of the published form.
        """
        recordings = audio_by_stem(self._root / "gt")
        strange = sorted(stem for stem in recordings if not IDENTIFIER.match(stem))
        if strange:
            raise DataError(f"gt/ must hold <reader>_<chapter>_<paragraph>_<segment>.wav, got {shown(strange)}; remove them or get {HOME}")
        require_all("folders of vocoders", FAMILIES, [p.name for p in self._root.iterdir() if p.is_dir()], HOME)
        known = [p.name for p in self._root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in {"gt", *FAMILIES}]
        self.warn_of("folders are no published vocoder and are not read", known)
        splits = self._splits(recordings) if self.split == "official" else dict.fromkeys(recordings, SPLITS[-1])
        return [pair for vocoder in FAMILIES for pair in self._copies(vocoder, recordings, splits)]

    def _copies(self, vocoder: str, recordings: dict[str, str], splits: dict[str, Split]) -> list[Pair]:
        files = audio_by_stem(self._root / vocoder)
        unnamed = sorted(stem for stem in files if not stem.endswith(COPY))
        if unnamed:
            raise DataError(f"{vocoder}/ must hold <id>{COPY}.wav, got {shown(unnamed)}; remove them or get {HOME}")
        copies = {stem.removesuffix(COPY): name for stem, name in files.items()}
        require_all(f"recordings in gt/ of the copies in {vocoder}/", copies, recordings, HOME)
        require_all(f"copies in {vocoder}/ of the recordings in gt/", recordings, copies, HOME)
        return [
            Pair(
                id=f"{vocoder}/{name}",
                utterance=name,
                speaker=name.partition("_")[0],
                vocoder=vocoder,
                bonafide=f"gt/{recordings[name]}",
                spoof=f"{vocoder}/{file}",
                split=splits[name],
                corpus="LibriTTS",
                family=FAMILIES[vocoder],
                licence=self.licence,
            )
            for name, file in copies.items()
        ]

    def _splits(self, recordings: dict[str, str]) -> dict[str, Split]:
        """Return the published split of each recording; with ``partial``, lists may name more than is there, never less."""
        places = [Path(self.lists).expanduser()] if self.lists else [self.given, self._root]
        folder = self.home_of(*places, needs="test.txt", home=LISTS, option="lists (or data; or give split=speaker)")
        found: dict[str, Split] = {}
        for split in SPLITS:
            names = [line.rpartition(".")[0] or line for line in read_lines(folder / f"{split}.txt")]
            twice = sorted(set(names) & found.keys())
            if twice:
                raise DataError(f"{split}.txt must share no name with the other lists, got {shown(twice)}; get {LISTS}")
            found |= dict.fromkeys(names, split)
        require_all("names of gt/ in train.txt, dev.txt and test.txt", recordings, found, LISTS)
        if not self.partial:
            require_all("names of the three lists in gt/", found, recordings, HOME)
        return found
