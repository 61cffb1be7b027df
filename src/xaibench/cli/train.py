"""`xaibench train`: detectors and trainable explainers, by the commands that made the shipped weights."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Train detectors, segmentation explainers and controls.", no_args_is_help=True)

Task = Annotated[str, typer.Option("--task", "-t", help="task whose train split is used; its dev split selects")]
Out = Annotated[Path, typer.Option(help="folder for weights, card and checkpoints")]
Seed = Annotated[int, typer.Option(help="seed of everything random")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Config = Annotated[str, typer.Option(help="size of the network: tiny, small, base or paper")]
BatchSize = Annotated[int, typer.Option(min=1, help="clips per step")]
Precision = Annotated[str, typer.Option(help="float32, or bf16 on a GPU")]


@app.command("detector")
def detector(
    name: Annotated[str, typer.Option("--detector", help="detector to train")] = "spectrogram_cnn",
    task: Task = "minivoc",
    out: Out = Path("trained/detector"),
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 1500,
    speed: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="change of speed drawn for both twins alike; 0.2 made public_pairs' weights")
    ] = 0.0,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Train a detector on paired batches; the card holds EER, AUC and pair accuracy per vocoder."""
    from xaibench.cli.progress import bar
    from xaibench.registry import TASKS
    from xaibench.tasks.detectors.batches import BatchRecipe
    from xaibench.tasks.detectors.training import TrainingRecipe, train_detector

    recipe = TrainingRecipe(batches=BatchRecipe(speed=speed))

    with bar(f"train {name}") as advance:
        card = train_detector(
            TASKS.load(task),
            name,
            out=out,
            steps=steps,
            seed=seed,
            device=device,
            progress=lambda share, _: advance(round(100 * share), 100),
            recipe=recipe,
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


@app.command("specsegdiff")
def specsegdiff(
    task: Task = "minivoc",
    out: Out = Path("trained/specsegdiff"),
    config: Config = "small",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 2600,
    batch_size: BatchSize = 4,
    initial: Annotated[str, typer.Option(help="weights file to start from, e.g. those of one_shot")] = "",
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "float32",
) -> None:
    """Train the diffusion explainer; a run that was stopped goes on from its checkpoint."""
    _segdiff("specsegdiff", task, out, config, device, steps=steps, batch_size=batch_size, initial=initial, seed=seed, precision=precision)


@app.command("one_shot")
def one_shot(
    task: Task = "minivoc",
    out: Out = Path("trained/one_shot"),
    config: Config = "small",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 2600,
    batch_size: BatchSize = 4,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "float32",
) -> None:
    """Train the same network as a plain segmenter: the ablation that says what diffusion adds."""
    _segdiff("one_shot", task, out, config, device, steps=steps, batch_size=batch_size, seed=seed, precision=precision)


def _segdiff(method: str, task: str, out: Path, config: str, device: str, **settings: Any) -> None:
    from xaibench.cli.progress import bar
    from xaibench.explainers.segdiff.job import train_explainer
    from xaibench.explainers.segdiff.training import TrainingConfig
    from xaibench.explainers.segdiff.weights import preset
    from xaibench.registry import TASKS

    training = TrainingConfig(model=preset(method, config), **settings)
    with bar(f"train {method}") as advance:
        card = train_explainer(TASKS.load(task), training, out=out, device=device, progress=advance)
    _summary(out, card)


def _summary(out: Path, card: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(card, indent=2, default=str)[:4000])
    typer.echo(f"\nwritten to {out}")
