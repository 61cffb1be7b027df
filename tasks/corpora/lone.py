"""Base of corpora whose spoofs have no twins: clips are spoofs alone, references are the corpus's own recordings of other speakers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from xaibench.errors import DataError
from xaibench.tasks.audio import tile
from xaibench.tasks.corpora.released import Released
from xaibench.tasks.facts import file_sha256
from xaibench.tasks.pairs import REFERENCES, verified
from xaibench.types import CLIP_SAMPLES, Clip, Pair, content_hash


@dataclass(frozen=True)
class Recording:
    """A bona fide recording of the train part."""

    utterance: str
    speaker: str
    path: str
    """Relative to the root."""


@dataclass(frozen=True)
class Lone(Released):
    """Base of readers without twins; subclasses list spoofs as pairs without ``bonafide`` and say which recordings they have."""

    def recordings(self) -> Sequence[Recording]:
        """Return the bona fide recordings of the train part."""
        raise NotImplementedError

    @cached_property
    def _ranked(self) -> list[Recording]:
        """Recordings of the train part by hash, so that the first ones are nobody's choice."""
        return sorted(self.recordings(), key=lambda r: sha256(r.utterance.encode()).digest())

    def complete(self, pair: Pair) -> Pair:
        """Return the pair with the hash of its spoof."""
        return pair if pair.spoof_sha256 else replace(pair, spoof_sha256=file_sha256(self._root / pair.spoof))

    def load(self, pair: Pair) -> Clip:
        """Load one spoof; its twin is an empty tensor."""
        pair = self.complete(pair)
        waveform = verified(self._root / pair.spoof, pair.spoof_sha256)
        return Clip(pair, torch.zeros(0), tile(waveform[:CLIP_SAMPLES], CLIP_SAMPLES), min(len(waveform), CLIP_SAMPLES))

    def references(self, pair: Pair) -> Tensor:
        """Return 20 bona fide recordings of the train part by other speakers, ``(20, CLIP_SAMPLES)``; repeated where there are fewer.

        Raises:
            DataError: If there is none.
        """
        chosen = [r for r in self._ranked if r.speaker != pair.speaker][:REFERENCES]
        if not chosen:
            raise DataError(f"{self.name} must hold a training recording of a speaker other than {pair.speaker!r}, got none; complete it")
        key = tuple(r.path for r in chosen)
        known: dict[tuple[str, ...], Tensor] = self.__dict__.setdefault("_heard", {})
        if key not in known:
            known.clear()  # one set at a time, 5 MB
            known[key] = torch.stack([tile(verified(self._root / path, ""), CLIP_SAMPLES) for path in key])
        return known[key][[i % len(key) for i in range(REFERENCES)]]

    def fingerprint(self) -> str:
        """Hash version, spoofs and recordings; never folder or order."""
        recordings = sorted((r.utterance, r.speaker) for r in self._ranked)
        return content_hash({"spoofs": super().fingerprint(), "recordings": recordings})
