"""`xaibench train`: detectors and trainable explainers, by the commands that made the shipped weights."""

from contextlib import ExitStack, nullcontext
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
    name: Annotated[str, typer.Option("--detector", help="detector to train, NAME or NAME:option=value,...")] = "spectrogram_cnn",
    task: Task = "minivoc",
    out: Out = Path("trained/detector"),
    steps: Annotated[int | None, typer.Option(min=1, help="optimiser steps; default: the recipe's epochs, or 1500")] = None,
    recipe: Annotated[
        str, typer.Option(help="twins, tiny, planted: small nets from scratch; ssl_antispoofing: the published fine-tuning")
    ] = "twins",
    start: Annotated[str, typer.Option(help="weights to start from: random, a shipped name, a file or a folder")] = "",
    learning_rate: Annotated[float | None, typer.Option(help="default: the recipe's")] = None,
    rawboost: Annotated[int | None, typer.Option(min=0, max=8, help="RawBoost combination, 0 for none; default: the recipe's")] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=0.5, help="change of speed drawn for both twins alike; 0.2 made public_pairs' weights; default: the recipe's"
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Annotated[str | None, typer.Option(help="float32, or bf16 on a GPU; default: the recipe's")] = None,
) -> None:
    """Train a detector on paired batches; the card holds EER, AUC and pair accuracy per vocoder.

    A run that was stopped goes on from its checkpoint. Under ``torchrun`` or ``accelerate launch`` it uses all processes.
    """
    from dataclasses import replace

    from xaibench.cli.progress import bar
    from xaibench.registry import TASKS
    from xaibench.tasks.detectors.recipes import named_recipe
    from xaibench.tasks.detectors.training import train_detector

    chosen = named_recipe(recipe)
    chosen = replace(
        chosen,
        batches=replace(chosen.batches, **_given(speed=speed, rawboost=rawboost)),
        **_given(start=start or None, learning_rate=learning_rate, precision=precision),
    )
    with bar(f"train {name}") as advance:
        card = train_detector(
            TASKS.load(task),
            name,
            out=out,
            steps=steps or (None if chosen.epochs else 1500),
            seed=seed,
            device=device,
            progress=lambda share, _: advance(round(100 * share), 100),
            recipe=chosen,
        )
    _summary(out, card)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


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


Also = Annotated[
    list[str] | None,
    typer.Option("--also", help="further task whose train split is learned from, e.g. folder:data=DIR; may be given several times"),
]
Repeats = Annotated[int, typer.Option(min=1, help="how often pairs of --also are seen for each time that the task's own are")]
Copies = Annotated[int, typer.Option(min=1, help="examples made of each pair: itself, then cut, equalised and played at other places")]
Speed = Annotated[float, typer.Option(min=0.0, max=0.49, help="change of speed drawn for both twins alike: other voices for few speakers")]
Boost = Annotated[int, typer.Option(min=0, max=8, help="algorithm of RawBoost that disturbs both twins alike; 0 for none")]
Board = Annotated[bool, typer.Option("--tensorboard", help="write losses and scores for TensorBoard into OUT/tensorboard")]
Tracked = Annotated[bool, typer.Option("--mlflow", help="log parameters, losses and scores to MLflow, at MLFLOW_TRACKING_URI or ./mlruns")]
Backbone = Annotated[str, typer.Option(help="folder of a pretrained diffusers UNet2DModel that becomes the denoiser")]
Minutes = Annotated[float | None, typer.Option(min=0.0, help="end after so long with the best weights so far; the same command goes on")]
Initial = Annotated[str, typer.Option(help="weights file to start from, e.g. those of one_shot")]
Recount = Annotated[bool, typer.Option("--recount", help="count the table of bin and level again, for initial weights of another task")]
Rate = Annotated[float, typer.Option(min=1e-7, help="learning rate after warm-up")]


@app.command("specsegdiff")
def specsegdiff(
    task: Task = "minivoc",
    out: Out = Path("trained/specsegdiff"),
    config: Config = "small",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 2600,
    batch_size: BatchSize = 4,
    learning_rate: Rate = 2e-3,
    initial: Initial = "",
    recount: Recount = False,
    also: Also = None,
    repeats: Repeats = 1,
    copies: Copies = 2,
    speed: Speed = 0.0,
    rawboost: Boost = 0,
    backbone: Backbone = "",
    minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "float32",
    tensorboard: Board = False,
    mlflow: Tracked = False,
) -> None:
    """Train the diffusion explainer; a run that was stopped goes on from its checkpoint."""
    _segdiff("specsegdiff", locals())


@app.command("one_shot")
def one_shot(
    task: Task = "minivoc",
    out: Out = Path("trained/one_shot"),
    config: Config = "small",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 2600,
    batch_size: BatchSize = 4,
    learning_rate: Rate = 2e-3,
    initial: Initial = "",
    recount: Recount = False,
    also: Also = None,
    repeats: Repeats = 1,
    copies: Copies = 2,
    speed: Speed = 0.0,
    rawboost: Boost = 0,
    backbone: Backbone = "",
    minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "float32",
    tensorboard: Board = False,
    mlflow: Tracked = False,
) -> None:
    """Train the same network as a plain segmenter: the ablation that says what diffusion adds."""
    _segdiff("one_shot", locals())


