"""`xaibench check`: does an explainer or a detector keep the contract?"""

from typing import Annotated

import typer

from xaibench.errors import PluginError
from xaibench.registry import DETECTORS, EXPLAINERS


def check(
    name: Annotated[
        str, typer.Argument(help="explainer or detector, NAME or NAME:option=value,...; or `metrics` for the audit of all metrics")
    ],
    detector: Annotated[str, typer.Option(help="detector to explain while checking")] = "spectrogram_cnn",
) -> None:
    """Test shape, finiteness, untouched state, repeatability, batch invariance and silence, and list every broken rule."""
    from xaibench.benchmark.check import check_detector, check_explainer

    if name == "metrics":
        _metrics()
        return
    plain = name.partition(":")[0]
    if plain in DETECTORS.names():
        findings = check_detector(DETECTORS.load(name))
    else:
        findings = check_explainer(EXPLAINERS.load(name), DETECTORS.load(detector))
    if findings:
        raise PluginError(f"{plain} breaks {len(findings)} rule(s) of the contract: " + "; ".join(map(str, findings)))
    typer.echo(f"{plain} keeps the contract")


def _metrics() -> None:
    """Audit every metric against the bounds that were written down."""
    from rich.console import Console
    from rich.table import Table

    from xaibench.benchmark.audit.run import audit

    findings = audit()
    table = Table("metric", "check", "expected", "got", "", box=None, pad_edge=False)
    for f in findings:
        table.add_row(f.metric, f.check, f.expected, f.got, "ok" if f.passed and not f.remark else f.remark or "FAILED")
    Console().print(table)
    failed = [f for f in findings if not f.passed]
    if failed:
        told = "; ".join(f"{f.metric}, {f.check}: expected {f.expected}, got {f.got}" for f in failed[:5])
        raise PluginError(f"metrics must keep their bounds, got {len(failed)} findings: {told}; see docs/metrics.md")
    typer.echo(f"{len(findings)} checks of {len({f.metric for f in findings})} metrics, all within their bounds")
