"""What a run ran on and with: processor, accelerator, packages, threads, determinism, and the source of the harness itself."""

import os
import platform
import re
import socket
import subprocess
from functools import cache
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

import xaibench

VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "PYTHONHASHSEED",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_ID",
)
"""Variables that may change numbers or speed and hold no secret; no other is written down."""
GIT_S = 5.0


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Environment(_Part):
    """Machine and packages."""

    python: str
    platform: str
    machine: str
    host: str
    processors: int | None
    processor: str | None
    """Model of the processor."""
    threads: dict[str, str]
    """What was asked of OpenMP and MKL, and how many threads torch takes outside the workers, which take one."""
    gpu: str
    gpu_software: dict[str, str] | None
    packages: dict[str, str]
    """Every installed distribution with its version."""
    variables: dict[str, str] | None
    """Of the environment, as far as ``VARIABLES`` allows."""


class Source(_Part):
    """The checkout that the harness runs from."""

    version: str
    git_origin: str
    git_sha: str
    git_dirty: bool


class Determinism(_Part):
    """Settings of torch that decide whether equal work gives equal bits."""

    algorithms: bool
    cudnn_deterministic: bool
    cudnn_benchmark: bool
    tf32: bool


def environment() -> Environment:
    """Describe machine and packages."""
    asked = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    on_gpu = torch.cuda.is_available()
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        machine=platform.machine(),
        host=socket.gethostname(),
        processors=os.cpu_count(),
        processor=_processor(),
        threads={**asked, "torch": str(torch.get_num_threads())},
        gpu=torch.cuda.get_device_name() if on_gpu else "",
        gpu_software=_gpu_software() if on_gpu else {},
        packages=_packages(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def determinism() -> Determinism:
    """Read torch's settings."""
    cudnn = torch.backends.cudnn
    return Determinism(
        algorithms=torch.are_deterministic_algorithms_enabled(),
        cudnn_deterministic=cudnn.deterministic,
        cudnn_benchmark=cudnn.benchmark,
        tf32=torch.backends.cuda.matmul.allow_tf32,
    )


@cache
def source() -> Source | None:
    """Describe the checkout of the package; ``None`` for an installed one, even if its environment lies inside a repository."""
    folder = Path(xaibench.__file__).resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None or (sha := _git(folder, "rev-parse", "HEAD")) is None:
        return None
    origin = re.sub(r"//[^/@]*@", "//", _git(folder, "config", "--get", "remote.origin.url") or "")  # a token may stand before the host
    dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", ":/")
    return Source(version=xaibench.__version__, git_origin=origin, git_sha=sha, git_dirty=bool(dirty))


def _git(folder: Path, *command: str) -> str | None:
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=GIT_S, check=False, env=quiet, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def _packages() -> dict[str, str]:
    found = {str(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def distribution_of(kind: type) -> str:
    """Return the installed package that a class came with, and its version; empty for a file, a notebook or a bare module."""
    top = kind.__module__.partition(".")[0]
    names = _distributions().get(top) or ([top] if top == "xaibench" else [])
    return f"{names[0]} {_packages().get(names[0], xaibench.__version__)}" if names else ""


@cache
def _distributions() -> dict[str, list[str]]:
    return {top: sorted(set(names)) for top, names in packages_distributions().items()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _gpu_software() -> dict[str, str]:
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {"cuda": str(torch.version.cuda), "cudnn": str(cudnn), "driver": _driver()}


def _driver() -> str:
    try:
        line = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return ""
    found = re.search(r"\b(\d+\.\d+(\.\d+)?)\b", line)
    return found[1] if found else ""
