"""`xaibench check`: does an explainer or a detector keep the contract, and does a planted task keep its promise?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from xaibench.errors import PluginError, UnknownNameError
from xaibench.registry import DETECTORS, EXPLAINERS, TASKS


def check(
    name: Annotated[
        str,
        typer.Argument(
            help="explainer, detector or planted task, NAME or NAME:option=value,...; or `metrics` for the audit of all metrics"
        ),
    ],
    detector: Annotated[str, typer.Option(help="detector to explain while checking; default: spectrogram_cnn, or the task's own")] = "",
    clips: Annotated[int | None, typer.Option(min=2, help="planted tasks: clips per kind of artifact; all by default")] = None,
    explained: Annotated[int | None, typer.Option(min=0, help="planted tasks: clips per kind that are explained; as --clips")] = None,
    causal: Annotated[int, typer.Option(min=0, help="planted tasks: clips per kind whose causal truth is measured as well")] = 0,
    out: Annotated[Path | None, typer.Option(help="planted tasks: file for the figures, as JSON")] = None,
) -> None:
    """Test shape, finiteness, untouched state, repeatability, batch invariance and silence, and list every broken rule.

    For a planted task: test causally that the planted regions are what the detector uses (docs/planted.md).
    """
    from xaibench.benchmark.check import check_detector, check_explainer

    if name == "metrics":
        _metrics()
        return
    plain = name.partition(":")[0]
    if plain in TASKS.names():
        _check_planted(name, detector, {"clips": clips, "explained": explained, "measured": causal}, out)
        return
    if plain in DETECTORS.names():
        findings = check_detector(DETECTORS.load(name))
    else:
        findings = check_explainer(EXPLAINERS.load(name), DETECTORS.load(detector or "spectrogram_cnn"))
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


def _check_planted(name: str, detector: str, counts: dict[str, Any], out: Path | None) -> None:
    """Run the causal checks of every kind that the task plants, print their figures, and fail if a kind does."""
    import json

    from xaibench.benchmark.planted import verify
    from xaibench.tasks.cache import atomic_write
    from xaibench.tasks.corpora.planted import PlantedTask
    from xaibench.tasks.planted_checks import sentence, summary

    task = TASKS.load(name)
    if not isinstance(task, PlantedTask):
        raise UnknownNameError(f"name must be an explainer, a detector or a planted task, got task {name!r}; check its detector instead")
    model = DETECTORS.load(detector or task.default_detector).eval().requires_grad_(False)
    say = typer.echo
    evidence = verify(task, model, **counts, progress=lambda found: say(sentence(found)))
    if out:
        atomic_write(out, (json.dumps(summary(evidence), indent=1) + "\n").encode())
    failed = [found.kind for found in evidence if found.failures()]
    if failed:
        raise PluginError(f"{name} must plant only what {model.name} uses, got {len(failed)} kind(s) that fail: {', '.join(failed)}")
    typer.echo(f"{name} keeps its promise on {model.name}: {len(evidence)} kinds verified")
