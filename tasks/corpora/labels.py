"""PartialSpoof's segment labels: converted once from a pickled array to plain arrays, without unpickling anything.

The released ``.npy`` files hold a pickled dict of arrays. Unpickling runs whatever a file asks for, so the pickle is never executed:
its opcodes (as ``pickletools`` reads them) are followed by a small machine that knows texts, numbers, bytes, tuples, lists, dicts and the
few names by which numpy writes an array. Names stay names, nothing is imported or called, and anything else is refused.
"""

import io
import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaibench.errors import DataError
from xaibench.tasks.cache import atomic_write

PARTS = ("train", "dev", "eval")
ARRAY_NAMES = {
    f"{module} {name}"
    for module, names in {
        "numpy.core.multiarray": ("_reconstruct",),
        "numpy._core.multiarray": ("_reconstruct",),
        "numpy": ("ndarray", "dtype"),
        "_codecs": ("encode",),
    }.items()
    for name in names
}
KINDS = {"U": "U", "S": "S", "i": "i", "u": "u", "b": "b"}
"""Kinds of label values that are read: texts, bytes, integers, truth values."""


@dataclass(frozen=True)
class SegmentLabels:
    """Labels of one part: 1 bona fide, 0 fake, one for each 10 ms."""

    values: NDArray[np.uint8]
    """Labels of all utterances, one after the other."""
    spans: dict[str, tuple[int, int]]

    def names(self) -> Iterable[str]:
        """Return the utterances."""
        return self.spans.keys()

    def __getitem__(self, name: str) -> NDArray[np.uint8]:
        """Return the labels of one utterance."""
        start, stop = self.spans[name]
        return self.values[start:stop]


def converted_name(part: str) -> str:
    """Return the name of the converted labels of a part."""
    return f"{part}_seglab_0.01.npz"


def convert(folder: Path, out: Path | None = None) -> list[Path]:
    """Convert the labels of all parts that ``folder`` (``segment_labels/``, or a folder above it) holds.

    Args:
        folder: Where the released ``.npy`` files lie.
        out: Where the converted files go; beside them by default.

    Returns:
        The files written.

    Raises:
        DataError: If there is none, or a file is not what was released.
    """
    places = [folder, folder / "segment_labels", folder / "database" / "segment_labels"]
    place = next((p for p in places if any((p / f"{part}_seglab_0.01.npy").is_file() for part in PARTS)), None)
    if place is None:
        raise DataError(f"folder must hold <part>_seglab_0.01.npy, got {folder}; get doi:10.5281/zenodo.5766198")
    written = []
    for part in PARTS:
        source = place / f"{part}_seglab_0.01.npy"
        if source.is_file():
            labels = pickled_labels(source)
            written.append((out or place) / converted_name(part))
            buffer = io.BytesIO()
            np.savez_compressed(
                buffer,
                names=np.array(list(labels), dtype=np.str_),
                lengths=np.array([len(v) for v in labels.values()], dtype=np.int64),
                labels=np.concatenate(list(labels.values())),
            )
            atomic_write(written[-1], buffer.getvalue())
    return written


def read_labels(path: Path) -> SegmentLabels:
    """Read converted labels.

    Raises:
        DataError: If they were not converted, or are damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} must exist, got no such file; run `xaibench data convert partialspoof {path.parent}` once")
    try:
        with np.load(path, allow_pickle=False) as file:
            names, lengths, values = file["names"].tolist(), file["lengths"], file["labels"].astype(np.uint8)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} must hold converted labels, got {error}; run `xaibench data convert partialspoof` again") from error
    ends = np.cumsum(lengths).tolist()
    if len(names) != len(ends) or (ends[-1] if ends else 0) != len(values):
        raise DataError(f"{path} must hold as many labels as it counts, got {len(values)}; run `xaibench data convert partialspoof` again")
    return SegmentLabels(values, dict(zip(names, zip([0, *ends[:-1]], ends, strict=True), strict=True)))


def pickled_labels(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Read a released file: utterance to labels, 1 bona fide and 0 fake.

    Raises:
        DataError: If it is no such file, or its pickle asks for anything but arrays of labels.
    """
    with path.open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if dtype.kind != "O" or shape != ():
                raise ValueError(f"an array of {dtype} {shape}")
            content = _follow(stream.read())
            return {str(name): _labels(value) for name, value in _only_item(content).items()}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise DataError(f"{path} must be PartialSpoof's segment labels, got {error}; get doi:10.5281/zenodo.5766198") from error


