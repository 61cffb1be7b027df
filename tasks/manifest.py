"""The manifest of a paired corpus, as CSV or JSON: read strictly, written atomically."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from xaibench.errors import DataError
from xaibench.tasks.cache import atomic_write
from xaibench.types import Pair, Split

COLUMNS = tuple(f.name for f in fields(Pair))
REQUIRED = tuple(f.name for f in fields(Pair) if f.default is MISSING)
SPLITS: tuple[Split, ...] = get_args(Split)


def read_manifest(path: Path, root: Path | None = None) -> list[Pair]:
    """Read pairs from a CSV (a header, then a row per pair) or a JSON file (a list of objects); columns are the fields of ``Pair``.

    Args:
        path: The manifest, ``.csv`` or ``.json``.
        root: Folder to which paths are relative; with it, every file must exist.

    Raises:
        DataError: If the file is missing or malformed, a column is unknown or missing, a value is not of its kind, an id appears twice,
            a path leaves the folder, or (with ``root``) a file is missing; one sentence that names the row.
    """
    path = Path(path)
    rows = _rows(path)
    pairs = [_pair(row, f"{path.name} row {number}") for number, row in enumerate(rows, start=1)]
    twice = [(name, count) for name, count in Counter(p.id for p in pairs).items() if count > 1]
    if twice:
        raise DataError(f"{path.name} must give every pair its own id, got {twice[0][0]!r} {twice[0][1]} times; rename one")
    if root is not None:
        check_files(pairs, root)
    return pairs


def write_manifest(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as CSV or JSON by the suffix of ``path``, atomically, in the order given."""
    path = Path(path)
    rows = [asdict(p) for p in pairs]
    if path.suffix == ".json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**r, "seen_vocoder": str(r["seen_vocoder"]).lower()} for r in rows)
        text = buffer.getvalue()
    atomic_write(path, text.encode())


def check_files(pairs: Iterable[Pair], root: Path) -> None:
    """Raise ``DataError`` with the first missing file and the count of all, so that nothing is dropped silently."""
    names = dict.fromkeys(name for p in pairs for name in (p.bonafide, p.spoof))
    missing = [name for name in names if not (Path(root) / name).is_file()]
    if missing:
        raise DataError(
            f"{root} must hold every listed file, got {len(missing)} of {len(names)} missing, first {missing[0]}; restore or unlist them"
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a readable manifest in UTF-8, got {error}; check the path") from error
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    if path.suffix != ".json":
        raise DataError(f"manifest must be a .csv or .json file, got {path.name}; rename or convert it")
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path.name} must be JSON, got {error}; correct it") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path.name} must be a list of objects, one per pair, got {type(rows).__name__}; see write_manifest")
    return rows


def _pair(row: dict[str, Any], where: str) -> Pair:
    """Check one row and turn it into a pair."""
    row = {k: v for k, v in row.items() if v is not None}
    unknown = [str(k) for k in row if k not in COLUMNS]
    if unknown:
        raise DataError(f"{where} must have columns among {', '.join(COLUMNS)}, got {unknown[0]!r}; rename or remove it")
    missing = [k for k in REQUIRED if not row.get(k)]
    if missing:
        raise DataError(f"{where} must name {', '.join(REQUIRED)}, got no {missing[0]}; fill it in")
    values = {k: parse(row[k], where) for k, parse in _PARSERS.items() if k in row and row[k] != ""}
    return Pair(**values)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} must hold text, got {value!r}; put it in quotes")
    return value


def _relative(value: Any, where: str) -> str:
    path = PurePosixPath(_text(value, where))
    if path.is_absolute() or ".." in path.parts or "\\" in value:
        raise DataError(f"{where} must name files relative to the data folder with forward slashes, got {value!r}; shorten the path")
    return str(path)


def _integer(value: Any, where: str) -> int:
    try:
        if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
            raise ValueError
        return int(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} must give lag as whole samples at 16 kHz, got {value!r}; round it") from error


def _boolean(value: Any, where: str) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in known:
        raise DataError(f"{where} must give seen_vocoder as true or false, got {value!r}; correct it")
    return known[str(value).lower()]


def _split_name(value: Any, where: str) -> str:
    if value not in SPLITS:
        raise DataError(f"{where} must give split as one of {', '.join(SPLITS)}, got {value!r}; correct it")
    return str(value)


_PARSERS: dict[str, Callable[[Any, str], Any]] = {name: _text for name in COLUMNS} | {
    "bonafide": _relative,
    "spoof": _relative,
    "lag": _integer,
    "seen_vocoder": _boolean,
    "split": _split_name,
}
