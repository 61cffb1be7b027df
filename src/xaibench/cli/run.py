"""`xaibench run`: the main job."""

from pathlib import Path
from typing import Annotated, Any

import typer


def run(
    explainer: Annotated[
        list[str] | None, typer.Option("--explainer", "-e", help="NAME or NAME:option=value,...; repeat for several")
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="NAME or NAME:option=value; repeat for several")] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="folder of the task's corpus; with several tasks one for each, in their order")
    ] = None,
    detector: Annotated[str | None, typer.Option(help="detector to explain; default: the task's own")] = None,
    detector_weights: Annotated[Path | None, typer.Option(help="checkpoint of the detector")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="clips per task, counted before the gate on the twins' gap")] = None,
    full: Annotated[bool, typer.Option("--full", help="every clip, every occluder, all steps, instead of the quick tier")] = False,
    shard: Annotated[
        str | None, typer.Option(help="part of the clips, e.g. 2/8; `xaibench merge` joins the folders of all parts for the whole run")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="run folder; default: runs/<id> in the working directory, the same for the same command")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="worker processes; default: one for each processor")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Dask workers to start: on this machine, or with --slurm as jobs")] = None,
    scheduler: Annotated[str | None, typer.Option(help="address of a running Dask scheduler, e.g. tcp://host:8786")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="start the workers as Slurm jobs, as dask-jobqueue is configured")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    timeout: Annotated[float, typer.Option(min=0.001, help="seconds for one explanation; a longer one has failed")] = 600.0,
    memory: Annotated[
        int | None, typer.Option(min=1, help="MB that a worker's explanations may take; what needs more has failed (Linux)")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="failed explanations that are tolerated; default: any number, but not all of an explainer")
    ] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="try failed explanations again")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="start over instead of going on")] = False,
    suite: Annotated[
        str, typer.Option(help="protocol; grinberg2025 repeats that paper's table on whatever of its corpora is present")
    ] = "xaibench-v1",
    causal: Annotated[
        bool | None, typer.Option("--causal/--no-causal", help="compare with the causal truth; default: only with --full")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="seen, unseen-vocoder, unseen-speaker, cross-corpus or degraded: a run for each leg, and one table")
    ] = None,
    fit_steps: Annotated[
        int, typer.Option(min=0, help="with --protocol: train the explainer's network on each leg for this many steps")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print events as JSON lines instead of a bar and tables")] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="write the HTML leaderboard at the end")] = True,
) -> None:
    """Explain, score and rank: prints the table with intervals and controls and writes the HTML leaderboard.

    The same command goes on where it was interrupted. Controls always run beside your explainers and cannot be removed.
    """
    from xaibench.benchmark.run import run as benchmark
    from xaibench.cli.paper import line_up, paper_of, show_paper
    from xaibench.cli.progress import bar, emit, events
    from xaibench.cli.tasks import by_label

    paper = paper_of(suite)
    ask = line_up(paper, explainer or [], task or [], data or [], detector)
    if protocol is not None:
        options = {
            "detector": ask.detector,
            "seed": seed,
            "jobs": jobs,
            "device": device,
            "full": full,
            "timeout_s": timeout,
            "fresh": fresh,
        }
        _protocol(protocol, ask.explainers, ask.tasks, out, limit, fit_steps, {**options, "suite": suite, "causal": causal})
        return
    with events() if as_json else bar("run") as progress:
        results = benchmark(
            explainers=ask.explainers,
            tasks=ask.tasks,
            detector=ask.detector,
            detector_weights=str(detector_weights) if detector_weights else None,
            limit=limit,
            full=full,
            out=out,
            seed=seed,
            jobs=jobs,
            device=device,
            retry_errors=retry_errors,
            fresh=fresh,
            progress=progress,
            max_failures=max_failures,
            timeout_s=timeout,
            causal=causal,
            suite=suite,
            memory_mb=memory,
            executor=engine(workers, scheduler, slurm),
            shard=shard,
        )
    if as_json:
        emit("end", run=results.summary.run, folder=str(results.path), units=results.summary.n_units, by_status=results.summary.n_by_status)
    else:
        show(results.path)
    if paper:
        show_paper(paper, results, ask.notes)
    if report:
        from xaibench.leaderboard.site import build

        page = build(results.path, tasks=by_label(ask.tasks), quality=True).resolve().as_uri()
        emit("report", page=page) if as_json else typer.echo(f"\nreport: {page}")


def engine(workers: int | None, scheduler: str | None, slurm: bool) -> str | None:
    """Return the specification of the engine that the options name, ``None`` for workers on this machine alone."""
    if workers is None and scheduler is None and not slurm:
        return None
    if scheduler is not None and (slurm or workers is not None):
        raise ValueError(f"--scheduler must stand alone, got it with {'--slurm' if slurm else '--workers'}; its workers are there already")
    options = [f"scheduler={scheduler}"] if scheduler else [f"workers={workers or 2}", *(["slurm=true"] if slurm else [])]
    return f"dask:{','.join(options)}"


def _protocol(
    protocol: str, explainers: Any, tasks: Any, out: Path | None, limit: int | None, fit_steps: int, options: dict[str, Any]
) -> None:
    from xaibench.benchmark.protocols import run_protocol
    from xaibench.cli.progress import bar

    with bar(protocol) as progress:
        place = out or Path("runs") / protocol
        table = run_protocol(protocol, explainers, tasks, out=place, limit=limit, fit_steps=fit_steps, progress=progress, **options)
    typer.echo(f"{table}\n{table.read_text(encoding='utf-8')}")


def show(path: Path) -> None:
    """Print the table of every task and detector of a run."""
    from rich.console import Console

    from xaibench.leaderboard.rows import read_run, terminal_table

    console = Console()
    for board in read_run(path).boards:
        for recipe in board.recipes or ("",):
            console.print(terminal_table(board, recipe))
