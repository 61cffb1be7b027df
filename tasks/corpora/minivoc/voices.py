"""Who says what: voices and sentences of each split, and the plan of utterances that follows from them.

``voices.csv`` gives every voice a split; no variant serves two splits. ``texts.txt`` gives every sentence a split; training sentences join
one opening and one ending. The plan is a pure function of the two files.
"""

import csv
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from xaibench.types import Split

TRAIN_UTTERANCES_PER_VOICE = 16
N_REFERENCES = 20
SEEN_VOCODERS = ("world", "griffin_lim", "lpc", "harmonic_noise")
UNSEEN_VOCODERS = ("pghi", "channel_vocoder")
"""Never used in training, kept for the question whether an explainer knows more than the vocoders it saw."""


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker; pitch (0-99) and words per minute are espeak-ng's and 0 for flite."""

    id: str
    split: Split
    engine: str
    language: str
    accent: str
    variant: str
    pitch: int
    words_per_minute: int


@dataclass(frozen=True)
class Utterance:
    """A sentence by a voice."""

    id: str
    voice: Voice
    text: str


def generator(*names: str) -> np.random.Generator:
    """Return a generator whose seed is the SHA-256 of the names."""
    digest = hashlib.sha256("|".join(("minivoc", *names)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


@lru_cache(maxsize=1)
def voices() -> tuple[Voice, ...]:
    """Return all voices in the order of ``voices.csv``."""
    with files(__package__).joinpath("voices.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return tuple(
        Voice(
            r["id"],
            r["split"],  # type: ignore[arg-type]
            r["engine"],
            r["language"],
            r["accent"],
            r["variant"],
            int(r["pitch"] or 0),
            int(r["words_per_minute"] or 0),
        )
        for r in rows
    )


@lru_cache(maxsize=1)
def texts() -> dict[tuple[str, str, str], tuple[str, ...]]:
    """Return the sentences by (split, language, part); part is ``whole``, ``first`` or ``second``."""
    found: dict[tuple[str, str, str], list[str]] = {}
    current: list[str] = []
    for line in files(__package__).joinpath("texts.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            split, language, part = line.strip("[]").split()
            current = found.setdefault((split, language, part), [])
        elif line and not line.startswith("#"):
            current.append(line)
    return {key: tuple(lines) for key, lines in found.items()}


def sentences(split: Split, language: str) -> list[str]:
    """Return the sentences of a split in one language; training ones in an order fixed by the language's name."""
    if split != "train":
        return list(texts()[split, language, "whole"])
    joined = [f"{a} {b}" for a in texts()["train", language, "first"] for b in texts()["train", language, "second"]]
    return [joined[i] for i in generator("sentences", language).permutation(len(joined))]


@lru_cache(maxsize=3)
def plan(split: Split) -> tuple[Utterance, ...]:
    """Return the utterances of a split, voices taking turns, so that any beginning of the train split is balanced."""
    speakers = [v for v in voices() if v.split == split]
    count = TRAIN_UTTERANCES_PER_VOICE if split == "train" else 2
    left = {language: iter(sentences(split, language)) for language in sorted({v.language for v in speakers})}
    spoken = {v.id: [next(left[v.language]) for _ in range(count)] for v in speakers}
    return tuple(Utterance(f"{v.id}-{n + 1:02d}", v, spoken[v.id][n]) for n in range(count) for v in speakers)


def reference_utterances() -> tuple[Utterance, ...]:
    """Return the training utterances whose recordings are shipped as references: the first of every other voice, then the rest."""
    first = plan("train")[: sum(v.split == "train" for v in voices())]
    return (*first[::2], *first[1::2])[:N_REFERENCES]
