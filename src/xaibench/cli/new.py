"""`xaibench new`: projects that build and pass their tests as they come out."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Scaffold the project of an explainer, or a repository of results.", no_args_is_help=True)

Where = Annotated[Path, typer.Option(help="folder in which the new folder is made")]


@app.command("explainer")
def explainer(name: Annotated[str, typer.Argument(help="name of the explainer")], out: Where = Path()) -> None:
    """Write a plugin project: one file, an entry point, contract tests, a workflow and a card."""
    from xaibench.leaderboard.submission.new import new_explainer

    folder = new_explainer(name, out)
    typer.echo(f"{folder}: pip install -e '{folder}[test]' && pytest {folder}")


@app.command("results")
def results(name: Annotated[str, typer.Argument(help="name of the repository")] = "results", out: Where = Path()) -> None:
    """Write a repository of results with its validator and workflow."""
    from xaibench.leaderboard.submission.new import new_results

    typer.echo(str(new_results(name, out)))
