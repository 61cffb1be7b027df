"""A repository of results: plain files in ``results/<explainer>/<version>/<suite>/``, and what must be true of them.

``problems_of`` says all that is wrong with one record, from its files alone; with the key it also tells whether anybody edited it. Values
of single clips lie beside a record, so that its means can be made again by anybody, with or without the key.
"""

import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xaibench.benchmark.aggregate import Aggregator, RowInfo
from xaibench.benchmark.finish import directions
from xaibench.benchmark.suite import Suite, suite_by_name
from xaibench.benchmark.summary import SummaryRow
from xaibench.benchmark.threads import one_thread
from xaibench.benchmark.units import clean, first_line
from xaibench.errors import RunError, SubmissionError, UnknownNameError
from xaibench.leaderboard.rows import check_rows
from xaibench.leaderboard.submission.card import write_card
from xaibench.leaderboard.submission.package import Package
from xaibench.leaderboard.submission.quota import over_quota
from xaibench.leaderboard.submission.record import RECORD, UNITS, Record, read_record
from xaibench.leaderboard.submission.values import is_file_of, read_values

CARD = "submission.toml"
MADE_AGAIN = ("mean", "n", "n_total", "n_undefined", "n_failed")
"""Fields of a row that follow from the values of single clips without drawing anything."""
TOLERANCE = 1e-9
DRAWS = 100
"""Intervals are not compared: who made them drew ten thousand times."""


def problems_of(folder: Path, *, key: bytes | None = None, suite: Suite | None = None) -> list[str]:
    """Return what is wrong with one record, in sentences; an empty list is a pass.

    Args:
        folder: ``results/<explainer>/<version>/<suite>`` in a repository.
        key: The signing key; without it nothing is said of the HMAC.
        suite: The protocol, if it is none of those that ship.
    """
    stray = sorted(str(p.name) for p in folder.iterdir() if p.name not in (RECORD, UNITS, CARD) or p.is_symlink() or not p.is_file())
    if stray:
        return [f"{folder} must hold {RECORD}, {CARD} and {UNITS} as plain files, got {stray[0]!r}"]
    try:
        record = read_record(folder / RECORD)
        protocol = suite or suite_by_name(record.suite)
    except (SubmissionError, UnknownNameError) as error:
        return [str(error)]
    return [*_place(folder, record, protocol), *_signature(record, key), *_values(folder, record, protocol)]


def _place(folder: Path, record: Record, suite: Suite) -> Iterator[str]:
    if folder.parts[-4:] != record.folder.parts:
        yield f"record must lie in {record.folder}, got {'/'.join(folder.parts[-4:])}"
    if not (folder / CARD).is_file() or (folder / CARD).read_bytes() != write_card(record.card):
        yield f"{CARD} must be the card of the record, got another or none"
    if record.suite_sha256 != suite.content_hash():
        yield f"suite must be {suite.name} as it ships ({suite.content_hash()[:12]}...), got {record.suite_sha256[:12]}..."
    if record.tier not in suite.budgets:
        yield f"tier must be one of {', '.join(suite.budgets)}, got {clean(record.tier)[:80]!r}"
    if record.quota.number > record.quota.limit:
        yield f"an author may be scored {record.quota.limit} times in {record.quota.days} days, got {record.quota.number}"
    if any(row.explainer != record.card.label or row.control or row.oracle for row in record.rows):
        yield f"rows must be those of {record.card.label}, got another's"
    try:
        check_rows({"rows": [row.model_dump() for row in record.rows]}, folder)
    except RunError as error:  # a value that no page can show
        yield str(error)
    if record.origin.partial and any(row.tier is not None or row.beats_best_control is not None for row in record.rows):
        yield "a partial row must have neither tier nor verdict, got one"


def _signature(record: Record, key: bytes | None) -> Iterator[str]:
    if key is not None and not record.is_genuine(key):
        yield "record must be signed with the key, got another HMAC: something in it was changed after it was scored, or never signed"


def _values(folder: Path, record: Record, suite: Suite) -> Iterator[str]:
    """Compare the rows with the values of single clips."""
    path = folder / UNITS
    if record.hidden:
        if path.exists() or record.units_sha256:
            yield f"{UNITS} must not be published for a hidden split, got it"
        return
    if not is_file_of(path, record.units_sha256):
        yield f"{UNITS} must be the file that the record names, got another or none"
        return
    count = Covered(record.card.label, suite)
    try:
        again = _made_again(count.through(read_values(path)), record, suite)
    except Exception as error:  # a file from outside may hold anything
        yield f"{UNITS} must be a table of the harness, got {type(error).__name__}: {clean(first_line(error))}"
        return
    yield from count.problems(record)
    yield from _compare(record, again)


