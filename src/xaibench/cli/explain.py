"""`xaibench explain`: the analyst's page for their own recordings."""

from pathlib import Path
from typing import Annotated

import typer


def explain(
    files: Annotated[list[Path], typer.Argument(help="recordings, or folders of recordings")],
    explainer: Annotated[str, typer.Option("--explainer", "-e", help="NAME or NAME:option=value,...")] = "specsegdiff",
    detector: Annotated[str, typer.Option(help="detector whose verdict is explained")] = "spectrogram_cnn",
    detector_weights: Annotated[Path | None, typer.Option(help="checkpoint of the detector")] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="run folder whose leaderboard tells how far the explainer can be trusted; default: the newest under runs/ that holds it"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the page, the sounds and the JSON")] = Path("explanations"),
) -> None:
    """Say where the evidence lies, as a picture, as sound and as JSON. A heatmap is no proof."""
    from xaibench.benchmark.world import label_of
    from xaibench.cli.progress import bar
    from xaibench.leaderboard.explain import explain_files
    from xaibench.leaderboard.standing import newest_run
    from xaibench.registry import DETECTORS, EXPLAINERS

    model = DETECTORS.load(detector, **({"weights": str(detector_weights)} if detector_weights else {}))
    method = EXPLAINERS.load(explainer)
    run = run or newest_run(label_of(method), detector)
    with bar("explain") as progress:
        page = explain_files(files, method, model, out, run=run, progress=progress, tell=_tell)
    typer.echo(page.resolve().as_uri())


def _tell(sentence: str) -> None:
    typer.echo(f"not explained: {sentence}", err=True)
