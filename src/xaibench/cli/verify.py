"""`xaibench verify`: is a revealed hidden split the one that was promised?"""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    reveal: Annotated[Path, typer.Option("--reveal", help="salts and hashes of the masks, as published when the split retires")],
    commitment: Annotated[Path, typer.Option(help="what was published first")] = Path("commitment.json"),
    task: Annotated[str, typer.Option("--task", "-t", help="task whose audio is at hand: its masks are made again and compared")] = "",
) -> None:
    """Check the masks of a retired split against the Merkle root that was published before anybody was scored."""
    from xaibench.leaderboard.submission.commitment import read_commitment, read_reveal
    from xaibench.leaderboard.submission.commitment import verify as check
    from xaibench.registry import TASKS

    promised = read_commitment(commitment)
    check(promised, read_reveal(reveal), TASKS.load(task) if task else None)
    typer.echo(f"{promised.masks} masks of {promised.task} are those promised" + (", and those of the audio" if task else ""))
