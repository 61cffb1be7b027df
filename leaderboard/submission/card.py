"""``submission.toml``: who made the explanations, with what, of what. Strict: an unknown key, a control character or a score is refused."""

import re
import tomllib
import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from xaibench.benchmark.units import UNSEEN, clean
from xaibench.errors import SubmissionError
from xaibench.registry import NAME
from xaibench.types import Need, Polarity

LINK = re.compile(r"https?://[A-Za-z0-9.-]{1,200}(:\d{1,5})?(/[A-Za-z0-9._~%/?&=#+:;,@-]{0,400})?")
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}")


def plain(text: str) -> str:
    """Return a text that can be shown anywhere.

    Raises:
        ValueError: If it holds control, direction or unassigned characters, angle brackets, or is not in Unicode's composed form.
    """
    bad = next((c for c in text if unicodedata.category(c) in UNSEEN or c in "<>"), None)
    if bad is not None:
        raise ValueError(f"text must hold no control or direction characters and no angle brackets, got U+{ord(bad):04X}; remove it")
    if unicodedata.normalize("NFC", text) != text:
        raise ValueError("text must be in composed form (NFC); normalise it")
    return text


def _link(text: str) -> str:
    if text and not LINK.fullmatch(text):
        raise ValueError("link must begin with http:// or https:// and hold no spaces; correct it")
    return text


def _name(text: str) -> str:
    if not NAME.match(text):
        raise ValueError(f"name must match {NAME.pattern}; use lower-case letters, digits and _ . -")
    return text


def _version(text: str) -> str:
    if not VERSION.fullmatch(text):
        raise ValueError(f"version must match {VERSION.pattern}; use for example 1.0")
    return text


Line = Annotated[str, StringConstraints(max_length=200, strip_whitespace=False), AfterValidator(plain)]
Paragraph = Annotated[str, StringConstraints(max_length=2000), AfterValidator(plain)]
Name = Annotated[str, AfterValidator(_name)]
Version = Annotated[str, AfterValidator(_version)]
Link = Annotated[str, StringConstraints(max_length=600), AfterValidator(_link)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Option = str | int | float | bool


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Subject(_Strict):
    """A task or detector: what it is called, and the hash of its content."""

    name: Line
    fingerprint: Digest


class Code(_Strict):
    """What a submission of code runs."""

    entry: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}:[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    """``module:Class`` in the folder ``code/``."""
    options: dict[Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,63}$")], Option] = {}


class Card(_Strict):
    """All that a submission says of itself. There is no place for a score: scores are made here."""

    schema_version: Literal[1] = 1
    track: Literal["heatmaps", "code"] = "heatmaps"
    name: Name
    version: Version
    suite: Line
    authors: Annotated[tuple[Line, ...], Field(min_length=1, max_length=50, strict=False)]
    licence: Line
    contact: Line = ""
    paper: Link = ""
    family: Line = ""
    """Kind of method, in a few words."""
    needs: Annotated[tuple[Need, ...], Field(max_length=4, strict=False)] = ()
    polarity: Polarity = "signed"
    by_recipe: bool = False
    """Whether there is one map for each mask recipe instead of one for all."""
    seeds: Annotated[tuple[int, ...], Field(max_length=100, strict=False)] = ()
    compute: Paragraph = ""
    training_data: Paragraph = ""
    task: Subject
    detector: Subject
    code: Code | None = None

    @model_validator(mode="after")
    def _code_fits_track(self) -> Self:
        if (self.code is not None) != (self.track == "code"):
            raise ValueError("[code] must be given for track 'code' and for it alone; correct track")
        return self

    @property
    def label(self) -> str:
        """Name of the row; the sign keeps it apart from every built-in explainer."""
        return f"{self.name}@{self.version}"


def read_card(content: bytes) -> Card:
    """Read ``submission.toml``.

    Raises:
        SubmissionError: If it is no UTF-8, no TOML, or breaks a rule; the message names the key.
    """
    try:
        values = tomllib.loads(content.decode("utf-8"))
        return Card.model_validate(values)
    except UnicodeDecodeError as error:
        raise SubmissionError(f"submission.toml must be UTF-8, got byte {error.start}; save it again") from error
    except ValidationError as error:
        raise SubmissionError(f"submission.toml must follow the rules of docs/submitting.md, got {_first(error)}") from error
    except (ValueError, RecursionError, OverflowError) as error:  # tomllib's own error is a ValueError
        raise SubmissionError(f"submission.toml must be TOML, got {clean(str(error))[:200]}; correct it") from error


def _first(error: ValidationError) -> str:
    """Word the first broken rule."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = clean(".".join(map(str, problem["loc"])))[:80] or "the whole"
    remedy = "; remove it, scores are made here" if problem["type"] == "extra_forbidden" else ""
    return f"{place}: {clean(str(problem['msg']))}{remedy}"


def write_card(card: Card) -> bytes:
    """Write a card as TOML."""
    return "".join(_toml(card.model_dump(mode="json", exclude_none=True))).encode()


def _toml(values: dict[str, Any], path: str = "") -> list[str]:
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {_value(value)}\n" for key, value in values.items() if key not in tables]
    for key, table in tables.items():
        name = f"{path}.{key}" if path else key
        lines += [f"\n[{name}]\n", *_toml(table, name)]
    return lines


def _value(value: Any) -> str:
    """Write a scalar or a list; the strings of JSON are basic strings of TOML, as no character beyond the common plane is escaped."""
    import json

    return json.dumps(value, ensure_ascii=False)
