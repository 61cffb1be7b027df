"""What a run measured, clip by clip, in the form in which two runs are compared: read from a run folder or from a frozen baseline.

A baseline is one strict JSON file with a line per explainer and metric, made for version control: equal measurements give equal bytes, and
a change is a line of a diff. It holds no clock, no host and no heatmap.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xaibench.benchmark.aggregate import Aggregator, RowInfo, finite
from xaibench.benchmark.block import Block, make_block
from xaibench.benchmark.finish import directions
from xaibench.benchmark.migrate import read_document
from xaibench.benchmark.results import Results
from xaibench.benchmark.suite import Suite
from xaibench.benchmark.units import ClipRef
from xaibench.errors import RunError

BASELINE_SCHEMA = 1


class Place(NamedTuple):
    """Where a value stands: what two runs are compared at."""

    task: str
    detector: str
    explainer: str
    recipe: str
    polarity: str
    occluder: str
    metric: str

    def __str__(self) -> str:
        """Return the parts that say something, in words."""
        beside = [part for part in (self.recipe, self.occluder, "" if self.polarity == "declared" else self.polarity) if part]
        inside = f" ({', '.join(beside)})" if beside else ""
        return f"{self.explainer} {self.metric}{inside} on {self.task}, {self.detector}"


@dataclass(frozen=True)
class Series:
    """The values of one place by clip; failed explanations hold the lowest control's value, undefined ones are ``None``."""

    values: Mapping[str, float | None]
    failed: frozenset[str] = frozenset()
    tolerance: float = 0.0
    """How far a value may move on another machine though nothing changed; measured when the baseline was frozen."""

    @property
    def defined(self) -> dict[str, float]:
        """The clips with a value."""
        return {pair: value for pair, value in self.values.items() if value is not None}


@dataclass(frozen=True)
class Measured:
    """All values of a run, and what must agree before two runs may be compared."""

    source: str
    protocol: Mapping[str, Any]
    """Suite, tier, and content of every task and detector."""
    clips: Mapping[tuple[str, str], ClipRef]
    """By task and pair."""
    series: Mapping[Place, Series]
    controls: frozenset[str] = frozenset()
    seconds: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    """Mean wall seconds of an explanation by task, detector and explainer; empty in a baseline."""
    hardware: Mapping[str, Any] = field(default_factory=dict)
    """What wall times depend on."""


def read_measured(path: str | Path) -> Measured:
    """Read a finished run folder or a frozen baseline.

    Raises:
        RunError: If it is neither.
    """
    path = Path(path)
    return _from_run(path) if path.is_dir() else _from_baseline(path)


def _from_run(path: Path) -> Measured:
    results = Results.read(path)
    try:
        manifest = read_document("manifest", path / "manifest.json")
    except FileNotFoundError as error:
        raise RunError(f"run must have a manifest, got {path} without manifest.json; give the same command again") from error
    rows = results.frame.to_dict("records")
    for row in rows:
        row["value"] = None if row["value"] != row["value"] else row["value"]
    infos = {name: RowInfo(name, name, found["control"], found["oracle"]) for name, found in manifest["explainers"].items()}
    # failures take the value of the lowest control, as they do on the board: failing must not help in a comparison either
    judge = Aggregator(Suite("", controls=tuple(name for name, info in infos.items() if info.control)), infos, directions())
    clips: dict[tuple[str, str], ClipRef] = {}
    series: dict[Place, Series] = {}
    for (task, detector), part in groupby(rows, key=itemgetter("task", "detector")):
        block = make_block(task, detector, list(part))
        judge.impute(block)
        clips |= {(task, clip.pair): ClipRef(**clip._asdict()) for clip in block.clips}
        series |= dict(_series(block))
    controls = frozenset(name for name, info in infos.items() if info.control)
    return Measured(str(path), _protocol(results, manifest), clips, series, controls, _seconds(results), _hardware(manifest))


def _series(block: Block) -> Iterator[tuple[Place, Series]]:
    for j, column in enumerate(block.columns):
        inside = [i for i in range(len(block.clips)) if block.asked[i, j] and not block.excused[i, j]]
        values = {block.clips[i].pair: finite(block.values[i, j]) for i in inside}
        failed = frozenset(block.clips[i].pair for i in inside if block.failed[i, j])
        yield Place(block.task, block.detector, *column), Series(values, failed)


