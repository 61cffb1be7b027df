"""The record of a scored submission: all that a board shows of it in one file, under one HMAC, so that no number can be edited by hand."""

import hashlib
import hmac
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

import xaibench
from xaibench.benchmark.given import Origin
from xaibench.benchmark.results import Results
from xaibench.benchmark.summary import SummaryRow
from xaibench.benchmark.units import clean
from xaibench.errors import SubmissionError
from xaibench.leaderboard.submission.card import Card
from xaibench.tasks.cache import atomic_write

RECORD, UNITS = "record.json", "units.parquet"
KEY_VARIABLE = "XAIBENCH_SIGNING_KEY"
LEAST_KEY = 32
MAX_RECORD_BYTES = 16 << 20
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Quota(BaseModel):
    """How many submissions of an author were scored, this one included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    author: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Account that sent the package, as the forge knows it."""
    number: int
    limit: int
    days: int


class Record(BaseModel):
    """One submission under one protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    xaibench: str
    card: Card
    origin: Origin
    suite: str
    suite_sha256: str
    tier: str
    run: str
    scored_on: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    hidden: bool = False
    """Whether the masks are not public: values are rounded to their intervals, and values of single clips are kept back."""
    commitment: str = ""
    """Merkle root that was published for the hidden masks."""
    units_sha256: str = ""
    """Of ``units.parquet`` beside the record; empty where it is kept back."""
    quota: Quota
    rows: tuple[SummaryRow, ...]
    hmac: Digest | Literal[""] = ""

    @property
    def folder(self) -> Path:
        """Where the record belongs, relative to a repository of results."""
        return Path("results") / self.card.name / self.card.version / self.suite

    def content(self) -> bytes:
        """Return canonical JSON of everything but the HMAC."""
        whole = self.model_dump(mode="json", exclude={"hmac"})
        return json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()

    def signed(self, key: bytes) -> "Record":
        """Return the record with its HMAC-SHA256."""
        return self.model_copy(update={"hmac": hmac.new(key, self.content(), hashlib.sha256).hexdigest()})

    def is_genuine(self, key: bytes) -> bool:
        """Tell whether the HMAC is that of the content."""
        return hmac.compare_digest(self.hmac, hmac.new(key, self.content(), hashlib.sha256).hexdigest())


def signing_key() -> bytes | None:
    """Return the key in ``XAIBENCH_SIGNING_KEY``, at least 32 bytes in hexadecimal; ``None`` where it is not set.

    Raises:
        SubmissionError: If it is short or no hexadecimal number: a key that can be guessed signs nothing.
    """
    text = os.environ.get(KEY_VARIABLE, "")
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < LEAST_KEY:
        raise SubmissionError(
            f"{KEY_VARIABLE} must be at least {LEAST_KEY} bytes in hexadecimal, got less; make one with `openssl rand -hex 32`"
        )
    return key


def make_record(
    results: Results, card: Card, *, quota: Quota, scored_on: str, hidden: bool = False, commitment: str = "", reproduced: bool = False
) -> Record:
    """Make the record of a scored package from its run.

    Raises:
        SubmissionError: If the run does not hold the package's row.
    """
    summary = results.summary
    if card.label not in summary.origins:
        raise SubmissionError(f"run must hold the row {card.label}, got {', '.join(summary.origins) or 'no submission'}; score the package")
    rows = [row for row in summary.rows if row.explainer == card.label]
    units = (results.path / UNITS).read_bytes()
    return Record(
        xaibench=xaibench.__version__,
        card=card,
        origin=summary.origins[card.label].model_copy(update={"reproduced": reproduced}),
        suite=summary.suite,
        suite_sha256=summary.suite_sha256,
        tier=summary.tier,
        run=summary.run,
        scored_on=scored_on,
        hidden=hidden,
        commitment=commitment,
        units_sha256="" if hidden else hashlib.sha256(units).hexdigest(),
        quota=quota,
        rows=tuple(rounded(row) for row in rows if row.slice == "all") if hidden else tuple(rows),
    )


def rounded(row: SummaryRow) -> SummaryRow:
    """Round a row of a hidden split to one digit of its interval's half width: what is finer could be used to probe single masks.

    A mean without an interval is kept back.
    """
    if row.mean is None or row.low is None or row.high is None:
        return row.model_copy(update=dict.fromkeys(_VALUES))
    step = resolution(row.low, row.high)
    values = {name: None if (value := getattr(row, name)) is None else float(f"{round(value / step) * step:.10g}") for name in _VALUES}
    return row.model_copy(update=values)


_VALUES = ("mean", "low", "high", "utterance_low", "utterance_high", "speaker_low", "speaker_high")
COARSEST = 0.01
"""Step where an interval has no width."""


def resolution(low: float, high: float) -> float:
    """Return the power of ten at or under half the width of an interval."""
    half = (high - low) / 2
    return 10.0 ** math.floor(math.log10(half)) if half > 0 else COARSEST


def write_record(record: Record, results: Results, repository: str | Path) -> Path:
    """Write record, card and, unless the split is hidden, the values of single clips into a repository of results.

    Raises:
        SubmissionError: If there is a record of this submission already.
    """
    from xaibench.leaderboard.submission.card import write_card

    folder = Path(repository) / record.folder
    if (folder / RECORD).exists():
        raise SubmissionError(f"a submission must be new, got {record.card.label} again under {record.suite}; raise its version")
    text = json.dumps(record.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=True)
    if not record.hidden:
        atomic_write(folder / UNITS, (results.path / UNITS).read_bytes())
    atomic_write(folder / "submission.toml", write_card(record.card))
    atomic_write(folder / RECORD, f"{text}\n".encode())
    return folder


def read_record(path: Path) -> Record:
    """Read a record strictly.

    Raises:
        SubmissionError: If it is no record.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_RECORD_BYTES:
            raise ValueError(f"no file, or one of more than {MAX_RECORD_BYTES} bytes")
        values: dict[str, Any] = json.loads(path.read_bytes())
        return Record.model_validate_json(json.dumps(values, allow_nan=False))
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        said = clean(str(error))[:200]
        raise SubmissionError(f"{path.name} must be a record that xaibench wrote, got {said}; score the package again") from error
