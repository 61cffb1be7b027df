"""What a plugin's process may read: the interpreter, the installed libraries, the code of xaibench, and the plugin. No data, no weights.

The code of xaibench is copied file by file, ``*.py`` alone: beside it, in a checkout as in an installed package, lie recordings, real twins
and weights of detectors.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATIONS = ("tasks", "explainers", "benchmark")
SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache")
"""Where shared libraries lie."""


@dataclass(frozen=True)
class Room:
    """The paths that a plugin's process needs."""

    folder: Path
    """Temporary folder that holds ``xaibench`` and ``plugin``."""

    @property
    def plugin(self) -> Path:
        """Folder of the plugin's files."""
        return self.folder / "plugin"

    @property
    def python(self) -> str:
        """The interpreter itself, past the links of virtual environments."""
        return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())

    @property
    def libraries(self) -> list[str]:
        """Folders of installed packages, in the order of the search path."""
        return [path for path in dict.fromkeys(sys.path) if Path(path).name in ("site-packages", "dist-packages") and Path(path).is_dir()]

    @property
    def interpreter(self) -> list[str]:
        """Paths of the interpreter and of the system's libraries."""
        wanted = (sys.base_prefix, *SYSTEM) if not sys.base_prefix.startswith("/usr") else ("/usr", *SYSTEM)
        return [path for path in dict.fromkeys(wanted) if Path(path).exists()]

    @property
    def masked(self) -> list[str]:
        """Folders of an installed xaibench, here or in the interpreter's own library: they hold recordings and weights."""
        found = [Path(library) / "xaibench" for library in self.libraries]
        for home in (sys.base_prefix, "/usr", "/usr/local"):
            found += Path(home).glob("lib*/python3*/*-packages/xaibench")
        return sorted({str(path) for path in found if path.is_dir()})

    def argv(self) -> list[str]:
        """Return the command of the plugin's process; no file of a virtual environment or of the user adds to its search path."""
        stdlib = [path for path in sys.path if path.startswith(sys.base_prefix) and path not in self.libraries]
        search = [str(self.folder), *dict.fromkeys(stdlib), *self.libraries]
        code = f"import sys; sys.path[:] = {search!r}; from xaibench.leaderboard.sandbox.host import main; main()"
        return [self.python, "-I", "-S", "-B", "-c", code]

    def readable(self) -> list[str]:
        """Return what Landlock leaves readable: it cannot take out a folder, so those around a masked one are named one by one."""
        masked = [Path(path) for path in self.masked]
        return [str(found) for path in (*self.interpreter, *self.libraries, str(self.folder)) for found in _around(Path(path), masked)]

    def hidden(self) -> bool:
        """Tell whether some folder on the way may be entered by its owner alone, e.g. an interpreter in root's home."""
        paths = [Path(path).resolve() for path in (*self.interpreter, *self.libraries, str(self.folder))]
        ways: set[Path] = {parent for path in paths for parent in (path, *path.parents)}
        return any(not parent.stat().st_mode & 0o001 for parent in ways if parent.is_dir())


@contextmanager
def room(files: Mapping[str, bytes]) -> Iterator[Room]:
    """Make a room with a plugin's files and remove it afterwards.

    Args:
        files: Content by plain file name.
    """
    folder = Path(tempfile.mkdtemp(prefix="xaibench-room-"))
    try:
        folder.chmod(0o755)
        made = Room(folder)
        _copy_code(folder / "xaibench")
        made.plugin.mkdir()
        for name, content in files.items():
            (made.plugin / Path(name).name).write_bytes(content)
        _open_to_all(folder)
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _around(path: Path, masked: Sequence[Path]) -> Iterator[Path]:
    if path in masked:
        return
    if not any(path in hidden.parents for hidden in masked):
        yield path
        return
    for entry in sorted(path.iterdir()):
        yield from _around(entry, masked)


def _copy_code(target: Path) -> None:
    root = _home("xaibench")
    for path in root.glob("*.py"):
        _copy(path, target / path.name)
    for station in STATIONS:
        home = _home(f"xaibench.{station}")
        for path in home.rglob("*.py"):
            _copy(path, target / station / path.relative_to(home))
    leaderboard = _home("xaibench.leaderboard")
    for path in (leaderboard / "__init__.py", *(leaderboard / "sandbox").glob("*.py")):
        _copy(path, target / "leaderboard" / path.relative_to(leaderboard))


def _home(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    return Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _open_to_all(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in files:
            (Path(parent) / name).chmod(0o644)