@dataclass
class _Call:
    """A name that the pickle would have called, with what it would have been given."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def _only_item(content: Any) -> dict[Any, Any]:
    """Return the dict in a pickled array of one object."""
    if isinstance(content, _Call) and content.name.endswith("_reconstruct"):
        items = content.state[4]
        if isinstance(items, list) and len(items) == 1 and isinstance(items[0], dict):
            return items[0]
    raise ValueError("no dict of utterances")


def _labels(value: Any) -> NDArray[np.uint8]:
    """Turn one utterance's labels, an array or a list of texts or numbers, into 0 and 1."""
    if isinstance(value, _Call):
        _, shape, kind, fortran, content = value.state
        letters = kind.arguments[0]
        order = kind.state[1] if kind.state and kind.state[1] in "<>" else ""
        if fortran or len(shape) != 1 or letters[0] not in KINDS:
            raise ValueError("labels of another form")
        value = np.frombuffer(_bytes(content), dtype=np.dtype(order + letters)).tolist()
    texts = [_bytes(v).decode() if isinstance(v, (bytes, _Call)) else v if isinstance(v, str) else str(int(v)) for v in value]
    if not texts or not set(texts) <= {"0", "1"}:
        raise ValueError(f"labels that are not 0 or 1: {sorted(set(texts))[:3]}")
    return np.array([t == "1" for t in texts], dtype=np.uint8)


def _bytes(value: Any) -> bytes:
    """Return bytes, which old protocols write as the text that ``_codecs.encode`` would turn into them."""
    if isinstance(value, _Call) and value.name == "_codecs encode":
        return str(value.arguments[0]).encode("latin1")
    if not isinstance(value, bytes):
        raise ValueError("labels of another form")
    return value


_MARK = object()


def _follow(pickled: bytes) -> Any:
    """Follow the opcodes of a pickle without running it; return its value with calls left as ``_Call``."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name in _PUSHES:
            stack.append(_PUSHES[name](argument))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(str(argument))] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(str(argument))])
        elif name in _ACTIONS:
            _ACTIONS[name](stack)
        else:
            raise ValueError(f"a pickle with {name}")
    raise ValueError("a pickle without an end")


def _global(name: str) -> str:
    if name not in ARRAY_NAMES:
        raise ValueError(f"a pickle that asks for {name}")
    return name


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


_PUSHES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"), str),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG"), int),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), bytes),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), lambda text: text.encode("latin1")),
    "GLOBAL": _global,
    "MARK": _constant(_MARK),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
}


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    at = max(i for i, item in enumerate(stack) if item is _MARK)
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _set_items(stack: list[Any]) -> None:
    items = _pop_to_mark(stack)
    stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    stack[-1][key] = value


def _tuple(count: int) -> Callable[[list[Any]], None]:
    def act(stack: list[Any]) -> None:
        items = tuple(stack[-count:])
        del stack[-count:]
        stack.append(items)

    return act


def _reduce(stack: list[Any]) -> None:
    arguments, name = stack.pop(), stack.pop()
    stack.append(_Call(_global(name), tuple(arguments)))


def _build(stack: list[Any]) -> None:
    state = stack.pop()
    if not isinstance(stack[-1], _Call):
        raise ValueError("a pickle that gives a state to no array")
    stack[-1].state = state


def _stack_global(stack: list[Any]) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_global(f"{module} {name}"))


def _append(stack: list[Any]) -> None:
    item = stack.pop()
    stack[-1].append(item)


def _extend(stack: list[Any]) -> None:
    items = _pop_to_mark(stack)
    stack[-1].extend(items)


_ACTIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": lambda stack: stack.append(tuple(_pop_to_mark(stack))),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _extend,
    "REDUCE": _reduce,
    "BUILD": _build,
    "STACK_GLOBAL": _stack_global,
}
