"""minivoc: the embedded paired corpus of synthetic voices, copied by six vocoders of different kinds.

Dev, test and 20 references are shipped and never change; the train split is made by ``make.make_train``. What it is not: human speech.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from xaibench.errors import DataError
from xaibench.registry import TASKS
from xaibench.tasks.audio import tile
from xaibench.tasks.corpora.minivoc.lists import BONAFIDE, LICENCE, PACKAGE, default_train_dir, hashes, pairs_of, read_list
from xaibench.tasks.manifest import read_manifest
from xaibench.tasks.pairs import PairedTask, load_pair, load_whole, verified
from xaibench.types import CLIP_SAMPLES, Clip, Pair


@TASKS.register("minivoc")
@dataclass(frozen=True)
class Minivoc(PairedTask):
    """Synthetic speech and its vocoded twins; ``data`` is the folder of the train split, by default in the cache."""

    title: ClassVar[str] = "Synthetic voices and six vocoders (embedded)"
    licence: ClassVar[str] = LICENCE

    def listed(self) -> Sequence[Pair]:
        """Return shipped pairs, then those of the train split as published, whether made here or not."""
        return [*read_manifest(PACKAGE / "manifest.csv"), *pairs_of(read_list(PACKAGE / "train.csv"), "train")]

    def root(self) -> Path:
        """Return the folder of the shipped part."""
        return PACKAGE

    @property
    def train_dir(self) -> Path:
        """Folder of the train split."""
        return Path(self.data) if self.data else default_train_dir()

    def load(self, pair: Pair) -> Clip:
        """Load one pair (see ``load_pair``); training pairs are verified against what was made on this machine.

        Raises:
            DataError: If the train split was not made.
            DataMismatchError: If samples are not the listed ones.
        """
        if pair.split != "train":
            return super().load(pair)
        return replace(load_pair(self._found(pair), self.train_dir), pair=pair)

    def whole(self, pair: Pair) -> Clip:
        """Load one pair in its whole length, from where ``load`` finds it."""
        if pair.split != "train":
            return load_whole(pair, self.root())
        return replace(load_whole(self._found(pair), self.train_dir), pair=pair)

    def _found(self, pair: Pair) -> Pair:
        """Return a training pair with the hashes of this machine.

        Raises:
            DataError: If the train split was not made.
        """
        root = self.train_dir
        if not (root / pair.bonafide).is_file() or not (root / pair.spoof).is_file():
            found = f"got no {pair.spoof} in {root}"
            raise DataError(f"train split of minivoc must be made before use, {found}; run `xaibench data make minivoc`")
        return _as_made(pair, self._made)

    @cached_property
    def _made(self) -> dict[tuple[str, str], str]:
        return hashes(read_list(self.train_dir / "made.csv"))

    def references(self, pair: Pair) -> Tensor:
        """Return the shipped references, ``(20, 64600)``: training voices, of which dev and test hold none.

        For a training pair the references of its own speaker are replaced by repeating the others.
        """
        rows = [r for r in read_list(PACKAGE / "references.csv") if r.speaker != pair.speaker]
        count = len(read_list(PACKAGE / "references.csv"))
        return _references(tuple((r.path, r.sha256) for r in (rows * 2)[:count])).clone()


def _as_made(pair: Pair, made: dict[tuple[str, str], str]) -> Pair:
    """Put the hashes of this machine's own train split in place of the published ones."""
    return replace(
        pair,
        bonafide_sha256=made.get((pair.utterance, BONAFIDE), pair.bonafide_sha256),
        spoof_sha256=made.get((pair.utterance, pair.vocoder), pair.spoof_sha256),
    )


@lru_cache(maxsize=4)
def _references(recordings: tuple[tuple[str, str], ...]) -> Tensor:
    waveforms = {path: tile(verified(PACKAGE / path, sha256), CLIP_SAMPLES) for path, sha256 in dict.fromkeys(recordings)}
    return torch.stack([waveforms[path] for path, _ in recordings])