class Covered:
    """Counts, while values pass by, for how many explanations they speak, and whose they are."""

    def __init__(self, label: str, suite: Suite):
        self.label, self.known = label, {label, *suite.controls}
        self.asked, self.missing, self.strangers = set[str](), set[str](), set[str]()

    def through(self, units: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield the values, each after it is counted."""
        for unit in units:
            if unit["explainer"] == self.label:
                self.asked.add(unit["key"])
                if unit["status"] == "not_applicable":
                    self.missing.add(unit["key"])
            elif unit["explainer"] not in self.known:
                self.strangers.add(unit["explainer"])
            yield unit

    def problems(self, record: Record) -> Iterator[str]:
        """Say where a record tells another coverage, or the values are of others than the row and the controls."""
        origin, asked = record.origin, len(self.asked)
        covered = asked - len(self.missing)
        if (origin.covered, origin.asked) != (covered, asked):
            yield f"covered must be {covered} of {asked} explanations, as {UNITS} has it, got {origin.covered} of {origin.asked}"
        if self.strangers:
            yield f"{UNITS} must hold the row and the protocol's controls, got {clean(min(self.strangers))[:80]!r} as well"


def _made_again(units: Iterable[Mapping[str, Any]], record: Record, suite: Suite) -> dict[tuple[str, ...], SummaryRow]:
    """Aggregate the values again; controls are needed for what failed explanations take."""
    with one_thread():
        rows = Aggregator(replace(suite, n_draws=DRAWS), rows_of([record], suite), directions()).summarise(units)
    return {_key(row): row for row in rows if row.explainer == record.card.label}


def rows_of(records: Iterable[Record], suite: Suite) -> dict[str, RowInfo]:
    """Return what a table must know of the records' rows and of the controls beside them."""
    controls = {name: RowInfo(name, name, control=True, oracle=name.startswith("oracle_")) for name in suite.controls}
    labels = {r.card.label: RowInfo(r.card.label, r.card.label, False, False, competes=not r.origin.partial) for r in records}
    return controls | labels


def _compare(record: Record, again: dict[tuple[str, ...], SummaryRow]) -> Iterator[str]:
    if {_key(row) for row in record.rows} != set(again):
        yield f"rows must be those that {UNITS} gives, got {len(record.rows)} instead of {len(again)}, or others"
        return
    for row in record.rows:
        for name in MADE_AGAIN:
            shown, made = getattr(row, name), getattr(again[_key(row)], name)
            if (shown is None) != (made is None) or (shown is not None and abs(shown - made) > TOLERANCE * max(1.0, abs(made))):
                yield f"{name} of {row.metric} ({row.recipe or 'no recipe'}, {row.polarity}, {row.slice}) must be {made}, got {shown}"


def _key(row: SummaryRow) -> tuple[str, ...]:
    return row.task, row.detector, row.recipe, row.polarity, row.occluder, row.metric, row.slice


def record_folders(repository: Path) -> list[Path]:
    """Return the folders of all records, three levels under ``results``."""
    return sorted(path for path in (repository / "results").glob("*/*/*") if path.is_dir() or path.is_symlink())


def problems_between(repository: Path) -> list[str]:
    """Return what is wrong between records: names that clash, one package twice, files out of place, a quota overrun."""
    found = []
    base = repository / "results"
    for path in sorted(base.rglob("*")):
        depth = len(path.relative_to(base).parts)
        if path.is_symlink() or (depth < 4 and not path.is_dir() and path.name != ".gitkeep") or depth > 4:
            found.append(f"results must hold folders of records, got {path.relative_to(repository)}")
    names = Counter(unicodedata.normalize("NFKC", str(p.relative_to(base))).casefold() for p in record_folders(repository))
    found += [
        f"names must be distinct whatever their case and form, got {name} {count} times" for name, count in names.items() if count > 1
    ]
    known = []
    for folder in record_folders(repository):
        try:
            known.append(read_record(folder / RECORD))
        except SubmissionError:
            continue  # told by problems_of
    twice = Counter((r.origin.package_sha256, r.suite, r.tier) for r in known)
    found += [f"a package must be scored once, got {digest[:12]}... {count} times" for (digest, _, _), count in twice.items() if count > 1]
    return found + [f"quota must be kept, got more submissions of {author}" for author in over_quota(known)]


def prepare_branch(package: str | Path, clone: str | Path) -> str:
    """Put a package on a branch of its own in a clone of a repository of results; on trouble, leave the clone as it was.

    Args:
        package: The package; it is opened and checked.
        clone: Working tree of the repository, clean.

    Returns:
        Name of the branch, which is checked out and not pushed.

    Raises:
        SubmissionError: If the package is refused, the clone is not clean, the branch is there, or git fails.
    """
    root = Path(clone)
    with Package(package) as opened:
        name = f"{opened.card.name}-{opened.card.version}"
    if _git(root, "status", "--porcelain"):
        raise SubmissionError(f"clone must be clean, got changes in {root}; commit or stash them")
    branch, target = f"submission/{name}", root / "submissions" / f"{name}.xaib.zip"
    if _git(root, "branch", "--list", branch) or target.exists():
        raise SubmissionError(f"submission must be new, got {name} in {root} already; raise its version")
    before = _git(root, "rev-parse", "--abbrev-ref", "HEAD")
    if before == "HEAD":
        before = _git(root, "rev-parse", "HEAD")
    _git(root, "checkout", "--quiet", "-b", branch)
    try:
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(Path(package).read_bytes())
        _git(root, "add", "--force", "--", str(target.relative_to(root)))
        _git(root, "commit", "--quiet", "-m", f"Submission: {name}")
    except BaseException:
        _undo(root, before, branch, target)
        raise
    return branch


def _undo(root: Path, before: str, branch: str, target: Path) -> None:
    _git(root, "reset", "--quiet", "--hard")
    target.unlink(missing_ok=True)
    _git(root, "checkout", "--quiet", before)
    _git(root, "branch", "--quiet", "-D", branch)


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SubmissionError(f"git must be installed and answer, got {error}; install it") from error
    if done.returncode:
        raise SubmissionError(f"git {arguments[0]} must succeed in {root}, got {done.stderr.strip()[-200:]}; mend the clone")
    return done.stdout.strip()
