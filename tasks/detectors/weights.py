"""Weights of detectors: shipped by name or read from a file, never unpickled, and refused key by key where they do not fit."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from xaibench.errors import WeightsError
from xaibench.types import Weights

SHIPPED = Path(__file__).parent / "weights"


def shipped(family: str) -> list[str]:
    """Return the names of the weights shipped for a family of detectors, in order."""
    return sorted(path.stem.removeprefix(f"{family}-") for path in SHIPPED.glob(f"{family}-*.safetensors"))


def resolve(weights: str | Path, family: str) -> Path:
    """Return the file of shipped weights, or the path itself.

    Raises:
        WeightsError: If neither a shipped name nor a file.
    """
    named = SHIPPED / f"{family}-{weights}.safetensors"
    path = named if named.is_file() else Path(weights).expanduser()
    if not path.is_file():
        known = ", ".join(shipped(family)) or "none"
        raise WeightsError(f"weights of {family} must be a file or a shipped name ({known}), got {str(weights)!r}; give a path that exists")
    return path


def read_safetensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Raises:
        WeightsError: If the file is damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights must be a readable safetensors file, got {path.name}: {error}; fetch or train it again") from error


def read_checkpoint(path: Path) -> Weights:
    """Read a flat state dict that ``torch.save`` wrote, tensors only.

    Raises:
        WeightsError: If the file is damaged, holds more than tensors, or is no flat dict of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, EOF and runtime errors for what is no checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"weights must be a checkpoint of plain tensors, got {path.name}: {reason}; fetch it again") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"weights must be a flat dict of tensors, got another structure in {path.name}; save model.state_dict() alone")
    return state


def fill(model: nn.Module, state: Weights, source: str, assign: bool = False) -> None:
    """Copy a state dict into a model; every key must be there, none may be left over, every shape must agree.

    Args:
        model: The model.
        state: Its tensors; numbers of less precision become float32.
        source: Name of the file, for the message.
        assign: Take the tensors themselves, which spares a copy and fills a model that was built on the meta device.

    Raises:
        WeightsError: Listing unknown keys, missing keys and wrong shapes.
    """
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    faults = {"missing keys": missing, "unknown keys": unknown, "wrong shapes": shapes}
    found = "; ".join(f"{len(keys)} {fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys)
    if found:
        raise WeightsError(
            f"weights must fit {type(model).__name__} key by key, got {source} with {found}; give the checkpoint of this architecture"
        )
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()}, assign=assign)


def write_safetensors(path: Path, tensors: Weights, metadata: dict[str, str]) -> None:
    """Write tensors and metadata; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, part, metadata=metadata)
    part.chmod(0o644)
    part.replace(path)
