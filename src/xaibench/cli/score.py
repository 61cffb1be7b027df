"""`xaibench score`: score the stored heatmaps of a run again."""

from pathlib import Path
from typing import Annotated

import typer


def score(
    run: Annotated[Path, typer.Argument(help="run folder, e.g. runs/<id>")],
    suite: Annotated[str | None, typer.Option(help="protocol; default: the run's own, with the metrics as they are coded now")] = None,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="a further mask recipe; repeat for several")] = None,
    full: Annotated[
        bool | None, typer.Option("--full/--quick", help="curves of the full or the quick tier; default: the run's own")
    ] = None,
    faithfulness: Annotated[bool | None, typer.Option("--faithfulness/--no-faithfulness", help="whether to measure curves")] = None,
    causal: Annotated[bool | None, typer.Option("--causal/--no-causal", help="whether to compare with the causal truth")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="worker processes; default: one for each processor")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Dask workers to start: on this machine, or with --slurm as jobs")] = None,
    scheduler: Annotated[str | None, typer.Option(help="address of a running Dask scheduler")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="start the workers as Slurm jobs")] = False,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="try failed scorings again")] = False,
) -> None:
    """Score stored heatmaps under the present metrics or another suite; nothing is explained again.

    Earlier scores stay in the journal under keys of their own, so going back to an earlier suite costs nothing.
    """
    from xaibench.benchmark.rescore import rescore
    from xaibench.cli.progress import bar
    from xaibench.cli.run import engine, show

    with bar("score") as progress:
        results = rescore(
            run,
            suite,
            recipes=recipe or (),
            full=full,
            faithfulness=faithfulness,
            causal=causal,
            jobs=jobs,
            executor=engine(workers, scheduler, slurm),
            retry_errors=retry_errors,
            progress=progress,
        )
    show(results.path)
