"""``manifest.json``: what was asked, with what, on what machine; enough to give the command again."""

import os
import platform
import socket
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from xaibench.benchmark.plan import Plan
from xaibench.benchmark.world import World

PACKAGES = ("xaibench", "torch", "torchaudio", "numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "captum", "soxr", "soundfile")


@dataclass(frozen=True)
class Request:
    """What the user asked for, as far as the plan does not say it."""

    limit: int | None
    seed: int
    device: str
    executor: str
    detector_weights: str | None
    faithfulness: bool = True
    causal: bool | None = None
    """Whether the causal truth was asked for; ``None`` for what the tier says."""
    shard: str | None = None
    """Which part of the clips."""


def describe(world: World, plan: Plan, request: Request, slow: dict[str, bool]) -> dict[str, Any]:
    """Describe a run."""
    return {
        "schema_version": 1,
        "run": plan.id,
        "suite": world.suite.name,
        "suite_sha256": plan.suite_hash,
        "tier": plan.tier,
        "limit": request.limit,
        "seed": request.seed,
        "device": request.device,
        "executor": request.executor,
        "detector_weights": request.detector_weights,
        "faithfulness": request.faithfulness,
        "causal": request.causal,
        "shard": request.shard,
        "tasks": {label: _task(world, plan, label) for label in world.tasks},
        "detectors": {
            label: {"fingerprint": detector.fingerprint(), "slow": slow.get(label, False)} for label, detector in world.detectors.items()
        },
        "explainers": {
            label: {**_explainer(explainer), "control": world.is_control(label), "oracle": world.is_oracle(label)}
            for label, explainer in world.explainers.items()
        },
        "argv": sys.argv,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }


def _task(world: World, plan: Plan, label: str) -> dict[str, Any]:
    task = world.tasks[label]
    grid = world.stft(label)
    return {
        "title": task.title,
        "version": task.version,
        "licence": task.licence,
        "truth": task.truth,
        "fingerprint": task.fingerprint(),
        "detector": world.detector_of[label],
        "recipes": list(plan.recipes[label]),
        "stft": {"window_samples": grid.window_samples, "hop_samples": grid.hop_samples},
        "clips": sum(clip.ref.task == label for clip in plan.clips),
        "refused": plan.refused.get(label, {}),
    }


def _explainer(explainer: Any) -> dict[str, Any]:
    return {
        "name": explainer.name,
        "version": explainer.version,
        "reference": explainer.reference,
        "polarity": explainer.polarity,
        "needs": sorted(explainer.needs),
        "deterministic": explainer.deterministic,
        "config": explainer.config(),
    }


def environment() -> dict[str, Any]:
    """Describe machine and packages."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "processors": os.cpu_count(),
        "threads": {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
