"""Pairs of recordings and their vocoded twins: splits that share no speaker, loading, and the base of tasks that read a list of pairs."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaibench.errors import DataError, DataMismatchError, PairError
from xaibench.tasks.alignment import align, match_level
from xaibench.tasks.audio import decoded_sha256, read_audio, tile
from xaibench.tasks.manifest import SPLITS, check_files, read_manifest, write_manifest
from xaibench.tasks.warping import Alignment, aligned
from xaibench.types import CLIP_SAMPLES, Clip, Pair, Split, Task, content_hash

__all__ = [
    "PairedTask",
    "check_disjoint",
    "check_files",
    "load_pair",
    "load_whole",
    "read_manifest",
    "split_by_speaker",
    "spread",
    "verified",
    "write_manifest",
]

REFERENCES = 20
MIN_OVERLAP_SAMPLES = 1024
"""Twins that share less than one window of the default grid (64 ms) have no cell to compare."""


def check_disjoint(pairs: Iterable[Pair]) -> None:
    """Raise ``DataError`` that names speakers and utterances found in more than one split."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for p in pairs:
        splits["speaker", p.speaker].add(p.split)
        splits["utterance", p.utterance].add(p.split)
    for kind in ("speaker", "utterance"):
        crossing = sorted(f"{name!r} ({', '.join(sorted(s))})" for (k, name), s in splits.items() if k == kind and len(s) > 1)
        if crossing:
            shown = ", ".join(crossing[:5]) + (f" and {len(crossing) - 5} more" if len(crossing) > 5 else "")
            raise DataError(f"splits must share no {kind}, got {shown}; put each {kind} into one split")


def split_by_speaker(pairs: Sequence[Pair], *, dev: float = 0.1, test: float = 0.2, salt: str = "") -> list[Pair]:
    """Assign splits so that no speaker and no utterance crosses, whatever the order of the pairs.

    Speakers who share an utterance id (parallel text) stay together. Groups are ranked by the SHA-256 of their first speaker's name and
    dealt out by that rank: to test until it holds ``test`` of all speakers, then to dev, the rest to train.

    Args:
        pairs: Pairs whose splits are replaced; order is kept.
        dev: Share of speakers in 0..1; at least one group where it is positive and groups suffice.
        test: Share of speakers in 0..1, likewise.
        salt: Any text; another text gives another split.

    Raises:
        ValueError: If the shares are not in 0..1 or leave nothing for training.
        DataError: If speakers linked by common utterances are too few groups to fill the splits asked for.
    """
    if not (0 <= dev < 1 and 0 <= test < 1 and dev + test < 1):
        raise ValueError(
            f"dev and test must be shares in 0..1 that leave some for training, got {dev} and {test}; use for example 0.1 and 0.2"
        )
    groups = linked_speakers(pairs)
    shares: list[tuple[Split, float]] = [(split, share) for split, share in (("test", test), ("dev", dev)) if share > 0]  # type: ignore[misc]
    if len(groups) <= len(shares):
        found = f"{len(groups)} for {len(shares) + 1} splits"
        raise DataError(
            f"pairs must hold a group of speakers without common utterances per split, got {found}; give splits in the manifest"
        )
    ranked = sorted(groups, key=lambda group: _digest(f"{salt}|{group[0]}"), reverse=True)
    n_speakers, assigned = sum(map(len, groups)), dict[str, Split]()
    for position, (split, share) in enumerate(shares):
        reserved = len(shares) - position  # a group for each later split and for training
        dealt: list[str] = []
        while len(ranked) > reserved and (not dealt or len(dealt) < round(share * n_speakers)):
            dealt += ranked.pop()
        assigned |= dict.fromkeys(dealt, split)
    return [replace(p, split=assigned.get(p.speaker, "train")) for p in pairs]


