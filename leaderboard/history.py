"""The history of a folder of runs: every primary score by date, and what changed since the run before it that asked the same.

Of each run only ``summary.json`` is read, line by line, and the date in its manifest; so a thousand runs need the memory of one. Two runs
ask the same if suite, tier, task, detector, truth and explainer are equal, the first, third and fourth by their hash. A score is marked as
lower or higher where each mean lies outside the other's interval; that is a hint for the eye, and ``xaibench compare`` is the paired test.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import xaibench
from xaibench.benchmark.migrate import NEWEST, read_document
from xaibench.errors import RunError
from xaibench.leaderboard.pages import environment
from xaibench.leaderboard.words import PRIMARY, metric

DEEPEST = 3
"""How far below the folder a run may lie: protocols and tables of papers make folders of runs."""
RUNS_PER_PAGE = 50
WANTED = f'"metric":"{PRIMARY}"'.encode()
"""What stands in the lines of a summary that are shown, and in few others."""


class Place(NamedTuple):
    """What two runs must have in common to be compared."""

    suite: str
    suite_sha256: str
    tier: str
    task: str
    content: str
    detector: str
    weights: str
    recipe: str
    explainer: str


class Value(NamedTuple):
    """A primary score with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Entry:
    """A line of the history."""

    place: Place
    title: str
    group: str
    n: int
    value: Value | None
    before: Value | None
    note: str

    @property
    def change(self) -> float | None:
        """Difference from the run before."""
        return None if self.value is None or self.before is None else self.value.mean - self.before.mean

    @property
    def verdict(self) -> str:
        """``"lower"`` or ``"higher"`` where each mean lies outside the other's interval, else empty."""
        if self.value is None or self.before is None:
            return "vanished" if self.before is not None else ""
        if self.value.mean < self.before.low and self.before.mean > self.value.high:
            return "lower"
        return "higher" if self.value.mean > self.before.high and self.before.mean < self.value.low else ""


class Run(NamedTuple):
    """Where a run lies and when it was started."""

    started_at: str
    name: str
    path: Path


def is_run(path: str | Path) -> bool:
    """Tell whether a folder is one run, and not a folder of runs."""
    return any((Path(path) / name).is_file() for name in ("summary.json", "manifest.json", "journal.sqlite"))


def build_history(folder: str | Path, out_dir: str | Path | None = None) -> Path:
    """Write the pages of a folder of runs, newest first.

    Args:
        folder: Folder with run folders in it.
        out_dir: Where to write; ``history`` in the folder by default.

    Returns:
        Path of ``index.html``.

    Raises:
        RunError: If there is no run in the folder, or the pages cannot be written.
    """
    root = Path(folder)
    out = Path(out_dir) if out_dir is not None else root / "history"
    runs = sorted(_runs(root, DEEPEST))
    if not runs:
        raise RunError(f"folder must hold runs, got none that is finished in {root}; make one with `xaibench run`")
    try:
        return _write(root, runs, out)
    except OSError as error:
        raise RunError(f"out_dir must be a folder that can be written, got {out}: {error.strerror or error}; choose another one") from error


def _write(root: Path, runs: list[Run], out: Path) -> Path:
    """Render run by run in the order of dates, keep the pieces in a file, and put them together the other way around."""
    out.mkdir(parents=True, exist_ok=True)
    last: dict[Place, Value] = {}
    template = environment().get_template("history_run.html")
    with tempfile.TemporaryFile(dir=out) as pieces:
        marks: list[tuple[int, int]] = []
        regressions = 0
        for run in runs:
            entries, why = _entries(run, last)
            regressions += sum(entry.verdict in ("lower", "vanished") for entry in entries)
            page = run.path / "report" / "index.html"
            link = quote(os.path.relpath(page, out)) if page.is_file() else ""
            start = pieces.tell()
            pieces.write(template.render(run=run, name=os.path.relpath(run.path, root), entries=entries, link=link, why=why).encode())
            marks.append((start, pieces.tell() - start))
        marks.reverse()
        pages = [marks[i : i + RUNS_PER_PAGE] for i in range(0, len(marks), RUNS_PER_PAGE)]
        for number, part in enumerate(pages):
            _page(out, number, len(pages), {"count": len(runs), "regressions": regressions}, (_piece(pieces, *mark) for mark in part))
    return out / "index.html"


def _file(number: int) -> str:
    return f"page-{number + 1}.html" if number else "index.html"


def _piece(pieces: Any, start: int, length: int) -> bytes:
    pieces.seek(start)
    found: bytes = pieces.read(length)
    return found


