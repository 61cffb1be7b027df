"""`xaibench doctor`: what this machine has, and which plugins cannot be loaded."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from xaibench.errors import XaibenchError
from xaibench.registry import REGISTRIES

PACKAGES = (
    "torch",
    "torchaudio",
    "captum",
    "numpy",
    "scipy",
    "pandas",
    "soundfile",
    "pyworld",
    "accelerate",
    "diffusers",
    "distributed",
    "dask-jobqueue",
    "tensorboard",
    "mlflow",
)


def doctor(
    isolation: Annotated[
        bool, typer.Option("--isolation", help="also try each level at which other people's code could be shut in")
    ] = False,
) -> None:
    """Show versions, processors, disk, data folders, optional parts and broken plugins."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for label, value in [*_machine(), *_folders(), *_packages(), *_plugins(), *(_isolation() if isolation else ())]:
        table.add_row(Text(label, style="dim"), Text(str(value)))
    Console(highlight=False).print(table)


def _machine() -> list[tuple[str, Any]]:
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (everything runs on the CPU)"
    return [
        ("xaibench", importlib.metadata.version("xaibench")),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        (
            "processors",
            f"{os.cpu_count()} (torch threads {torch.get_num_threads()}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')})",
        ),
        ("gpu", gpu),
        ("espeak-ng", shutil.which("espeak-ng") or "missing (only needed to make the embedded train split again)"),
    ]


def _isolation() -> list[tuple[str, Any]]:
    from xaibench.leaderboard.sandbox.ladder import JAILS
    from xaibench.leaderboard.sandbox.probe import probe

    return [(f"isolation L{jail.level}", f"{jail.name}: {probe(jail).problem or 'holds'}") for jail in JAILS]


def _folders() -> list[tuple[str, Any]]:
    from xaibench.tasks.cache import cache_dir, data_dir

    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        ("XAIBENCH_DATA", str(data_dir() or "unset")),
        ("XAIBENCH_CACHE", str(cache_dir())),
        ("disk", f"{free:.1f} GiB free in the working directory"),
    ]


def _packages() -> list[tuple[str, Any]]:
    rows = []
    for name in PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed (optional)"))
    return rows


def _plugins() -> list[tuple[str, Any]]:
    rows = []
    for plural, registry in REGISTRIES.items():
        broken = registry.refused()
        for name in registry.names():
            try:
                registry.get(name)
            except XaibenchError as error:
                broken.append(str(error))
        rows.append((plural, f"{len(registry.names())} found" + "".join(f"\n{b}" for b in broken)))
    return rows
