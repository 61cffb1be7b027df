"""`xaibench train`: detectors and trainable explainers, by the commands that made the shipped weights."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Train detectors, segmentation explainers and controls.", no_args_is_help=True)

Task = Annotated[str, typer.Option("--task", "-t", help="task whose train split is used; its dev split selects")]
Out = Annotated[Path, typer.Option(help="folder for weights, card and checkpoints")]
Seed = Annotated[int, typer.Option(help="seed of everything random")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]


@app.command("detector")
def detector(
    name: Annotated[str, typer.Option("--detector", help="detector to train")] = "spectrogram_cnn",
    task: Task = "minivoc",
    out: Out = Path("trained/detector"),
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 1500,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Train a detector on paired batches; the card holds EER, AUC and pair accuracy per vocoder."""
    from xaibench.cli.progress import bar
    from xaibench.registry import TASKS
    from xaibench.tasks.detectors.training import train_detector

    with bar(f"train {name}") as advance:
        card = train_detector(
            TASKS.load(task),
            name,
            out=out,
            steps=steps,
            seed=seed,
            device=device,
            progress=lambda share, _: advance(round(100 * share), 100),
        )
    _summary(out, card)


@app.command("priors")
def priors(
    task: Task = "minivoc",
    out: Annotated[Path | None, typer.Option(help="folder for the tables; default: the tables that ship")] = None,
) -> None:
    """Fit the frequency priors, the controls that every explainer must beat."""
    from xaibench.explainers.controls.fitting import fit_tables
    from xaibench.registry import TASKS

    for path in fit_tables(TASKS.load(task), out):
        typer.echo(str(path))


def _summary(out: Path, card: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(card, indent=2, default=str)[:4000])
    typer.echo(f"\nwritten to {out}")
