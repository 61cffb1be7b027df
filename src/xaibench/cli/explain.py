"""`xaibench explain`: the analyst's page for their own recordings."""

from pathlib import Path
from typing import Annotated

import typer


def explain(
    files: Annotated[list[Path], typer.Argument(help="recordings, or folders of recordings")],
    explainer: Annotated[str, typer.Option("--explainer", "-e", help="NAME or NAME:option=value,...")] = "specsegdiff",
    detector: Annotated[str, typer.Option(help="detector whose verdict is explained")] = "spectrogram_cnn",
    detector_weights: Annotated[Path | None, typer.Option(help="checkpoint of the detector")] = None,
    out: Annotated[Path, typer.Option(help="folder for the page, the sounds and the JSON")] = Path("explanations"),
) -> None:
    """Say where the evidence lies, as a picture, as sound and as JSON. A heatmap is no proof."""
    from xaibench.leaderboard.explain import explain_files
    from xaibench.registry import DETECTORS, EXPLAINERS

    model = DETECTORS.load(detector, **({"weights": str(detector_weights)} if detector_weights else {}))
    page = explain_files(files, EXPLAINERS.load(explainer), model, out)
    typer.echo(page.resolve().as_uri())
