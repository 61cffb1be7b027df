"""The page of all scores: one long table to sort, search and filter, by DataTables from the installed package ``itables``.

Nothing of others lies in this repository: script and style are read from the package when the page is built and stand in the page itself,
admitted by their hashes like our own.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from xaibench.errors import MissingExtraError, XaibenchError
from xaibench.leaderboard.rows import Board
from xaibench.leaderboard.words import metric

HEADINGS = (
    *("Explainer", "Kind", "Metric", "Mean", "Low", "High", "n", "Tier"),
    *("Clips", "Truth", "Replaced by", "Sign", "Task", "Detector"),
)
NUMBERS = frozenset({"Mean", "Low", "High", "n", "Tier"})
GROUP_ORDER = ("explainer", "control", "oracle")


@lru_cache(maxsize=1)
def datatables() -> tuple[Markup, Markup]:
    """Return script and style of DataTables, with the names that the page's own script uses.

    Raises:
        MissingExtraError: If ``itables`` is not installed or is a release without the offline bundle.
    """
    try:
        import itables

        folder = Path(itables.__file__).parent / "html"
        script, style = ((folder / f"dt_bundle.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    except (ImportError, OSError) as error:
        raise MissingExtraError("the page of all scores needs itables; run `pip install itables`") from error
    exported = re.search(r"export\s*\{([^}]*)\}\s*;?", script)
    name = re.search(r"([\w$]+) as default", exported[1]) if exported else None
    if exported is None or name is None:
        raise MissingExtraError("the page of all scores needs an itables whose bundle exports DataTables; run `pip install 'itables>=2.4'`")
    script = script[: exported.start()] + f"const DataTable = {name[1]};" + script[exported.end() :]
    return Markup(script.replace("</script", r"<\/script")), Markup(style)


def records(boards: Sequence[Board]) -> Iterator[list[Any]]:
    """Yield the rows of the table in the order of ``HEADINGS``; numbers in the unit in which they are shown."""
    for board in boards:
        for row in sorted(board.rows, key=lambda row: GROUP_ORDER.index(row.group)):
            for (recipe, polarity, occluder, name, part), score in row.scores.items():
                if score.mean is None:
                    continue
                words = metric(name)
                title = words.title if words.text else _title(name)
                values = [None if v is None else round(v * words.scale, max(words.digits, 2)) for v in (score.mean, score.low, score.high)]
                what = [row.title, row.group, title]
                yield [*what, *values, score.n, score.tier, part, recipe, occluder.replace("_", " "), polarity, board.task, board.detector]


def encoded(rows: Sequence[list[Any]]) -> dict[str, Any]:
    """Write each text once: ``words`` by number, and the rows with numbers in the place of texts, which the script puts back."""
    words: dict[str, int] = {}
    texts = [i for i, heading in enumerate(HEADINGS) if heading not in NUMBERS]
    coded = [[words.setdefault(v, len(words)) if i in texts else v for i, v in enumerate(row)] for row in rows]
    return {"words": list(words), "texts": texts, "rows": coded}


def _title(name: str) -> str:
    """Return the title of a metric that the board has no words for; its name where it is no metric."""
    from xaibench.benchmark.metrics.info import info

    try:
        return info(name).title
    except XaibenchError:
        return name.replace("_", " ")