def spread(pairs: Iterable[Pair]) -> list[Pair]:
    """Order pairs so that the first n cover as many utterances, speakers, vocoder families and vocoders as n allows.

    Rounds over utterances (themselves in rounds over speakers); each round takes from every utterance the pair whose family and vocoder
    were taken least. Ties are broken by hash, so the order depends on the content, not on the input's.
    """
    by_speaker: dict[str, dict[str, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for p in pairs:
        by_speaker[p.speaker][p.utterance].append(p)
    queues: list[list[list[Pair]]] = [
        [by_speaker[s][u] for u in sorted(by_speaker[s], key=_digest)] for s in sorted(by_speaker, key=_digest)
    ]
    rounds = [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
    taken: Counter[Any] = Counter()
    ordered = []
    while rounds:
        for waiting in rounds:
            best = min(waiting, key=lambda p: (*(taken[k] for k in _cells(p)), _digest(p.id)))
            taken.update(_cells(best))
            waiting.remove(best)
            ordered.append(best)
        rounds = [waiting for waiting in rounds if waiting]
    return ordered


def load_pair(pair: Pair, root: Path, alignment: Alignment | None = None) -> Clip:
    """Load one pair: verified, aligned by its lag, cropped to the overlap, cut or tiled to ``CLIP_SAMPLES`` with one period, level-matched.

    Args:
        pair: What to load.
        root: Folder to which its paths are relative.
        alignment: How the twins lie where one lag is not enough; ``pair.lag`` by default.

    Recently loaded clips are kept in memory (64, about 33 MB) while their files stay unchanged.

    Raises:
        DataError: If a file is missing.
        DataMismatchError: If decoded samples are not those that the manifest names.
        AudioError: If a file cannot be decoded.
        PairError: If the twins overlap by less than 64 ms after alignment.
    """
    root = Path(root)
    clip = _load(pair, root, alignment, _stamp(root / pair.bonafide), _stamp(root / pair.spoof))
    return replace(clip, bonafide=clip.bonafide.clone(), spoof=clip.spoof.clone())


def load_whole(pair: Pair, root: Path, alignment: Alignment | None = None) -> Clip:
    """Load one pair as ``load_pair`` does, but keep its whole length and neither cut nor tile; for training, which cuts at random places.

    Raises:
        DataError: If a file is missing.
        DataMismatchError: If decoded samples are not those that the manifest names.
        PairError: If the twins overlap by less than 64 ms after alignment.
    """
    for name in (pair.bonafide, pair.spoof):
        _stamp(Path(root) / name)
    bonafide, spoof = _aligned(pair, Path(root), alignment)
    return Clip(pair, bonafide, match_level(bonafide, spoof), valid_samples=bonafide.shape[-1])


def verified(path: Path, sha256: str) -> Tensor:
    """Read a recording, ``(T,)``, and check the SHA-256 of its decoded 16 kHz samples unless ``sha256`` is empty.

    Raises:
        DataMismatchError: If it differs.
    """
    waveform = read_audio(path)
    found = decoded_sha256(waveform) if sha256 else ""
    if found != sha256:
        raise DataMismatchError(
            f"{path} must decode to the listed samples (sha256 {sha256[:12]}...), got {found[:12]}...; fetch the file again"
        )
    return waveform


@dataclass(frozen=True)
class PairedTask(Task):
    """Base of corpora whose pairs come from a list: subclasses say what is listed and where it lies."""

    def listed(self) -> Sequence[Pair]:
        """Return all pairs of all splits; called once per instance."""
        raise NotImplementedError

    def root(self) -> Path:
        """Return the folder to which the pairs' paths are relative."""
        raise NotImplementedError

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raise ``DataError`` where splits share what they must not: a speaker or an utterance."""
        check_disjoint(pairs)

    def expected_sha256(self, path: str, listed: str) -> str:
        """Return the hash to which a file must decode; a corpus resampled on the user's machine may know another than the listed."""
        del path
        return listed

    @cached_property
    def _all(self) -> tuple[Pair, ...]:
        pairs = tuple(self.listed())
        self.check(pairs)
        return pairs

    @cached_property
    def _root(self) -> Path:
        return self.root()

    @cached_property
    def _split(self) -> dict[str, list[Pair]]:
        return {split: spread(p for p in self._all if p.split == split) for split in SPLITS}

    @cached_property
    def _recordings(self) -> list[Pair]:
        """One pair per bona fide recording: train first, then dev, then test."""
        firsts: dict[str, Pair] = {}
        for split in SPLITS:
            for p in self._split[split]:
                firsts.setdefault(p.bonafide, p)
        return list(firsts.values())

    def pairs(self, split: Split) -> list[Pair]:
        """Return the pairs of a split, spread so that the first n differ as much as possible (see ``spread``)."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}; use for example 'test'")
        return list(self._split[split])

    def load(self, pair: Pair) -> Clip:
        """Load one pair (see ``load_pair``)."""
        bonafide = self.expected_sha256(pair.bonafide, pair.bonafide_sha256)
        spoof = self.expected_sha256(pair.spoof, pair.spoof_sha256)
        return replace(load_pair(replace(pair, bonafide_sha256=bonafide, spoof_sha256=spoof), self._root), pair=pair)

    def whole(self, pair: Pair) -> Clip:
        """Load one pair in its whole length (see ``load_whole``); tasks with a ``load`` of their own give what that gives."""
        if type(self).load is not PairedTask.load:
            return self.load(pair)
        bonafide = self.expected_sha256(pair.bonafide, pair.bonafide_sha256)
        spoof = self.expected_sha256(pair.spoof, pair.spoof_sha256)
        return replace(load_whole(replace(pair, bonafide_sha256=bonafide, spoof_sha256=spoof), self._root), pair=pair)

    def reference_pairs(self, pair: Pair) -> list[Pair]:
        """Return the 20 listed pairs whose bona fide sides serve as references, no speaker or utterance shared with ``pair``.

        They come from the train split. Where that holds fewer than 20, dev and then test recordings follow (bona fide sides only);
        where the whole task holds fewer, the list is repeated from its start until it has 20.

        Raises:
            DataError: If the task holds no recording of another speaker.
        """
        others = [p for p in self._recordings if p.speaker != pair.speaker and p.utterance != pair.utterance][:REFERENCES]
        if not others:
            raise DataError(
                f"task {self.name!r} must hold a recording of a speaker other than {pair.speaker!r} as reference, got none; add speakers"
            )
        return [others[i % len(others)] for i in range(REFERENCES)]

    def references(self, pair: Pair) -> Tensor:
        """Return 20 bona fide recordings, ``(20, CLIP_SAMPLES)``, chosen by ``reference_pairs``."""
        chosen = self.reference_pairs(pair)
        expected = tuple((self._root / p.bonafide, self.expected_sha256(p.bonafide, p.bonafide_sha256)) for p in chosen)
        return _references(expected).clone()

    def fingerprint(self) -> str:
        """Hash version and pairs (audio hashes, lags, splits); never folder or order."""
        rows = sorted(
            ({k: v for k, v in asdict(p).items() if k not in ("bonafide", "spoof")} for p in self._all), key=lambda r: str(r["id"])
        )
        return content_hash({"name": self.name, "version": self.version, "pairs": rows})


def linked_speakers(pairs: Iterable[Pair]) -> list[list[str]]:
    """Group speakers who share an utterance id, directly or through others; each group sorted."""
    speakers: dict[str, set[str]] = defaultdict(set)
    for p in pairs:
        speakers[p.utterance].add(p.speaker)
    group: dict[str, set[str]] = {p.speaker: {p.speaker} for p in pairs}
    for linked in speakers.values():
        merged = set().union(*(group[s] for s in linked))
        for s in merged:
            group[s] = merged
    return [sorted(g) for g in {id(g): g for g in group.values()}.values()]


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _cells(p: Pair) -> tuple[tuple[str, Any], ...]:
    return ("family", p.family), ("vocoder", p.vocoder)


def _stamp(path: Path) -> tuple[int, int]:
    """Return modification time and size, so that a file that changed is read again."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} must exist, got {error.strerror}; restore it or list another") from error
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=64)
def _load(pair: Pair, root: Path, alignment: Alignment | None, *_stamps: tuple[int, int]) -> Clip:
    bonafide, spoof = _aligned(pair, root, alignment)
    overlap = bonafide.shape[-1]
    bonafide, spoof = bonafide[:CLIP_SAMPLES], spoof[:CLIP_SAMPLES]
    spoof = match_level(bonafide, spoof)
    return Clip(pair, tile(bonafide, CLIP_SAMPLES), tile(spoof, CLIP_SAMPLES), valid_samples=min(overlap, CLIP_SAMPLES))


def _aligned(pair: Pair, root: Path, alignment: Alignment | None) -> tuple[Tensor, Tensor]:
    """Read both twins, align them and cut to what they share."""
    bonafide, spoof = verified(root / pair.bonafide, pair.bonafide_sha256), verified(root / pair.spoof, pair.spoof_sha256)
    bonafide, spoof = align(bonafide, spoof, pair.lag) if alignment is None else aligned(bonafide, spoof, alignment)
    overlap = bonafide.shape[-1]
    if overlap < MIN_OVERLAP_SAMPLES:
        raise PairError(
            f"pair {pair.id!r} must overlap by {MIN_OVERLAP_SAMPLES} samples after lag {pair.lag}, got {overlap}; check lag and files"
        )
    return bonafide, spoof


@lru_cache(maxsize=4)
def _references(recordings: tuple[tuple[Path, str], ...]) -> Tensor:
    waveforms = {r: tile(verified(*r), CLIP_SAMPLES) for r in dict.fromkeys(recordings)}
    return torch.stack([waveforms[r] for r in recordings])
