"""Weights of neural vocoders: 16-bit safetensors whose header says which vocoder of which sizes, with a card beside them."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from xaibench.errors import WeightsError
from xaibench.tasks.detectors.weights import fill, read_safetensors, write_safetensors
from xaibench.tasks.vocoders.neural.network import Network
from xaibench.types import Weights

SHIPPED = Path(__file__).parent / "weights"


def locate(name: str, weights: str) -> Path:
    """Return the file that is named, or the one that ships with a vocoder.

    Raises:
        WeightsError: If there is none.
    """
    path = Path(weights).expanduser() if weights else SHIPPED / f"{name}.safetensors"
    if path.is_file():
        return path
    if weights:
        raise WeightsError(f"weights of {name} must be a file, got {weights!r}; give a path that exists")
    raise WeightsError(
        f"weights of {name} must be given, since none ship, got ''; run `xaibench train vocoder {name} --speech DIR` and pass "
        f"{name}:weights=FILE"
    )


def write(path: Path, name: str, network: Network, tensors: Weights) -> None:
    """Write tensors with half the precision; vocoder and sizes go into the header."""
    half = {key: t.half() if t.is_floating_point() else t for key, t in tensors.items()}
    write_safetensors(path, half, {"vocoder": name, "sizes": json.dumps(network.size_fields(), sort_keys=True)})


def build(kind: type[Network], sizes: dict[str, Any]) -> Network:
    """Build a network of a header's sizes."""
    known = type(kind.presets["tiny"])
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and overwritten
        return kind(known(**{key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items()}))


@lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, int], name: str, kind: type[Network], device: str) -> Network:  # noqa: ARG001 - as a key
    tensors, header = read_safetensors(path)
    if header.get("vocoder") != name:
        raise WeightsError(
            f"weights must be those of {name}, got {path.name} of {header.get('vocoder', 'no vocoder')}; give the other file"
        )
    try:
        network = build(kind, json.loads(header["sizes"]))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"weights must name the sizes of {name}, got {path.name}: {error}; train it again") from error
    fill(network, tensors, path.name)
    return network.to(device).eval()


def load(path: Path, name: str, kind: type[Network], device: str) -> Network:
    """Read a network; one that was read stays in memory until its file changes.

    Raises:
        WeightsError: If the file is damaged, of another vocoder, or does not fit.
    """
    stat = path.stat()
    return _read(path, (stat.st_mtime_ns, stat.st_size), name, kind, device)
