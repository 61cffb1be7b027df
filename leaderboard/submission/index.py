"""``index.jsonl``: which heatmap belongs to which clip. The join is by id, never by order, and an id is compared, never used as a path."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from xaibench.benchmark.units import clean
from xaibench.errors import SubmissionError

MAX_LINE = 4000
MAX_ENTRIES = 20_000
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """One explanation: of which clip, for which recipe, and the SHA-256 of its ``.npy`` file; or why there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    recipe: Annotated[str, StringConstraints(max_length=80)] = ""
    status: Literal["ok", "failed"] = "ok"
    sha256: Digest | Literal[""] = ""
    why: Annotated[str, AfterValidator(clean)] = ""


Key = tuple[str, str]
"""Id of the clip and recipe."""


def read_index(content: bytes) -> dict[Key, Entry]:
    """Read the index.

    Raises:
        SubmissionError: If a line is no entry, or two lines are about the same clip and recipe.
    """
    found: dict[Key, Entry] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        if len(found) >= MAX_ENTRIES:
            raise SubmissionError(f"index.jsonl must have at most {MAX_ENTRIES} entries, got more; split the task")
        entry = _entry(line, number)
        if (entry.id, entry.recipe) in found:
            raise SubmissionError(f"ids in index.jsonl must be distinct, got {clean(entry.id)!r} again in line {number}; remove one")
        found[entry.id, entry.recipe] = entry
    if not found:
        raise SubmissionError("index.jsonl must name at least one heatmap, got none; see docs/submitting.md")
    return found


def _entry(line: bytes, number: int) -> Entry:
    if len(line) > MAX_LINE:
        raise SubmissionError(f"lines of index.jsonl must have at most {MAX_LINE} bytes, got {len(line)} in line {number}; shorten it")
    try:
        entry = Entry.model_validate(json.loads(line.decode("utf-8"), object_pairs_hook=_no_twice), strict=False)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = clean(".".join(map(str, problem["loc"])))[:80]
        raise SubmissionError(
            f"line {number} of index.jsonl must be an entry, got {place}: {clean(problem['msg'])}; see docs/submitting.md"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SubmissionError(f"line {number} of index.jsonl must be JSON, got {clean(str(error))[:120]}; correct it") from error
    if (entry.status == "ok") != bool(entry.sha256):
        raise SubmissionError(f"line {number} of index.jsonl must have sha256 exactly where status is ok, got {entry.status}; correct it")
    return entry


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def write_index(entries: Iterable[Entry]) -> bytes:
    """Write entries, sorted by id and recipe."""
    ordered = sorted(entries, key=lambda entry: (entry.id, entry.recipe))
    lines = (json.dumps(entry.model_dump(exclude_defaults=True), sort_keys=True, separators=(",", ":")) for entry in ordered)
    return "".join(f"{line}\n" for line in lines).encode()