@app.command("addsegdiff")
def addsegdiff(
    task: Task = "minivoc",
    out: Out = Path("trained/addsegdiff"),
    config: Config = "small",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 2600,
    batch_size: BatchSize = 4,
    learning_rate: Rate = 2e-3,
    initial: Initial = "",
    recount: Recount = False,
    also: Also = None,
    repeats: Repeats = 1,
    copies: Copies = 2,
    speed: Speed = 0.0,
    rawboost: Boost = 0,
    backbone: Backbone = "",
    minutes: Minutes = None,
    detector: Annotated[str, typer.Option("--detector", "-d", help="detector whose features are read; default: the task's")] = "",
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "float32",
    tensorboard: Board = False,
    mlflow: Tracked = False,
) -> None:
    """Train the diffusion explainer that sees a detector's features instead of the spectrogram."""
    _segdiff("addsegdiff", locals())


@app.command("addsegdiff_random")
def addsegdiff_random(
    task: Task = "minivoc",
    out: Out = Path("trained/addsegdiff_random"),
    config: Config = "small",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 2600,
    batch_size: BatchSize = 4,
    learning_rate: Rate = 2e-3,
    initial: Initial = "",
    recount: Recount = False,
    also: Also = None,
    repeats: Repeats = 1,
    copies: Copies = 2,
    speed: Speed = 0.0,
    rawboost: Boost = 0,
    backbone: Backbone = "",
    minutes: Minutes = None,
    detector: Annotated[str, typer.Option("--detector", "-d", help="detector whose features are read; default: the task's")] = "",
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Precision = "float32",
    tensorboard: Board = False,
    mlflow: Tracked = False,
) -> None:
    """Train addsegdiff on the same detector with random parameters: the control of its claim."""
    _segdiff("addsegdiff_random", locals())


@app.command("vocoder")
def vocoder(
    name: Annotated[str, typer.Argument(help="vocoder to train: vocos, hn_nsf, hifigan, waveglow or diffwave")],
    speech: Annotated[list[Path], typer.Option(help="folder of recordings; may be given several times")],
    out: Out = Path("trained/vocoder"),
    config: Annotated[str, typer.Option(help="size of the network: tiny, small or base")] = "small",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 20_000,
    batch_size: BatchSize = 8,
    frames: Annotated[int, typer.Option(min=8, help="length of a crop in frames of 12.5 ms")] = 40,
    learning_rate: Rate = 1e-3,
    adversarial_after: Annotated[int, typer.Option(min=-1, help="step from which on discriminators judge; -1 for never")] = 4000,
    minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = "cpu",
    tensorboard: Board = False,
) -> None:
    """Train a neural vocoder on recordings; a run that was stopped goes on, and the card holds scores of held-out speakers."""
    from xaibench.cli.progress import bar
    from xaibench.explainers.segdiff.job import board
    from xaibench.tasks.vocoders.neural.job import train_vocoder
    from xaibench.tasks.vocoders.neural.training import TrainingConfig

    training = TrainingConfig(
        name, config, steps, batch_size, frames, learning_rate=learning_rate, adversarial_after=adversarial_after, seed=seed
    )
    with bar(f"train {name}") as advance, board(out / "tensorboard") if tensorboard else nullcontext() as write:

        def report(record: dict[str, Any]) -> None:
            advance(int(record["step"]), steps)
            if write is not None:
                write(record)

        card = train_vocoder(training, speech, out=out, device=device, minutes=minutes, report=report)
    _summary(out, card)


def _segdiff(method: str, options: dict[str, Any]) -> None:
    """Train by the options of a verb, which are named as the fields of ``TrainingConfig`` are."""
    from xaibench.cli.progress import bar
    from xaibench.explainers.segdiff.augmentation import Augmentation
    from xaibench.explainers.segdiff.job import Further, board, listener, train_explainer
    from xaibench.explainers.segdiff.tracking import tracked
    from xaibench.explainers.segdiff.training import TrainingConfig
    from xaibench.explainers.segdiff.weights import preset
    from xaibench.registry import DETECTORS, TASKS

    task = TASKS.load(options["task"])
    detector = listener(method, DETECTORS.load(options["detector"] or task.default_detector)) if "detector" in options else None
    fields = ("backbone", "steps", "batch_size", "learning_rate", "initial", "recount", "copies", "seed", "precision")
    training = TrainingConfig(
        model=preset(method, options["config"], backbone=options["backbone"], **(detector.preset if detector else {})),
        augmentation=Augmentation(speed=options["speed"], rawboost=options["rawboost"]),
        **{name: options[name] for name in fields},
    )
    with bar(f"train {method}") as advance, ExitStack() as stack:
        listeners = [stack.enter_context(board(options["out"] / "tensorboard"))] if options["tensorboard"] else []
        if options["mlflow"]:
            told = {**{name: options[name] for name in fields}, "task": options["task"], "config": options["config"]}
            listeners.append(stack.enter_context(tracked(method, told)))

        def report(record: dict[str, Any]) -> None:
            advance(int(record["step"]), training.steps)
            for write in listeners:
                write(record)

        card = train_explainer(
            task,
            training,
            out=options["out"],
            device=options["device"],
            report=report,
            also=[Further(TASKS.load(spec), options["copies"], options["repeats"]) for spec in options["also"] or []],
            detector=detector.heard if detector else None,
            minutes=options["minutes"],
        )
    _summary(options["out"], card)


def _summary(out: Path, card: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(card, indent=2, default=str)[:4000])
    typer.echo(f"\nwritten to {out}")
