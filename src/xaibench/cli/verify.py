"""`xaibench verify`: is a run folder whole, or a revealed hidden split the one that was promised?"""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    run: Annotated[Path | None, typer.Argument(help="run folder: its journal, every heatmap by its hash, its tables")] = None,
    reveal: Annotated[
        Path | None, typer.Option("--reveal", help="salts and hashes of the masks, as published when the split retires")
    ] = None,
    commitment: Annotated[Path, typer.Option(help="what was published first")] = Path("commitment.json"),
    task: Annotated[str, typer.Option("--task", "-t", help="task whose audio is at hand: its masks are made again and compared")] = "",
) -> None:
    """Check a run folder whole (exit code 8 if it is not), or the masks of a retired split against the Merkle root published before."""
    if run is not None:
        from xaibench.cli.care import verify as verify_run

        verify_run(run)
        return
    if reveal is None:
        raise ValueError("verify must be given a run folder or --reveal, got neither; write for example `xaibench verify runs/<id>`")
    from xaibench.leaderboard.submission.commitment import read_commitment, read_reveal
    from xaibench.leaderboard.submission.commitment import verify as check
    from xaibench.registry import TASKS

    promised = read_commitment(commitment)
    check(promised, read_reveal(reveal), TASKS.load(task) if task else None)
    typer.echo(f"{promised.masks} masks of {promised.task} are those promised" + (", and those of the audio" if task else ""))