def _protocol(results: Results, manifest: Mapping[str, Any]) -> dict[str, Any]:
    summary = results.summary
    return {
        "suite": summary.suite,
        "suite_sha256": summary.suite_sha256,
        "tier": summary.tier,
        "tasks": {str(task["name"]): str(task["fingerprint"]) for task in summary.tasks},
        "detectors": {f"{row.task} / {row.detector}": row.fingerprint for row in summary.detectors},
        "curves": {
            row.task: {"clips": row.curve_clips, "steps": row.curve_steps, "occluders": list(row.occluders)} for row in summary.detectors
        },
        "device": str(manifest.get("device", "cpu")),
    }


def _seconds(results: Results) -> dict[tuple[str, str, str], float]:
    timings = results.timings
    spent = timings[timings.stage == "explain"].set_index("key").seconds
    units = results.frame[["key", "task", "detector", "explainer", "status"]].drop_duplicates()
    units = units[units.status == "ok"]
    means = units.assign(seconds=units.key.map(spent)).groupby(["task", "detector", "explainer"]).seconds.mean()
    return {tuple(place): float(value) for place, value in means.dropna().items()}


def _hardware(manifest: Mapping[str, Any]) -> dict[str, Any]:
    found = manifest.get("environment", {})
    return {"device": manifest.get("device"), **{name: found.get(name) for name in ("machine", "processors", "gpu", "host")}}


def freeze(measured: Measured, path: str | Path, tolerances: Mapping[Place, float] | None = None) -> None:
    """Write what was measured as a baseline.

    Args:
        measured: A run.
        path: File to write or replace.
        tolerances: How far each place may move on another machine; zero where it is not given.

    Raises:
        DataError: If the file cannot be written.
    """
    from xaibench.tasks.cache import atomic_write

    known = tolerances or {}
    order = sorted(measured.clips)
    position = {clip: i for i, clip in enumerate(order)}
    lines = []
    for place, found in sorted(measured.series.items()):
        cells = sorted((position[place.task, pair], value) for pair, value in found.values.items())
        line: dict[str, Any] = {**{k: v for k, v in place._asdict().items() if v}, "values": [value for _, value in cells]}
        if [i for i, _ in cells] != list(range(len(order))):
            line["clips"] = [i for i, _ in cells]
        if found.failed:
            line["failed"] = sorted(position[place.task, pair] for pair in found.failed)
        if known.get(place):
            line["tolerance"] = float(f"{known[place]:.3g}")
        lines.append(_json(line))
    head = {
        "schema_version": BASELINE_SCHEMA,
        "xaibench": "baseline",
        "protocol": dict(measured.protocol),
        "controls": sorted(measured.controls),
        "clips": [measured.clips[clip].model_dump() for clip in order],
    }
    text = f'{_json(head).removesuffix("}")},"series":[\n' + ",\n".join(lines) + "\n]}\n"
    atomic_write(Path(path), text.encode())


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _from_baseline(path: Path) -> Measured:
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        if found["xaibench"] != "baseline" or found["schema_version"] != BASELINE_SCHEMA:
            raise ValueError(f"schema {found['schema_version']!r} is not {BASELINE_SCHEMA}")
        refs = [ClipRef(**clip) for clip in found["clips"]]
        series = {}
        for line in found["series"]:
            pairs = [refs[i].pair for i in line.get("clips", range(len(refs)))]
            place = Place(*(str(line.get(name, "")) for name in Place._fields))
            failed = frozenset(refs[i].pair for i in line.get("failed", ()))
            series[place] = Series(dict(zip(pairs, line["values"], strict=True)), failed, float(line.get("tolerance", 0.0)))
        clips = {(ref.task, ref.pair): ref for ref in refs}
        return Measured(str(path), found["protocol"], clips, series, frozenset(found["controls"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise RunError(f"baseline must be a run folder or a frozen baseline, got {path}: {reason}; see `xaibench gate --freeze`") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of strict JSON")


def with_tolerances(measured: Measured, others: list[Measured], factor: float, least: float) -> dict[Place, float]:
    """Return how far each place may move: ``factor`` times the largest difference that other machines showed, at least ``least``.

    Args:
        measured: The run that becomes the baseline.
        others: The same run computed elsewhere, or with other instructions of the processor.
        factor: Margin for machines that were not tried.
        least: Floor, for places that happened to agree everywhere.
    """
    found = {}
    for place, mine in measured.series.items():
        largest = 0.0
        for other in others:
            theirs = other.series.get(place, replace(mine, values={})).defined
            largest = max([largest, *(abs(value - theirs[pair]) for pair, value in mine.defined.items() if pair in theirs)])
        scale = max([1.0, *map(abs, mine.defined.values())])
        found[place] = float(np.maximum(factor * largest, least * scale))
    return found
