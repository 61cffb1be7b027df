"""`xaibench submit`: other people's explainers, from a package to a row on the leaderboard."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Pack, check, run and score submissions; see docs/submitting.md.", no_args_is_help=True)

PackageFile = Annotated[Path, typer.Argument(help="package, NAME-VERSION.xaib.zip")]
Task = Annotated[str | None, typer.Option("--task", "-t", help="task, where the name on the card does not find it (folder:data=...)")]
Weights = Annotated[Path | None, typer.Option("--detector-weights", help="checkpoint of the detector")]
Out = Annotated[Path | None, typer.Option(help="run folder; default: submitted/<name>-<version>")]
Full = Annotated[bool, typer.Option("--full", help="every clip, occluder and step instead of the quick tier")]
Limit = Annotated[int | None, typer.Option(min=1, help="clips")]
Jobs = Annotated[int | None, typer.Option(min=1, help="worker processes; default: one for each processor")]


@app.command("kit")
def kit(
    task: Annotated[str, typer.Argument(help="task")] = "minivoc",
    detector: Annotated[str | None, typer.Option(help="detector; default: the task's own")] = None,
    detector_weights: Weights = None,
    out: Annotated[Path, typer.Option(help="folder")] = Path("kit"),
    limit: Limit = None,
) -> None:
    """Write the clips, their ids and a card to fill in: what people without xaibench need."""
    from xaibench.benchmark.suite import suite_by_name
    from xaibench.benchmark.world import load_detectors, load_tasks
    from xaibench.leaderboard.submission.kit import write_kit
    from xaibench.leaderboard.submission.scoring import Setting

    tasks = load_tasks([task])
    detectors, _ = load_detectors(tasks, detector, detector_weights, "cpu")
    place = Setting(next(iter(tasks.values())), next(iter(detectors.values())), suite_by_name("xaibench-v1"))
    typer.echo(f"written to {write_kit(place, out, limit)}")


@app.command("pack")
def pack(
    source: Annotated[Path, typer.Argument(help="finished run, or project of a plugin (a folder with pyproject.toml)")],
    card: Annotated[Path | None, typer.Option(help="TOML file with keys of the card; see docs/submitting.md")] = None,
    author: Annotated[list[str] | None, typer.Option(help="author; repeat for several")] = None,
    licence: Annotated[str | None, typer.Option(help="licence of the heatmaps or the code")] = None,
    explainer: Annotated[str | None, typer.Option("--explainer", "-e", help="row of the run, where it has several")] = None,
    half: Annotated[bool, typer.Option("--half", help="float16, half the size; may tie cells")] = False,
    out: Annotated[Path, typer.Option(help="folder of the package")] = Path(),
) -> None:
    """Write a package: heatmaps of a finished run, or the code of a plugin project."""
    from xaibench.leaderboard.submission.pack import pack_code, pack_run

    facts = {**_facts(card or source / "submission.toml", needed=card is not None)}
    facts |= {"authors": author} if author else {}
    facts |= {"licence": licence} if licence else {}
    is_project = (source / "pyproject.toml").is_file()
    made = pack_code(source, out, facts) if is_project else pack_run(source, out, facts, explainer=explainer, half=half)
    typer.echo(str(made))


def _facts(path: Path, needed: bool) -> dict[str, Any]:
    import tomllib

    from xaibench.errors import SubmissionError

    if not path.is_file() and not needed:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SubmissionError(f"card must be a TOML file, got {path}: {error}; correct it") from error


@app.command("check")
def check(package: PackageFile, task: Task = None, detector_weights: Weights = None) -> None:
    """Look at every byte of a package, trusting none; says what would be refused."""
    from xaibench.errors import SubmissionError
    from xaibench.leaderboard.submission.package import Package
    from xaibench.leaderboard.submission.scoring import check as look
    from xaibench.leaderboard.submission.scoring import setting

    with Package(package) as opened:
        place = setting(opened.card, task=task, detector_weights=detector_weights)
        if opened.card.track == "code":
            typer.echo(f"{opened.card.label}: {len(opened.code())} files of code, run them with `xaibench submit run`")
            return
        found = look(opened, place)
    for (name, recipe), why in list(found.invalid.items())[:20]:
        typer.echo(f"unusable: {name} {recipe} {why}", err=True)
    typer.echo(f"{opened.card.label}: {found.given} of {found.expected} maps, {found.failed} reported as failed, {found.missing} missing")
    if found.invalid:
        raise SubmissionError(
            f"every map must be a heatmap, got {len(found.invalid)} that would take the lowest control; mend or drop them"
        )


@app.command("score")
def score(
    package: PackageFile,
    out: Out = None,
    task: Task = None,
    detector_weights: Weights = None,
    full: Full = False,
    limit: Limit = None,
    jobs: Jobs = None,
) -> None:
    """Score a package of heatmaps beside the controls and write the leaderboard."""
    from xaibench.cli.progress import bar
    from xaibench.leaderboard.submission.package import Package
    from xaibench.leaderboard.submission.scoring import check as look
    from xaibench.leaderboard.submission.scoring import score as judge
    from xaibench.leaderboard.submission.scoring import setting

    with Package(package) as opened, bar("score") as progress:
        place = setting(opened.card, task=task, detector_weights=detector_weights)
        look(opened, place)
        target = out or Path("submitted") / f"{opened.card.name}-{opened.card.version}"
        results = judge(opened, place, target, full=full, limit=limit, jobs=jobs, progress=progress)
    _show(results.path)


def _show(path: Path) -> None:
    """Print the tables and write the report."""
    from rich.console import Console

    from xaibench.leaderboard.rows import read_run, terminal_table
    from xaibench.leaderboard.site import build

    console = Console()
    for board in read_run(path).boards:
        for recipe in board.recipes or ("",):
            console.print(terminal_table(board, recipe))
    typer.echo(f"\nreport: {build(path).resolve().as_uri()}")


@app.command("run")
def run(
    package: PackageFile,
    out: Out = None,
    task: Task = None,
    detector_weights: Weights = None,
    full: Full = False,
    limit: Limit = None,
    jobs: Jobs = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds for one explanation")] = 600.0,
    isolation: Annotated[int | None, typer.Option(min=1, max=4, help="level of the ladder; default: the strongest that holds")] = None,
    trust: Annotated[bool, typer.Option("--i-trust-this-code", help="run it below L3 as well; its row is greyed")] = False,
) -> None:
    """Run a package of code in the sandbox, without masks, network, secrets or weights, and score it beside the controls."""
    from xaibench.cli.progress import bar
    from xaibench.leaderboard.sandbox.probe import choose
    from xaibench.leaderboard.submission.package import Package
    from xaibench.leaderboard.submission.running import GivenCode
    from xaibench.leaderboard.submission.scoring import score as judge
    from xaibench.leaderboard.submission.scoring import setting

    with Package(package) as opened, bar("run") as progress:
        jail = choose(isolation, trusted=trust)
        typer.echo(f"isolation: {jail}", err=True)
        place = setting(opened.card, task=task, detector_weights=detector_weights)
        given = GivenCode(opened, place, jail, timeout_s=timeout)
        target = out or Path("submitted") / f"{opened.card.name}-{opened.card.version}"
        results = judge(opened, place, target, given=given, full=full, limit=limit, jobs=jobs, progress=progress)
    _show(results.path)


Repository = Annotated[Path, typer.Option("--repository", help="clone of a repository of results")]


@app.command("track")
def track(package: PackageFile) -> None:
    """Print the track of a package: heatmaps or code."""
    from xaibench.leaderboard.submission.package import Package

    with Package(package) as opened:
        typer.echo(opened.card.track)


@app.command("known")
def known(package: PackageFile, repository: Repository = Path()) -> None:
    """Succeed where a repository of results holds a record of the package, else end with code 1."""
    from xaibench.leaderboard.submission.package import Package
    from xaibench.leaderboard.submission.quota import records

    with Package(package) as opened:
        if opened.sha256 not in {record.origin.package_sha256 for record in records(repository)}:
            raise typer.Exit(1)


@app.command("sign")
def sign(
    package: PackageFile,
    run: Annotated[Path, typer.Option("--run", help="run folder in which the package was scored")],
    author: Annotated[str, typer.Option(help="account that sent it, as the forge knows it; counts for the quota")],
    repository: Repository = Path(),
    commitment: Annotated[Path | None, typer.Option(help="published commitment of a hidden split")] = None,
    reproduced: Annotated[bool, typer.Option("--reproduced", help="a maintainer made the explanations again")] = False,
) -> None:
    """Write the record of a scored package into a repository of results, under the key in XAIBENCH_SIGNING_KEY."""
    from xaibench.leaderboard.submission.package import Package
    from xaibench.leaderboard.submission.signing import sign as record

    with Package(package) as opened:
        typer.echo(str(record(opened, run, repository, author, commitment=commitment, reproduced=reproduced)))


@app.command("board")
def board(
    repository: Annotated[Path, typer.Argument(help="clone of a repository of results")] = Path(),
    out: Annotated[Path, typer.Option(help="folder of the boards, one for each protocol and tier")] = Path("board"),
) -> None:
    """Write one leaderboard over all records of a repository of results.

    Every record is verified, its signature with the key in XAIBENCH_SIGNING_KEY. Those that fail are left out, named on the page, and the
    command ends with code 6.
    """
    from xaibench.benchmark.units import clean
    from xaibench.errors import SubmissionError
    from xaibench.leaderboard.submission.board import write_boards
    from xaibench.leaderboard.submission.record import signing_key

    pages, found = write_boards(repository, out, signing_key())
    for place, problems in found.refused.items():
        for problem in problems:
            typer.echo(clean(f"left out: {place} {problem}" if place else problem), err=True)
    for page in pages:
        typer.echo(f"report: {page.resolve().as_uri()}")
    if found.refused:
        raise SubmissionError(f"every record must pass, got {len(found.refused)} findings; see above")


@app.command("pr")
def pr(package: PackageFile, repository: Repository = Path()) -> None:
    """Put a package on a branch of a clone, ready for a pull request; on failure the clone is left as it was."""
    from xaibench.leaderboard.submission.repository import prepare_branch

    branch = prepare_branch(package, repository)
    typer.echo(f"branch {branch} is ready: git -C {repository} push -u origin {branch}, then open a pull request")


@app.command("commit")
def commit(
    task: Annotated[str, typer.Argument(help="task whose masks are promised")] = "hidden",
    public: Annotated[Path, typer.Option(help="file to publish at once")] = Path("commitment.json"),
    secret: Annotated[Path, typer.Option(help="file to keep with the masks until the split retires")] = Path("reveal.json"),
) -> None:
    """Promise the masks of a hidden split before anybody is scored on them."""
    from xaibench.leaderboard.submission.commitment import commit as promise
    from xaibench.leaderboard.submission.commitment import write_commitment
    from xaibench.registry import TASKS

    made, kept = promise(TASKS.load(task))
    write_commitment(made, kept, public, secret)
    typer.echo(f"{made.masks} masks of {made.task} under root {made.root}; publish {public}, keep {secret} to yourself")
