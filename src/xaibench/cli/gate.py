"""`xaibench gate`: fail a pull request that makes an explainer worse, and say so only then."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xaibench.errors import ExitCode, NothingMeasuredError, RegressionError, RunError

if TYPE_CHECKING:
    from xaibench.benchmark.gate import Gate


def gate(
    run: Annotated[Path, typer.Argument(help="run folder to judge")],
    baseline: Annotated[Path | None, typer.Option(help="run folder or frozen baseline to judge it by")] = None,
    rules: Annotated[Path | None, typer.Option(help="rules in TOML; default: two localisation scores, SRG, and the counted cost")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="let what the run lacks pass")] = False,
    junit: Annotated[Path | None, typer.Option(help="write the verdicts as JUnit XML")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write a summary in Markdown, under 65 kB")] = None,
    github: Annotated[bool, typer.Option("--github", help="annotate the log and add to the job summary of a GitHub workflow")] = False,
    freeze: Annotated[Path | None, typer.Option(help="write RUN as a baseline to this file, and judge nothing")] = None,
) -> None:
    """Judge a run by a baseline.

    Exit codes: 0 at least as good; 4 worse; 5 something vanished or was not measured; 9 not comparable (suite, clips or detector differ).
    """
    from xaibench.benchmark.gate import gate as judge
    from xaibench.benchmark.measured import freeze as write
    from xaibench.benchmark.measured import read_measured
    from xaibench.benchmark.rules import read_rules

    if freeze is not None:
        write(read_measured(run), freeze)
        typer.echo(f"baseline: {freeze}")
        return
    if baseline is None:
        raise RunError("gate must have a baseline, got none; name one with --baseline, or make one with --freeze")
    chosen = read_rules(rules)
    if allow_missing:
        chosen = chosen.model_copy(update={"missing": "allow"})
    found = judge(read_measured(baseline), read_measured(run), chosen)
    _publish(found, junit, markdown, github)
    _end(found)


def _publish(found: "Gate", junit: Path | None, markdown: Path | None, github: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from xaibench.benchmark import gate_output
    from xaibench.tasks.cache import atomic_write

    console = Console(soft_wrap=True)
    for verdict in found.verdicts:
        if verdict.answer not in ("held", "few", "new"):
            style = "red" if verdict.failed else "green"
            console.print(Text(f"{verdict.answer:>10}  {verdict.place}: {verdict.text}", style=style))
    for text in found.advice:
        console.print(Text(f"{'advice':>10}  {text}", style="yellow"))
    console.print(Text(gate_output.headline(found), style="bold"))
    if junit is not None:
        atomic_write(junit, gate_output.junit(found))
    if markdown is not None:
        atomic_write(markdown, gate_output.markdown(found).encode())
    if github:
        for line in gate_output.annotations(found):
            typer.echo(line)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(summary).open("a", encoding="utf-8") as stream:
                stream.write(gate_output.markdown(found))


def _end(found: "Gate") -> None:
    from xaibench.benchmark.gate_output import headline

    if found.exit_code == ExitCode.REGRESSION:
        raise RegressionError(f"run must be at least as good as its baseline, got {headline(found)}; mend it, or freeze a new baseline")
    if found.exit_code == ExitCode.NOTHING_MEASURED:
        raise NothingMeasuredError(f"run must hold what its baseline holds, got {headline(found)}; measure it, or give --allow-missing")
