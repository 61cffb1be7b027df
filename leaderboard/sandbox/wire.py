"""Frames on a pipe between the parent and the plugin's process: a JSON header and float32 arrays. Nothing is pickled, nothing is evaluated.

Both sides read with limits; the parent also with a deadline, since what is at the other end may say anything, or nothing.
"""

import json
import math
import os
import select
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaibench.errors import XaibenchError

MAX_HEADER = 1 << 16
MAX_PAYLOAD = 1 << 27
MAX_ARRAYS, MAX_AXES = 4, 4
_HEAD = struct.Struct(">II")


class WireError(XaibenchError):
    """The other side is gone, or does not keep to the protocol."""


@dataclass(frozen=True)
class Frame:
    """One message."""

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return a fact as text of one line, empty where it is missing."""
        from xaibench.benchmark.units import clean

        return clean(str(self.facts.get(name, "")))


def send(handle: int, frame: Frame, deadline: float | None = None) -> None:
    """Write a frame.

    Args:
        handle: File descriptor; it must not block where there is a deadline, as the other side may never read.
        frame: The message.
        deadline: Of ``time.monotonic``; ``None`` waits for ever.

    Raises:
        TimeoutError: If the deadline passes.
        WireError: If the other side is gone.
    """
    shapes = {name: array.shape for name, array in frame.arrays.items()}
    header = json.dumps({"kind": frame.kind, "facts": frame.facts, "shapes": shapes}, allow_nan=False).encode()
    payload = b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in frame.arrays.values())
    content = memoryview(_HEAD.pack(len(header), len(payload)) + header + payload)
    try:
        while content:
            if deadline is not None:
                _wait(deadline, writes=[handle])
            content = content[os.write(handle, content) :]
    except TimeoutError:
        raise
    except OSError as error:
        raise WireError("plugin must stay alive, got a closed pipe; look at its messages") from error


def receive(handle: int, deadline: float | None = None) -> Frame:
    """Read a frame.

    Args:
        handle: File descriptor.
        deadline: Of ``time.monotonic``; ``None`` waits for ever.

    Raises:
        TimeoutError: If the deadline passes.
        WireError: If the pipe ends, or a frame is too large or malformed.
    """
    header_bytes, payload_bytes = _HEAD.unpack(_read(handle, _HEAD.size, deadline))
    if header_bytes > MAX_HEADER or payload_bytes > MAX_PAYLOAD:
        raise WireError(f"frame must have at most {MAX_PAYLOAD} bytes, got {header_bytes} and {payload_bytes}; send less at once")
    header = _read(handle, header_bytes, deadline)
    payload = _read(handle, payload_bytes, deadline)
    try:
        parsed = json.loads(header)
        return Frame(str(parsed["kind"]), dict(parsed["facts"]), _arrays(dict(parsed["shapes"]), payload))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WireError("frame must have a header of kind, facts and shapes, got something else; use xaibench on both sides") from error


def _arrays(shapes: dict[str, Any], payload: bytes) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    start = 0
    if len(shapes) > MAX_ARRAYS:
        raise ValueError("too many arrays")
    for name, shape in shapes.items():
        sizes = [int(size) for size in shape]
        if len(sizes) > MAX_AXES or any(not 0 <= size <= MAX_PAYLOAD for size in sizes):
            raise ValueError("no shape")
        count = math.prod(sizes)
        if start + 4 * count > len(payload):
            raise ValueError("more cells than bytes")
        found[str(name)] = np.frombuffer(payload, "<f4", count, start).reshape(sizes).astype(np.float32)
        start += 4 * count
    if start != len(payload):
        raise ValueError("more bytes than cells")
    return found


def _wait(deadline: float, reads: Sequence[int] = (), writes: Sequence[int] = ()) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not any(select.select(reads, writes, [], left)):
        raise TimeoutError("took longer than allowed")


def _read(handle: int, count: int, deadline: float | None) -> bytes:
    content = bytearray()
    while len(content) < count:
        if deadline is not None:
            _wait(deadline, reads=[handle])
        try:
            piece = os.read(handle, min(count - len(content), 1 << 20))
        except OSError as error:
            raise WireError(f"plugin must stay alive, got {error.strerror}; look at its messages") from error
        if not piece:
            raise WireError("plugin must stay alive, got the end of its output; look at its messages")
        content += piece
    return bytes(content)
