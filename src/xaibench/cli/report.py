"""`xaibench report`: write the HTML leaderboard of a finished run again."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="run folder, e.g. runs/<id>")],
    out: Annotated[Path | None, typer.Option(help="where to write; default: the folder report/ inside the run")] = None,
) -> None:
    """Write the static leaderboard of a run; it opens from the disk and asks the network for nothing."""
    from xaibench.leaderboard.site import build

    typer.echo(build(run, out).resolve().as_uri())
