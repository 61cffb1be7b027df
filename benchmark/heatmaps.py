"""Heatmaps on disk: lossless, named by their content, readable by numpy without pickles.

A file is the ``.npy`` under zstd of one float32 map; its name is the SHA-256 of the little-endian values, which is verified on reading.
"""

import io
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaibench.errors import RunError

PIECE_BYTES = 1 << 20
MAX_BYTES = 1 << 28
"""No heatmap of a supported grid comes near; a file that unpacks to more is damaged."""


def heatmap_path(folder: Path, digest: str) -> Path:
    """Where the heatmap of this hash lies in a run folder."""
    return folder / "heatmaps" / f"{digest}.npy.zst"


def write_heatmap(folder: Path, heatmap: Tensor) -> str:
    """Store one map (F, N) and return its SHA-256; a map that is already there is kept if it is intact, else replaced.

    The file appears whole or not at all. It is not synced to the disk: a file torn by a power cut fails its hash and is made again.

    Raises:
        RunError: If the folder is full or cannot be written.
    """
    import pyarrow

    array = np.ascontiguousarray(heatmap.detach().cpu().numpy(), dtype="<f4")
    digest = sha256(array.tobytes()).hexdigest()
    path = heatmap_path(folder, digest)
    if is_intact(folder, digest):
        return digest
    part = path.with_name(f".{digest}.{os.getpid()}.part")
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    try:
        with pyarrow.output_stream(str(part), compression="zstd") as stream:
            stream.write(buffer.getvalue())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(f"out must be a folder that can be written, got {folder}: {error}; free some space or choose --out") from error
    return digest


def store_packed(folder: Path, digest: str, content: bytes) -> None:
    """Store the file of a heatmap that another machine wrote, after reading it as if it came from a stranger.

    Raises:
        RunError: If it is not the heatmap of this hash, or the folder cannot be written.
    """
    path = heatmap_path(folder, digest)
    if len(digest) != 64 or not digest.isalnum():
        raise RunError(f"heatmap must be named by its SHA-256, got {digest!r}; use workers of the same release")
    if is_intact(folder, digest):
        return
    part = path.with_name(f".{digest}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(f"out must be a folder that can be written, got {folder}: {error}; free some space or choose --out") from error
    read_heatmap(folder, digest)


def is_intact(folder: Path, digest: str) -> bool:
    """Tell whether the map of this hash is there and whole."""
    try:
        read_heatmap(folder, digest)
    except RunError:
        return False
    return True


def _unpacked(stream: Any) -> bytes:
    """Read a stream piece by piece: asked for its limit at once, the library would reserve that much memory."""
    content = bytearray()
    while piece := stream.read(PIECE_BYTES):
        content += piece
        if len(content) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES} bytes")
    return bytes(content)


def read_heatmap(folder: str | Path, digest: str) -> Tensor:
    """Read one map, (F, N) float32.

    Raises:
        RunError: If it is missing or damaged.
    """
    import pyarrow

    path = heatmap_path(Path(folder), digest)
    try:
        with pyarrow.input_stream(str(path), compression="zstd") as stream:
            array = np.load(io.BytesIO(_unpacked(stream)), allow_pickle=False)
        if array.dtype != np.dtype("<f4") or sha256(array.tobytes()).hexdigest() != digest:
            raise ValueError("content differs from its name")
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"heatmap must be intact, got {path.name}: {error}; delete it and give the same command again") from error
    return torch.from_numpy(array)
