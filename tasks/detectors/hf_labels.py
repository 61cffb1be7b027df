"""Which classes of somebody else's classifier mean spoof: by their names where these leave no doubt, else as the user says."""

import re
from collections.abc import Mapping
from typing import Literal

from xaibench.errors import WeightsError

SPOOF = frozenset({"spoof", "spoofed", "fake", "deepfake", "synthetic", "synthesized", "generated", "vocoded", "tts", "vc", "ai", "cloned"})
BONAFIDE = frozenset({"bonafide", "bona", "fide", "real", "genuine", "human", "authentic", "natural"})
NEGATIONS = frozenset({"not", "non", "no", "un"})


def spoof_labels(labels: Mapping[int, str], given: str = "") -> tuple[tuple[int, ...], int]:
    """Return the numbers of the classes that mean spoof, and the sign of the output where there is only one class.

    Args:
        labels: Names of the classes by number.
        given: Names that mean spoof, joined by ``+``; empty to go by the names.

    Raises:
        WeightsError: If a given name is none, or all classes are given, or the names are ambiguous.
    """
    if given:
        return _given(labels, given.split("+")), 1
    kinds = {number: _kind(label) for number, label in labels.items()}
    spoof = tuple(number for number, kind in kinds.items() if kind == "spoof")
    bonafide = tuple(number for number, kind in kinds.items() if kind == "bonafide")
    if len(labels) == 1 and (spoof or bonafide):
        return tuple(labels), 1 if spoof else -1
    if len(labels) == 2 and len(spoof) + len(bonafide) == 1:
        return spoof or tuple(set(labels) - set(bonafide)), 1
    if spoof and bonafide and len(spoof) + len(bonafide) == len(labels):
        return spoof, 1
    names = ", ".join(labels[n] for n in sorted(labels))
    raise WeightsError(f"labels must tell which one means spoof, got {names}; say so with spoof=LABEL, several joined by +")


def _given(labels: Mapping[int, str], names: list[str]) -> tuple[int, ...]:
    """Return the numbers of named classes."""
    chosen = tuple(sorted(number for number, label in labels.items() if label in names))
    if len(chosen) < len(set(names)) or (len(chosen) == len(labels) > 1):
        known = ", ".join(labels[n] for n in sorted(labels))
        raise WeightsError(f"spoof must name some of the labels ({known}) and not all, got {'+'.join(names)!r}; use one of them")
    return chosen


def _kind(label: str) -> Literal["spoof", "bonafide", "unknown"]:
    """Tell what a class means by the words of its name; a negated name is not guessed at."""
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", label).lower()))
    if words & NEGATIONS or bool(words & SPOOF) == bool(words & BONAFIDE):
        return "unknown"
    return "spoof" if words & SPOOF else "bonafide"
