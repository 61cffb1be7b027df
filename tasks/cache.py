"""Where audio is looked for, where derived files go, and how a file appears whole or not at all.

``XAIBENCH_DATA`` names a folder that may be read-only; ``XAIBENCH_CACHE`` one that is ours to write (default: the user's cache folder).
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xaibench.errors import DataError


def data_dir() -> Path | None:
    """Return the folder that ``XAIBENCH_DATA`` names, or None where it is not set.

    Raises:
        DataError: If it names something that is not a folder.
    """
    value = os.environ.get("XAIBENCH_DATA", "")
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise DataError(f"XAIBENCH_DATA must name a folder, got {value!r}; correct it or unset it")
    return path


def cache_dir() -> Path:
    """Return the folder for everything derived or downloaded; it need not exist yet."""
    value = os.environ.get("XAIBENCH_CACHE", "")
    if value:
        return Path(value).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("xaibench", appauthor=False))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` (same suffix) that replaces it when the block ends well, and vanishes when it does not.

    Raises:
        DataError: If the folder cannot be written or the disk is full; the ``OSError`` is its cause.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        _settle(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Write ``content`` so that a reader sees the old file or the new one, never a part; parents are made.

    Raises:
        DataError: If the folder cannot be written or the disk is full; the ``OSError`` is its cause.
    """
    with atomic_path(Path(path)) as part:
        part.write_bytes(content)


def _settle(part: Path, path: Path) -> None:
    """Flush to disk, give the mode that the user's mask asks for (temporary files are private), and rename."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    mask = os.umask(0)
    os.umask(mask)
    part.chmod(0o666 & ~mask)
    part.replace(path)


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} must be writable, got {error.strerror or error}; free space, or choose another folder (XAIBENCH_CACHE, --out)"
    )
