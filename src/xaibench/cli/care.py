"""`xaibench verify | gc | recover | merge | migrate`: what a run folder may need besides running."""

from pathlib import Path
from typing import Annotated

import typer

from xaibench.errors import DataMismatchError

Run = Annotated[Path, typer.Argument(help="run folder")]


def verify(run: Run) -> None:
    """Check a run folder whole: journal, every heatmap by its hash, tables. Exit code 8 if anything is wrong."""
    from xaibench.benchmark.care import verify as check

    faults = check(run)
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise DataMismatchError(f"run must be whole, got {len(faults)} faults in {run}; give its command again, or `xaibench recover`")
    typer.echo(f"{run} is whole")


def gc(run: Run, stale: Annotated[bool, typer.Option("--stale", help="also drop explanations that its tables do not use")] = False) -> None:
    """Remove heatmaps that no record names, and half-written files of a crash."""
    from xaibench.benchmark.care import gc as clean

    count, size = clean(run, stale)
    typer.echo(f"{count} files removed, {size / 2**20:.1f} MiB")


def recover(run: Run) -> None:
    """Salvage what can be read of a damaged journal; the same run command then goes on."""
    from xaibench.benchmark.care import recover as salvage

    count, damaged = salvage(run)
    typer.echo(f"{count} records salvaged; the damaged journal is kept as {damaged.name}")


def merge(
    out: Annotated[Path, typer.Argument(help="run folder to merge into, new or an older part")],
    runs: Annotated[list[Path], typer.Argument(help="run folders to take from")],
) -> None:
    """Put the work of several folders into one; the run command with that --out then finds it all done."""
    from xaibench.benchmark.care import merge as join

    taken, differing = join(out, runs)
    typer.echo(f"{taken} records taken" + (f"; {differing} explanations differ between folders, the first was kept" if differing else ""))


def migrate(run: Run) -> None:
    """Write down a run of an older release as this one would have; reading one needs no migration."""
    from xaibench.benchmark.care import migrate as bring_up

    told = bring_up(run)
    typer.echo("\n".join(told) or f"{run} is of this release already")
