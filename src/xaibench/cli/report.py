"""`xaibench report`: write the HTML leaderboard of a finished run again, or the history of a folder of runs."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="run folder, e.g. runs/<id>, or a folder of run folders, e.g. runs")],
    out: Annotated[
        Path | None,
        typer.Option(help="where to write; default: the folder report/, or report.html, inside the run; history/ in a folder of runs"),
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="one HTML file of at most 5 MB with pictures and sound inside")
    ] = False,
    samples: Annotated[int, typer.Option(min=0, help="sample pages: for each task and detector, or in all in a single file")] = 12,
) -> None:
    """Write the static leaderboard of a run, or the history of many; it opens from the disk and asks the network for nothing."""
    from xaibench.leaderboard.history import build_history, is_run

    if run.is_dir() and not is_run(run):
        if single_file:
            raise ValueError(f"--single-file must be given with one run, got the folder {run}; leave it out for a history")
        made = build_history(run, out)
    else:
        from xaibench.leaderboard.single import build_single
        from xaibench.leaderboard.site import build

        made = build_single(run, out, samples=samples) if single_file else build(run, out, samples=samples)
    typer.echo(made.resolve().as_uri())
