"""`xaibench vocode`: a paired corpus out of anyone's recordings."""

import os
from pathlib import Path
from typing import Annotated

import typer


def vocode(
    speech: Annotated[list[Path], typer.Argument(help="folders of recordings, in subfolders or not")],
    vocoder: Annotated[list[str], typer.Option("--vocoder", "-v", help="NAME or NAME:option=value,...; repeat for several")],
    out: Annotated[Path, typer.Option(help="folder of the corpus; the same command goes on where it stopped")] = Path("pairs"),
    jobs: Annotated[int | None, typer.Option(min=1, help="processes; default: one for each processor")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first recordings, to try it out")] = None,
    per_recording: Annotated[int, typer.Option(min=0, help="vocoders drawn for each recording or piece; 0 for all")] = 0,
    seconds: Annotated[float, typer.Option(min=0.0, help="cut recordings into pieces of this length; 0 keeps them whole")] = 0.0,
    train: Annotated[bool, typer.Option("--train", help="put everything into the train split, instead of splitting by speaker")] = False,
) -> None:
    """Copy every recording by every vocoder and write the manifest; then run with --task folder --data OUT."""
    from xaibench.cli.progress import bar
    from xaibench.tasks.vocode import Selection
    from xaibench.tasks.vocode import vocode as make

    selection = Selection(per_recording, seconds, train)

    with bar("vocode") as advance:
        done = make(speech, vocoder, out, jobs=jobs or os.cpu_count() or 1, limit=limit, progress=advance, selection=selection)
    for name, why in list(done.failed.items())[:10]:
        typer.echo(f"not copied: {name}: {why}", err=True)
    if len(done.failed) > 10:
        typer.echo(f"not copied: {len(done.failed) - 10} more", err=True)
    typer.echo(f"{done.manifest}: {done.pairs} pairs, {done.made} made now, {done.kept} were there; next: --task folder --data {out}")
