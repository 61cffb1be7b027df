"""Converts a raw fairseq checkpoint (``xlsr2_300m.pt``) to safetensors: ``python -m xaibench.tasks.detectors.fairseq_file IN OUT``.

Such a file pickles the options of its training beside the tensors, so the safe loader of torch refuses it. This reader follows the pickle
without importing or calling anything that it names: tensors and ordered dicts are rebuilt here, whatever else is asked for becomes a
``Placeholder`` that ignores what is done to it. Both formats of ``torch.save`` are read, the zip archive and the older plain one.
"""

import argparse
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from xaibench.errors import WeightsError
from xaibench.tasks.detectors.weights import write_safetensors
from xaibench.types import Weights

MAGIC = 0x1950A86A20F9469CFC6C
"""First value of torch's plain format."""
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Placeholder:
    """Stands for any object that is not a tensor; takes every argument, item and state, and keeps none."""

    def __new__(cls, *_args: Any, **_options: Any) -> "Placeholder":
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_options: Any) -> None:
        """Ignore the arguments."""

    def __call__(self, *_args: Any, **_options: Any) -> "Placeholder":
        """Return itself."""
        return self

    def __setstate__(self, _state: Any) -> None:
        """Ignore the state."""

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Ignore the item."""

    def append(self, _item: Any) -> None:
        """Ignore the item."""

    def extend(self, _items: Any) -> None:
        """Ignore the items."""

    def add(self, _item: Any) -> None:
        """Ignore the item."""


class Reader(pickle.Unpickler):
    """An unpickler that builds tensors and plain containers, and nothing else.

    Args:
        file: The pickle.
        storage: Returns the flat tensor of a storage by key, dtype and number of elements.
    """

    def __init__(self, file: Any, storage: Callable[[str, torch.dtype, int], Tensor]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return the builder of a tensor, a dtype, ``OrderedDict``, or a placeholder; never what the name stands for elsewhere."""
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _parameter
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else Placeholder

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the storage that a tensor lies in."""
        _, dtype, key, _, count = pid[:5]
        return self._storage(str(key), dtype, int(count))


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_rest: Any) -> Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _parameter(data: Tensor, *_rest: Any) -> Tensor:
    return data


def read_fairseq(path: Path) -> Weights:
    """Return the model's tensors under fairseq's names.

    Raises:
        WeightsError: If the file is damaged or holds no model.
    """
    try:
        saved = _read_zip(path) if zipfile.is_zipfile(path) else _read_plain(path)
        found = saved.get("model", saved)
        tensors = {str(key): value.clone() for key, value in found.items() if isinstance(value, Tensor)}
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f"{type(error).__name__} {error}"
        raise WeightsError(f"weights must be a fairseq checkpoint, got {path.name}: {reason}; fetch it again") from error
    if not tensors:
        raise WeightsError(f"weights must hold tensors under 'model', got none in {path.name}; give the published checkpoint")
    return tensors


def _read_zip(path: Path) -> Any:
    """Read the archive in which each storage is a file beside ``data.pkl``."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        home = pickled.removesuffix("data.pkl")
        if f"{home}byteorder" in archive.namelist() and archive.read(f"{home}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        storages: dict[str, Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            if key not in storages:
                name = f"{home}data/{key}"
                if archive.getinfo(name).file_size != count * dtype.itemsize:
                    raise ValueError(f"storage {key} has another size than its tensor")
                storages[key] = torch.frombuffer(bytearray(archive.read(name)), dtype=dtype) if count else torch.empty(0, dtype=dtype)
            return storages[key]

        with archive.open(pickled) as file:
            return Reader(file, storage).load()


def _read_plain(path: Path) -> Any:
    """Read the older format: three headers, the object, the storages' keys, and their numbers in that order."""
    size, storages = path.stat().st_size, dict[str, Tensor]()

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if count * dtype.itemsize > size:
            raise ValueError(f"storage {key} is larger than the file")
        if key not in storages:
            storages[key] = torch.empty(count, dtype=dtype)
        return storages[key]

    with path.open("rb") as file:
        magic, *_ = (Reader(file, storage).load() for _ in range(3))
        if magic != MAGIC:
            raise ValueError("it was not written by torch.save")
        saved, keys = Reader(file, storage).load(), Reader(file, storage).load()
        for key in keys:
            _fill(storages[str(key)], file)
    return saved


def _fill(storage: Tensor, file: BinaryIO) -> None:
    """Read the numbers of one storage."""
    (count,) = struct.unpack("<q", file.read(8))
    if count != len(storage):
        raise ValueError(f"a storage of {len(storage)} numbers has {count} in the file")
    if count:
        storage.copy_(torch.frombuffer(bytearray(file.read(count * storage.dtype.itemsize)), dtype=storage.dtype))


def main(arguments: list[str] | None = None) -> None:
    """Convert one file from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="fairseq checkpoint (.pt)")
    parser.add_argument("target", type=Path, help="file to write (.safetensors)")
    options = parser.parse_args(arguments)
    write_safetensors(options.target, read_fairseq(options.source), {"format": "pt", "origin": "fairseq"})


if __name__ == "__main__":
    main()
