"""One unit of work, its key, and the record of what became of it."""

import unicodedata
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from xaibench.types import content_hash

SCHEMA_VERSION = 1
"""Version of the records of the journal."""
KEY_SCHEMA = 1
"""Part of every key; it changes with what a key means, never with the form of a record, or all work would be lost."""

Status = Literal["ok", "error", "timeout", "invalid", "not_applicable"]
FAILED: frozenset[Status] = frozenset({"error", "timeout", "invalid"})
"""Ends that are imputed in the scores and retried on request; ``not_applicable`` is an answer, not a failure."""


LONGEST_MESSAGE = 500
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that draw nothing but may move the cursor, turn the direction of writing, or cannot be encoded."""


def clean(text: str) -> str:
    """Make one line of a plugin's words that can be printed, stored and shown: no control, direction or surrogate characters."""
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if unicodedata.category(c) not in UNSEEN)[:LONGEST_MESSAGE]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, whatever its class makes of ``str``."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a class of a plugin
        lines = []
    return lines[0] if lines else "no message"


Words = Annotated[str, BeforeValidator(clean)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClipRef(_Record):
    """Which clip of which task: the columns of every result row that do not depend on the explainer."""

    task: str
    split: str
    pair: str
    utterance: str
    speaker: str
    vocoder: str
    family: str
    seen_vocoder: bool


class Unit(_Record):
    """One explanation to be made: a clip, a detector, and an explainer with all its options."""

    clip: ClipRef
    detector: str
    explainer: str
    """Row label: name and options that differ from the defaults, without recipe."""
    recipe: str = ""
    """Recipe that the explainer was told to look for; empty for explainers that know none."""
    polarity: Literal["signed", "magnitude"] = "signed"
    """What the explainer declares."""
    threshold: float | None = None
    """Where the explainer itself divides artifact from the rest, if it does."""
    identity: dict[str, Any]
    """What the heatmap depends on, by content: hashes, options, grid and seed. Kept whole, so that a stale unit can say why."""

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of ``identity``."""
        return content_hash({"stage": "explain", "schema": KEY_SCHEMA, **self.identity})

    @property
    def seed(self) -> int:
        """Seed of the unit's generator, from the part of the identity that asks the question: clip, explainer, options and run seed.

        Code, weights and recipe are left out: a change that does not alter the method must not alter its draws, and a method that
        knows several recipes draws once for all of them.
        """
        explainer = self.identity["explainer"]
        options = {name: value for name, value in explainer["config"].items() if name != "recipe"}
        asked = [self.identity["pair"], explainer["name"], options, self.identity["stft"], self.identity["seed"]]
        return int(content_hash(asked)[:15], 16)


class Problem(_Record):
    """Why a unit has no heatmap."""

    kind: Words
    message: Words


class Cost(_Record):
    """What a unit took; counts are exact and repeatable, times and memory are the machine's."""

    seconds: float = 0.0
    forwards: int = 0
    """Clips that went through the detector."""
    backwards: int = 0
    """Clips whose log-odds were differentiated."""
    peak_rss_mb: float = 0.0
    """Peak memory of the process up to the end of the unit."""
    host: str = ""
    started_at: str = ""


class Explanation(_Record):
    """Record of a unit of the explain stage."""

    schema_version: int = SCHEMA_VERSION
    key: str
    unit: Unit
    status: Status
    problem: Problem | None = None
    heatmap_sha256: str = ""
    negative: bool = False
    """Whether any cell is below zero; where none is, both polarities are one."""
    timeout_s: float | None = None
    """Longest time that it was given; a run that gives more tries again what ended by it."""
    diagnostics: dict[str, float | None] = {}
    """What the explainer tells of its own error, by name; ``None`` where it is not finite."""
    cost: Cost = Cost()
    attempt: int = 1


class Twins(_Record):
    """Record of a clip under a detector: the log-odds of both twins."""

    schema_version: int = SCHEMA_VERSION
    key: str
    clip: ClipRef
    detector: str
    status: Status
    problem: Problem | None = None
    bonafide: float | None = None
    spoof: float | None = None
    reference: float | None = None
    """Median over the references of a clip that has no twin."""
    cost: Cost = Cost()

    @property
    def gap(self) -> float | None:
        """Log-odds by which the spoof exceeds its twin, or the median reference where the corpus has no twins."""
        real = self.reference if self.bonafide is None else self.bonafide
        return None if self.spoof is None or real is None else self.spoof - real


class Score(_Record):
    """Record of one scoring of one stored heatmap."""

    schema_version: int = SCHEMA_VERSION
    key: str
    unit: str
    """Key of the explanation."""
    stage: Literal["localization", "faithfulness", "causal", "sanity"]
    recipe: str = ""
    polarity: str
    occluder: str = ""
    status: Status = "ok"
    problem: Problem | None = None
    values: dict[str, float | None] = {}
    """Value of each metric; ``None`` where it is undefined."""
    why: dict[str, str] = {}
    """Reason of each undefined value."""
    curves: dict[str, list[float]] = {}
    """The detector's answers along a faithfulness curve; its values are read off them when the run ends."""
    timeout_s: float | None = None
    """Longest time that each explanation under a change was given, where explanations are asked for."""
    cost: Cost = Cost()