def _page(out: Path, number: int, count: int, facts: Mapping[str, Any], pieces: Iterator[bytes]) -> None:
    """Write a page, which appears whole or not at all."""
    navigation = [(_file(i), "Newest runs" if i == 0 else f"Page {i + 1}") for i in range(count)]
    frame = environment().get_template("history.html")
    text = frame.render(navigation=navigation, here=_file(number), root="", version=xaibench.__version__, mark="\x00", **facts)
    head, tail = text.split("\N{REPLACEMENT CHARACTER}", 1)  # as every control character is shown
    part = out / f".{_file(number)}.part"
    with part.open("wb") as stream:
        stream.write(head.encode())
        stream.writelines(pieces)
        stream.write(tail.encode())
    part.replace(out / _file(number))


def _runs(folder: Path, depth: int) -> Iterator[Run]:
    """Find finished runs; a run folder is not searched for others."""
    try:
        inside = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        raise RunError(f"folder must be readable, got {folder}: {error.strerror}; name a folder of runs") from error
    for path in map(Path, inside):
        if is_run(path):
            if (path / "DONE").is_file():
                yield Run(_date(path), path.name, path)
        elif depth > 1 and path.name != "history":
            yield from _runs(path, depth - 1)


def _date(path: Path) -> str:
    """Return when a run was started, by its manifest, else by the date of its summary."""
    try:
        told = read_document("manifest", path / "manifest.json").get("started_at")
    except (OSError, RunError):
        told = None
    try:
        return datetime.fromisoformat(str(told)).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        written = (path / "DONE").stat().st_mtime
        return datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d %H:%M")


def _entries(run: Run, last: dict[Place, Value]) -> tuple[list[Entry], str]:
    """Read the entries of a run and remember its values; a run that cannot be read says why."""
    try:
        found = list(_read(run.path / "summary.json", last))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [], f"summary.json cannot be read: {type(error).__name__}"
    except RunError as error:
        return [], str(error)
    last.update({entry.place: entry.value for entry in found if entry.value is not None})
    found.sort(key=lambda e: (e.place.task, e.place.detector, e.place.recipe, e.group, -(e.value.mean if e.value else -9.0), e.title))
    return found, ""


def _read(path: Path, last: Mapping[Place, Value]) -> Iterator[Entry]:
    head, rows = _rows(path)
    tasks = {task["name"]: str(task.get("fingerprint", "")) for task in head.get("tasks", [])}
    weights = {(row["task"], row["detector"]): str(row.get("fingerprint", "")) for row in head.get("detectors", [])}
    shared = str(head.get("suite", "")), str(head.get("suite_sha256", "")), str(head.get("tier", ""))
    for row in rows:
        task, detector = row["task"], row["detector"]
        place = Place(
            *shared, task, tasks.get(task, ""), detector, weights.get((task, detector), ""), row.get("recipe", ""), row["explainer"]
        )
        numbers = [row.get(name) for name in ("mean", "low", "high")]
        defined = [float(number) for number in numbers if number is not None]
        value = Value(*defined) if len(defined) == len(numbers) else None
        group = "3 oracle" if row.get("oracle") else "2 control" if row.get("control") else "1 explainer"
        yield Entry(place, str(row.get("title", "")), group, int(row.get("n", 0)), value, last.get(place), str(row.get("note", "")))


def _rows(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a summary without its rows, and the rows that are shown.

    The harness writes a row in a line of its own, after a first line with everything else: nine of ten lines need not be parsed.
    """
    with path.open("rb") as stream:
        first = stream.readline()
        try:
            if not first.endswith(b'"rows":[\n'):
                raise ValueError("by another hand")
            head = json.loads(first.rstrip() + b"]}")
            if head.get("schema_version", 1) != NEWEST["summary"]:
                raise ValueError("to be migrated")
        except ValueError:
            found = read_document("summary", path)  # of another release, or written by another hand
            return found, [row for row in found.get("rows", []) if _shown(row)]
        rows, line = [], b""
        for line in stream:
            if WANTED in line and _shown(row := json.loads(line.strip().rstrip(b","))):
                rows.append(row)
    if line.strip() != b"]}":
        raise RunError(f"summary must be whole, got {path.name} without its end; give the run's command again")
    return head, rows


def _shown(row: Mapping[str, Any]) -> bool:
    return (row.get("metric"), row.get("slice"), row.get("polarity")) == (PRIMARY, "all", "declared")


def signed(difference: float | None) -> str:
    """Write a difference in the display unit of the primary score, with its sign."""
    if difference is None:
        return ""
    info = metric(PRIMARY)
    return f"{difference * info.scale:+.{info.digits}f}".replace("-", "−")


environment().filters["signed"] = signed
