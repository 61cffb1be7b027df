"""From a folder of speech to a weights file and its card; the command `xaibench train vocoder` calls this."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from xaibench.registry import VOCODERS
from xaibench.tasks.cache import atomic_write, cache_dir
from xaibench.tasks.detectors.card import hardware
from xaibench.tasks.detectors.weights import read_safetensors
from xaibench.tasks.fleet import Fleet
from xaibench.tasks.vocoders.neural import weights
from xaibench.tasks.vocoders.neural.network import Network
from xaibench.tasks.vocoders.neural.quality import assess
from xaibench.tasks.vocoders.neural.speech import Speech, gather
from xaibench.tasks.vocoders.neural.training import Report, Run, TrainingConfig, train
from xaibench.types import tensors_hash


def trainable() -> list[str]:
    """Return the names of the vocoders that can be trained here."""
    return [name for name in VOCODERS.names() if getattr(VOCODERS.get(name), "network", None) is not None]


def network_of(name: str) -> type[Network]:
    """Return a vocoder's network.

    Raises:
        ValueError: If it has none.
    """
    kind: type[Network] | None = getattr(VOCODERS.get(name), "network", None)
    if kind is None:
        raise ValueError(
            f"vocoder must be one that can be trained ({', '.join(trainable())}), got {name!r}; use `xaibench vocode` directly"
        )
    return kind


def train_vocoder(
    config: TrainingConfig,
    speech: Sequence[Path],
    *,
    out: Path,
    device: str = "cpu",
    minutes: float | None = None,
    report: Report | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Train on folders of speech and write ``<vocoder>.safetensors`` and its card into ``out``.

    Args:
        config: The run.
        speech: Folders of recordings.
        out: Folder for weights, card, checkpoint and history; a run that was stopped goes on from it.
        device: ``cpu``, ``cuda``, ...
        minutes: End after so long although the run is longer.
        report: Called with a record after every step.
        cache: Folder of the gathered samples; the user's cache by default.

    Returns:
        The card; nothing in the processes that torchrun started beside the first.
    """
    kind = network_of(config.vocoder)
    gathered = gather([Path(s) for s in speech], cache or cache_dir() / "vocoders", pitched=kind.pitched)
    run = train(config, kind, gathered, out=out, device=device, report=report, minutes=minutes)
    if not Fleet(device).first:
        return {}
    path = Path(out) / f"{config.vocoder}.safetensors"
    weights.write(path, config.vocoder, run.network, run.average)
    card = describe(config, run, gathered, path, device) | {"scores": score(config.vocoder, path, gathered, device)}
    atomic_write(path.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
    return card


def score(name: str, path: Path, speech: Speech, device: str = "cpu") -> dict[str, Any]:
    """Score copies of held-out recordings."""
    vocoder = VOCODERS.get(name)(weights=str(path), device=device)
    recordings = [speech.waveform(u) for u in speech.scored()]
    return assess([(recording, vocoder.copy(recording)) for recording in recordings])


def describe(config: TrainingConfig, run: Run, speech: Speech, path: Path, device: str) -> dict[str, Any]:
    """Return where weights come from."""
    tensors, _ = read_safetensors(path)
    return {
        "vocoder": config.vocoder,
        "training": asdict(config),
        "sizes": run.network.size_fields(),
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "steps": run.step,
        "seconds": round(run.seconds),
        "hardware": hardware(device),
        "torch": torch.__version__.split("+")[0],
        "speech": {
            "fingerprint": speech.fingerprint,
            "recordings": len(speech.train),
            "seconds": round(speech.seconds),
            "speakers": len({u.speaker for u in speech.train}),
            "held_out_speakers": sorted(speech.held_out_speakers),
            "skipped": len(speech.skipped),
        },
        "weights_sha256": tensors_hash(tensors),
        "file_bytes": path.stat().st_size,
    }
