"""`xaibench data`: bring audio that is not in the package to this machine, checked by hash."""

from pathlib import Path
from typing import Annotated

import typer

from xaibench.errors import UnknownNameError

app = typer.Typer(help="Get, make and check corpora.", no_args_is_help=True)


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="public_pairs")],
    source: Annotated[Path | None, typer.Option("--from", help="take files that are already in this folder instead of downloading")] = None,
    dest: Annotated[Path | None, typer.Option(help="where to put them; default: the cache (XAIBENCH_CACHE)")] = None,
    include_unnamed: Annotated[
        bool, typer.Option("--include-unnamed", help="also the files whose corpus their home does not name")
    ] = False,
) -> None:
    """Download a corpus from its homes: hash-checked, resampled to 16 kHz, resumable."""
    from xaibench.cli.progress import bar

    if name != "public_pairs":
        raise UnknownNameError(
            f"name must be a corpus that can be fetched (public_pairs), got {name!r}; `xaibench info task {name}` says where others live"
        )
    from xaibench.tasks.corpora.download import get_public_pairs
    from xaibench.tasks.corpora.public_pairs import read_list

    with bar(f"get {name}") as advance:
        fetched = get_public_pairs(dest, source_dir=source, progress=advance, files=read_list() if include_unnamed else None)
    counts = f"{len(fetched.present)} were there, {len(fetched.added)} came"
    tolerated = f", {len(fetched.tolerated)} round differently here (noted in its manifest)" if fetched.tolerated else ""
    typer.echo(f"{name} is ready in {fetched.root}: {counts}{tolerated}")


@app.command("make")
def make(
    name: Annotated[str, typer.Argument(help="minivoc")] = "minivoc",
    jobs: Annotated[int, typer.Option(help="processes")] = 2,
    limit: Annotated[int | None, typer.Option(help="only the first utterances, to try it out")] = None,
    out: Annotated[Path | None, typer.Option(help="where to put them; default: the cache (XAIBENCH_CACHE)")] = None,
) -> None:
    """Make the train split of the embedded corpus again (needs espeak-ng and the extra "vocode")."""
    from xaibench.cli.progress import bar

    if name != "minivoc":
        raise UnknownNameError(f"name must be a corpus that can be made (minivoc), got {name!r}; `xaibench list tasks` shows all")
    from xaibench.tasks.corpora.minivoc.lists import default_train_dir
    from xaibench.tasks.corpora.minivoc.make import make_train

    with bar(f"make {name}") as advance:
        made = make_train(out, jobs=jobs, limit=limit, progress=advance)
    typer.echo(f"the train split of {name} is ready in {out or default_train_dir()}: {len(made)} files")


@app.command("convert")
def convert(
    name: Annotated[str, typer.Argument(help="partialspoof")],
    folder: Annotated[Path, typer.Argument(help="folder of the corpus, or its segment_labels/")],
    out: Annotated[Path | None, typer.Option(help="where the converted labels go; default: beside the released ones")] = None,
) -> None:
    """Turn the pickled labels of a corpus into plain arrays, once; the pickle is read symbol by symbol and never executed."""
    if name != "partialspoof":
        raise UnknownNameError(f"name must be a corpus with pickled labels (partialspoof), got {name!r}; `xaibench list tasks` shows all")
    from xaibench.tasks.corpora.labels import convert as convert_labels

    for path in convert_labels(folder, out):
        typer.echo(str(path))


@app.command("check")
def check(
    task: Annotated[str, typer.Argument(help="NAME or NAME:option=value of a corpus on disk")],
    folder: Annotated[str, typer.Option("--data", help="its folder")] = "",
    split: Annotated[str, typer.Option(help="train, dev or test")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="only the first pairs")] = None,
    out: Annotated[Path | None, typer.Option(help="table to write; default: print it")] = None,
) -> None:
    """Check the tree of a corpus and align its pairs: lag, residual, score and drift of each, and why a pair is refused."""
    from xaibench.cli.progress import bar
    from xaibench.registry import TASKS
    from xaibench.tasks.corpora.inspect import alignment_table

    if split not in ("train", "dev", "test"):
        raise UnknownNameError(f"split must be train, dev or test, got {split!r}; use for example --split test")
    with bar("check") as advance:
        text, refused = alignment_table(TASKS.load(task, **({"data": folder} if folder else {})), split, limit, advance)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text, encoding="utf-8")
    typer.echo(f"{text.count(chr(10)) - 1} pairs, {refused} refused", err=True)


@app.command("build")
def build(
    task: Annotated[str, typer.Argument(help="NAME or NAME:option=value of a corpus with twins")],
    folder: Annotated[str, typer.Option("--data", help="its folder")] = "",
    split: Annotated[list[str] | None, typer.Option(help="train, dev or test; repeat for several; default: all")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="mask recipe; repeat for several; default: the official ones")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Align all pairs of a corpus and compute their masks once; later commands read them from the cache."""
    from xaibench.cli.progress import bar
    from xaibench.registry import TASKS
    from xaibench.tasks.shelf import build as build_masks

    corpus = TASKS.load(task, **({"data": folder} if folder else {}))
    with bar("build") as advance:
        built = build_masks(corpus, split or ["train", "dev", "test"], recipe or corpus.recipes, jobs, advance)
    for name, why in list(built.refused.items())[:10]:
        typer.echo(f"refused: {name}: {why}", err=True)
    typer.echo(f"{built.clips} clips, {built.masks} masks, {built.made} computed now, {len(built.refused)} pairs refused")
