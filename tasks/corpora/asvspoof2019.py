"""ASVspoof2019 LA: end-to-end synthesis and conversion, 19 attacks (Wang et al. 2020, arXiv:1911.01601). No spoof has a twin.

    LA/ASVspoof2019_LA_{train,dev,eval}/flac/LA_[TDE]_NNNNNNN.flac      LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.*.txt

There is nothing to compare a spoof with, so no localisation score exists; what depends on the detector alone is measured, and every row
says so. A clip counts if the spoof lies the gate's gap above the median of its references. The published split shares no speaker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.corpora.asvspoof_lists import HOME, Trial, candidates, protocol_path, read_protocol, recordings
from xaibench.tasks.corpora.lone import Lone, Recording
from xaibench.tasks.corpora.released import Home, require_all
from xaibench.types import Pair, Split

SPLITS: dict[str, Split] = {"train": "train", "dev": "dev", "eval": "test"}
KINDS = {
    "synthesis": ("A01", "A02", "A03", "A04", "A07", "A08", "A09", "A10", "A11", "A12", "A16"),
    "synthesis and conversion": ("A13", "A14", "A15"),
    "conversion": ("A05", "A06", "A17", "A18", "A19"),
}
FAMILIES = {attack: kind for kind, attacks in KINDS.items() for attack in attacks}


@TASKS.register("asvspoof2019")
@dataclass(frozen=True)
class ASVspoof2019(Lone):
    """108 978 spoofs of 19 attacks without twins: detector-dependent scores only."""

    title: ClassVar[str] = "ASVspoof2019 LA: synthesis and conversion, no twins"
    licence: ClassVar[str] = "ODC-BY 1.0"
    truth: ClassVar[Literal["artifact", "planted", "time", "none"]] = "none"
    recipes: ClassVar[tuple[str, ...]] = ()
    default_detector: ClassVar[str] = "spectrogram_cnn:weights=public_pairs"
    homes: ClassVar[tuple[Home, ...]] = (HOME,)
    published: ClassVar[int] = 22800 + 22296 + 63882

    def root(self) -> Path:
        """Return the folder ``LA``."""
        return self.home_of(*candidates(self.given), needs="ASVspoof2019_LA_cm_protocols", home=HOME)

    def proposed(self) -> Sequence[Pair]:
        """Return all spoofs of the three protocols.

        Raises:
            DataError: If a protocol, folder or file is missing, or an attack is not a published one.
        """
        return [self._spoof(trial, path, part) for part in SPLITS for trial, path in self._trials[part] if not trial.bonafide]

    def recordings(self) -> Sequence[Recording]:
        """Return the bona fide recordings of the train part."""
        return [Recording(t.utterance, t.speaker, path) for t, path in self._trials["train"] if t.bonafide]

    @cached_property
    def _trials(self) -> dict[str, list[tuple[Trial, str]]]:
        return {part: self._part(part) for part in SPLITS}

    def _part(self, part: str) -> list[tuple[Trial, str]]:
        trials, files = read_protocol(protocol_path(self._root, part)), recordings(self._root, part)
        require_all(f"trials of ASVspoof2019.LA.cm.{part} in ASVspoof2019_LA_{part}/flac", [t.utterance for t in trials], files, HOME)
        self.warn_of(f"files of ASVspoof2019_LA_{part}/flac are in no protocol", files.keys() - {t.utterance for t in trials})
        return [(t, files[t.utterance]) for t in trials]

    def _spoof(self, trial: Trial, path: str, part: str) -> Pair:
        if trial.attack not in FAMILIES:
            raise DataError(f"attack of {trial.utterance} must be A01 to A19, got {trial.attack!r}; restore the protocol from {HOME}")
        return Pair(
            id=trial.utterance,
            utterance=trial.utterance,
            speaker=trial.speaker,
            vocoder=trial.attack,
            bonafide="",
            spoof=path,
            split=SPLITS[part],
            seen_vocoder=part != "eval" or trial.attack in ("A16", "A19"),  # the same algorithms as A04 and A06
            corpus="ASVspoof2019 LA",
            family=FAMILIES[trial.attack],
            licence=self.licence,
        )
