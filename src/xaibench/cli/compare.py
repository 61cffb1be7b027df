"""`xaibench compare`: two runs side by side."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from xaibench.benchmark.compare import Comparison
    from xaibench.benchmark.measured import Place
    from xaibench.benchmark.statistics import Interval


def compare(
    a: Annotated[Path, typer.Argument(help="run folder or baseline before")],
    b: Annotated[Path, typer.Argument(help="run folder or baseline after")],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="metric, or a pattern such as '*'; repeat for several; default: the leading one"),
    ] = None,
    explainer: Annotated[str, typer.Option("--explainer", "-e", help="row label, or a pattern; default: all")] = "*",
    against: Annotated[str, typer.Option(help="compare --explainer of A with this row of B")] = "",
    polarity: Annotated[str, typer.Option(help="declared or magnitude")] = "declared",
    worst: Annotated[int, typer.Option(min=0, help="clips to list on which B lost most")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as one JSON object")] = False,
) -> None:
    """Compare two runs clip by clip: paired differences, wins and losses, the worst clips, and vocoder by vocoder.

    Exit code 9 if they answer different questions (suite, clips, detector), 5 if they share no measured clip.
    """
    from fnmatch import fnmatchcase

    from xaibench.benchmark import compare as comparing
    from xaibench.benchmark.measured import read_measured
    from xaibench.benchmark.summary import leading

    before, name = read_measured(a), against or explainer
    lead = leading((place.task, place.metric) for place in before.series)

    def asked(p: "Place") -> bool:
        shown = any(fnmatchcase(p.metric, m) for m in metric) if metric else p.metric == lead.get(p.task)
        return shown and fnmatchcase(p.explainer, name) and p.polarity == polarity

    found = comparing.compare(
        before,
        read_measured(b),
        asked,
        rename=(explainer, against) if against else None,
        worst=worst,
    )
    if as_json:
        typer.echo(json.dumps(_plain(found), allow_nan=False, sort_keys=True))
        return
    _print(found)


def _print(found: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:  # nobody reads a file at 80 columns
        console.width = 200

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for column in columns:
            made.add_column(column, justify="left" if column in ("explainer", "metric", "where", "clip", "vocoder") else "right")
        return made

    rows = table(
        f"{found.b} minus {found.a}", "explainer", "metric", "where", "before", "after", "change", "95 %", "p", "wins", "losses", "ties"
    )
    for row in found.rows:
        i, place = row.interval, row.place
        where = " ".join(filter(None, (place.task, place.recipe, place.occluder)))
        change = (f"{row.mean_a:.4g}", f"{row.mean_b:.4g}", f"{i.mean:+.4g}", _span(i), f"{row.p_holm:.2g}")
        rows.add_row(*map(Text, (place.explainer, place.metric, where, *change, str(row.wins), str(row.losses), str(row.ties))))
    console.print(rows)
    _print_clips(console, table, found)
    for label, places in (("only in the first", found.missing), ("only in the second", found.new)):
        if places:
            console.print(Text(f"{label}: {', '.join(sorted({place.explainer for place in places}))}", style="dim"))


def _print_clips(console: Any, table: Any, found: "Comparison") -> None:
    from rich.text import Text

    console.print(Text("p is corrected over all rows (Holm); changes are means over clusters, b minus a.", style="dim"))
    if found.worst:
        worst = table(f"worst {len(found.worst)} clips", "clip", "explainer", "metric", "before", "after")
        for c in found.worst:
            worst.add_row(*map(Text, (c.clip.pair, c.place.explainer, c.place.metric, f"{c.a:.4g}", f"{c.b:.4g}")))
        console.print(worst)
    vocoders = table("by vocoder", "vocoder", "explainer", "metric", "change", "95 %", "n")
    for place, groups in found.vocoders.items():
        for vocoder, i in groups.items():
            if i.mean:
                vocoders.add_row(*map(Text, (vocoder, place.explainer, place.metric, f"{i.mean:+.4g}", _span(i), str(i.n))))
    console.print(vocoders if vocoders.row_count else Text("no vocoder changed", style="dim"))


def _span(interval: "Interval") -> str:
    return f"{interval.low:+.3g} to {interval.high:+.3g}" if interval.low == interval.low else "–"


def _plain(found: "Comparison") -> dict[str, Any]:
    def number(value: float) -> float | None:
        return float(f"{value:.10g}") if math.isfinite(value) else None

    def span(i: "Interval") -> dict[str, Any]:
        return {"mean": number(i.mean), "low": number(i.low), "high": number(i.high), "n": i.n, "p": number(i.p)}

    def rows() -> Iterator[dict[str, Any]]:
        for row in found.rows:
            counts = {name: getattr(row, name) for name in ("wins", "losses", "ties", "only_a", "only_b", "clusters")}
            means = {"mean_a": number(row.mean_a), "mean_b": number(row.mean_b), "p_holm": number(row.p_holm)}
            by_vocoder = {vocoder: span(i) for vocoder, i in found.vocoders[row.place].items()}
            yield {**row.place._asdict(), **means, **counts, "difference": span(row.interval), "vocoders": by_vocoder}

    return {
        "a": found.a,
        "b": found.b,
        "rows": list(rows()),
        "worst": [{**c.place._asdict(), "pair": c.clip.pair, "vocoder": c.clip.vocoder, "a": c.a, "b": c.b} for c in found.worst],
        "missing": [place._asdict() for place in found.missing],
        "new": [place._asdict() for place in found.new],
    }
