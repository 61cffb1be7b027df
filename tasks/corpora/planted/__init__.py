"""planted: recordings with an artifact in a known region of time and frequency, and the truth that goes with it.

The bona fide side is the recording, the spoof side the same recording with one of six artifacts (``kinds.py``). Place, duration, band and
level are drawn from a seed that is the hash of recording, kind and grade. Nothing is shipped but recordings and detectors: clips are made
when they are loaded. What the causal checks of ``xaibench check planted`` say of each kind is in docs/planted.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from xaibench.errors import PairError, UnknownNameError
from xaibench.registry import TASKS
from xaibench.tasks.audio import tile
from xaibench.tasks.corpora.planted.batches import PlantedBatches
from xaibench.tasks.corpora.planted.kinds import KINDS, Kind
from xaibench.tasks.corpora.planted.plant import GRADES, Grade, Planted, plant
from xaibench.tasks.corpora.planted.speech import Speech, speech_of
from xaibench.tasks.detectors.batches import BatchRecipe
from xaibench.tasks.pairs import PairedTask, verified
from xaibench.types import CLIP_SAMPLES, SAMPLE_RATE, Clip, Pair, content_hash

DEFAULT: tuple[Kind, ...] = ("plateau", "texture", "tones")
"""Kinds that pass every causal check under both shipped detectors (docs/planted.md has the figures); ``clicks``, for which they were
trained too, misses by a hundredth."""
SHORTEST_SAMPLES = SAMPLE_RATE


@TASKS.register("planted")
@dataclass(frozen=True)
class PlantedTask(PairedTask):
    """Recordings with a planted artifact; ``speech`` names a task, or ``folder`` for all recordings under ``data``."""

    title: ClassVar[str] = "Recordings with artifacts planted in known regions"
    licence: ClassVar[str] = "that of the recordings"
    truth = "planted"
    recipes = ("planted-v1",)
    default_detector = "spectrogram_cnn:weights=planted"

    speech: str = "minivoc"
    kind: str = "default"
    """``default``, ``all``, or names joined by ``+``."""
    grade: str = "both"
    """``subtle``, ``coarse`` or ``both``."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that are planted.

        Raises:
            UnknownNameError: If a name is no kind.
        """
        named: dict[str, tuple[str, ...]] = {"default": DEFAULT, "all": KINDS}
        wanted = named.get(self.kind) or tuple(self.kind.split("+"))
        if unknown := [name for name in wanted if name not in KINDS]:
            raise UnknownNameError(f"kind must be default, all or some of {'+'.join(KINDS)}, got {unknown[0]!r}; correct the name")
        return tuple(kind for kind in KINDS if kind in wanted)

    @property
    def grades(self) -> tuple[Grade, ...]:
        """The grades that are planted.

        Raises:
            UnknownNameError: If there is no such grade.
        """
        if self.grade not in (*GRADES, "both"):
            raise UnknownNameError(f"grade must be subtle, coarse or both, got {self.grade!r}; leave it out for both")
        return GRADES if self.grade == "both" else (self.grade,)  # type: ignore[return-value]

    def listed(self) -> Sequence[Pair]:
        """Return a pair for each recording, kind and grade."""
        return [_pair(p, kind, grade) for p in self._speech.recordings for kind in self.kinds for grade in self.grades]

    def root(self) -> Path:
        """Return the folder of the recordings."""
        return self._speech.root

    def expected_sha256(self, path: str, listed: str) -> str:
        """Return the hash to which a recording must decode on this machine."""
        return self._speech.expected_sha256(path, listed)

    def load(self, pair: Pair) -> Clip:
        """Read the recording, plant, and tile both sides to length alike; ``Clip.planted`` marks the region.

        Raises:
            DataError: If the recording is missing or not the listed one.
            PairError: If it is shorter than a second.
        """
        recording = self.recording(pair)
        planted = self.planted(pair, recording)
        bonafide, spoof = (tile(side, CLIP_SAMPLES) for side in (recording, recording + planted.artifact))
        return Clip(pair, bonafide, spoof, valid_samples=len(recording), planted=planted.region.mask(CLIP_SAMPLES))

    def recording(self, pair: Pair) -> torch.Tensor:
        """Return the recording of a pair, (T,), cut to the detector's length and not tiled.

        Raises:
            DataError: If it is missing or not the listed one.
            PairError: If it is shorter than a second.
        """
        recording = verified(self._root / pair.bonafide, self.expected_sha256(pair.bonafide, pair.bonafide_sha256))[:CLIP_SAMPLES]
        if len(recording) < SHORTEST_SAMPLES:
            raise PairError(f"{pair.bonafide} must last a second to be planted in, got {len(recording) / SAMPLE_RATE:.2f} s; leave it out")
        return recording

    def planted(self, pair: Pair, recording: torch.Tensor) -> Planted:
        """Return the artifact of a pair, with what is known of it."""
        kind, grade = pair.family, pair.vocoder.removeprefix(f"{pair.family}_")
        seed = int(content_hash({"planted": self.version, "recording": pair.bonafide_sha256, "kind": kind, "grade": grade})[:15], 16)
        return plant(recording, kind, grade, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]

    def training_batches(self, recipe: BatchRecipe, seed: int) -> PlantedBatches:
        """Return batches for training a detector: new artifacts in every batch, beside parts of them and decoys."""
        return PlantedBatches(self, recipe, seed)

    @cached_property
    def _speech(self) -> Speech:
        return speech_of(self.speech, self.data)


def _pair(recording: Pair, kind: Kind, grade: Grade) -> Pair:
    """Return the pair of a recording and an artifact; the spoof has no hash, since it is made of the recording by code of this version."""
    name = f"{kind}_{grade}"
    return replace(
        recording,
        id=f"{recording.utterance}-{name}",
        vocoder=name,
        family=kind,
        spoof=f"{recording.bonafide}#{name}",
        spoof_sha256="",
        lag=0,
        seen_vocoder=True,
    )
