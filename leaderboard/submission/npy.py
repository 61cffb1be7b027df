"""One heatmap as a ``.npy`` file, by a reader that knows a single header and evaluates nothing.

The general reader of numpy evaluates the header as a Python literal, reserves what it claims, and loads pickles on request. Here the header
must be letter for letter what ``np.save`` writes for a float16 or float32 array in C order, and its size must be that of the file.
"""

import io
import re
import struct

import numpy as np
from numpy.typing import NDArray

from xaibench.errors import SubmissionError

MAGIC = b"\x93NUMPY\x01\x00"
HEADER = re.compile(rb"\{'descr': '<f([24])', 'fortran_order': False, 'shape': \((\d{1,5}), (\d{1,5})\), \} {0,63}\n")
SIZES = {b"2": 2, b"4": 4}


def parse(content: bytes, name: str = "heatmap") -> NDArray[np.float32]:
    """Return the map (F, N) as float32.

    Args:
        content: The whole file.
        name: What it is called in messages.

    Raises:
        SubmissionError: If it is anything but one two-dimensional array of little-endian float16 or float32 in C order.
    """
    length = struct.unpack_from("<H", content, 8)[0] if len(content) >= 10 else 0
    found = HEADER.fullmatch(content, 10, 10 + length) if content.startswith(MAGIC) else None
    if found is None:
        raise SubmissionError(
            f"{name} must be a .npy file of float16 or float32, C order, two axes, got another header; save it with "
            f"np.save(file, map.astype('<f4'), allow_pickle=False)"
        )
    size, shape = SIZES[found[1]], (int(found[2]), int(found[3]))
    claimed = 10 + length + shape[0] * shape[1] * size
    if claimed != len(content):
        raise SubmissionError(f"{name} must have the {claimed} bytes that its header claims, got {len(content)}; save it again")
    array: NDArray[np.float32] = np.frombuffer(content, f"<f{size}", offset=10 + length).reshape(shape).astype(np.float32)
    return array


def dump(heatmap: NDArray[np.floating]) -> bytes:
    """Write a map (F, N) of float16 or float32 as ``parse`` reads it."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(heatmap, heatmap.dtype.newbyteorder("<")), allow_pickle=False)
    return buffer.getvalue()
