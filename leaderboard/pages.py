"""Templates to HTML: everything from outside is cleaned and escaped, and no page may load or run what it did not bring along.

Jinja2 escapes always, whatever the name of a template; ``finalize`` also takes control and bidirectional characters out of every value.
Script and style stand in the page itself and are admitted by their SHA-256 in the Content-Security-Policy, because the source ``'self'``
does not admit scripts of pages that are opened from a disk.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from xaibench.leaderboard.rows import number
from xaibench.leaderboard.words import TIER_RULE, clean

HERE = Path(__file__).parent


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the template environment."""
    made = Environment(
        autoescape=True,
        loader=FileSystemLoader(HERE / "templates"),
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["short"] = short
    made.filters["json"] = json_attribute
    made.globals["number"] = number
    made.globals["tier_rule"] = TIER_RULE
    made.globals["out_rule"] = out_rule()
    for name, variable in (("style.css", "style"), ("board.js", "script")):
        text = static(name)
        made.globals[variable] = Markup(text)
        made.globals[f"{variable}_hash"] = Markup(source_hash(text))
    return made


def static(name: str) -> str:
    """Return a script or style of ours."""
    return (HERE / "static" / name).read_text(encoding="utf-8")


def render(template: str, **values: Any) -> bytes:
    """Render a page to UTF-8."""
    return environment().get_template(template).render(**values).encode()


def json_attribute(value: Any) -> Markup:
    """Write data as JSON for an attribute, which the script reads; strings are cleaned, everything is escaped.

    >>> json_attribute({"name": "</script>"})
    Markup('{&#34;name&#34;:&#34;&lt;/script&gt;&#34;}')
    """
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return escape(json.dumps(_cleaned(plain), separators=(",", ":"), allow_nan=False))


def _cleaned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {clean(k): _cleaned(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(v) for v in value]
    return clean(value) if isinstance(value, str) else value


def source_hash(text: str) -> str:
    """Return the source expression of an inline script or style: ``'sha256-...'`` (Content Security Policy Level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def short(text: object, length: int) -> str:
    """Clean outside text and cut it to ``length`` characters."""
    line = clean(text)
    return line if len(line) <= length else line[: length - 1] + "…"


def out_rule() -> str:
    """Say why a faithfulness score is greyed."""
    from xaibench.benchmark.metrics.faithfulness import OUT_OF_RANGE_LIMIT

    share = f"{100 * OUT_OF_RANGE_LIMIT:.0f} %"
    return f"more than {share} of the answers to this row's masked clips leave the range of the run's clips, so the score says little."


def _finalize(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, (Markup, int, float)) else clean(value)
