"""`xaibench report`: write the HTML leaderboard of a finished run again."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="run folder, e.g. runs/<id>")],
    out: Annotated[Path | None, typer.Option(help="where to write; default: the folder report/, or report.html, inside the run")] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="one HTML file of at most 5 MB with pictures and sound inside")
    ] = False,
    samples: Annotated[int, typer.Option(min=0, help="sample pages: for each task and detector, or in all in a single file")] = 12,
) -> None:
    """Write the static leaderboard of a run; it opens from the disk and asks the network for nothing."""
    from xaibench.leaderboard.single import build_single
    from xaibench.leaderboard.site import build

    made = build_single(run, out, samples=samples) if single_file else build(run, out, samples=samples, quality=True)
    typer.echo(made.resolve().as_uri())
