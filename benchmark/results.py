"""The result of a run: long tables in parquet, the summary in JSON, and one object that holds them.

``units.parquet`` and ``summary.json`` hold neither clocks nor hosts: the same inputs give the same bytes, interrupted or not.
"""

import contextlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from xaibench.benchmark.folder import DONE, RunFolder
from xaibench.benchmark.heatmaps import read_heatmap
from xaibench.benchmark.migrate import read_document
from xaibench.benchmark.summary import PRIMARY, Summary, leading
from xaibench.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

CURVE_COLUMNS = ("task", "detector", "pair", "explainer", "polarity", "occluder", "order", "fractions", "log_odds")
TIMING_COLUMNS = ("key", "stage", "seconds", "forwards", "backwards", "peak_rss_mb", "host", "started_at", "attempt")
TYPES = {"seen_vocoder": "bool", "value": "double", "fractions": "list", "log_odds": "list"}
HEADS = dict(zip(PRIMARY, ("GDice", "time AUROC", "SRG"), strict=True))
BATCH, GROUP = 4096, 1 << 16
"""Rows that are held as objects, and rows of a group in a file: a reader, and who writes, need the memory of one."""
COUNTS = ("forwards", "backwards", "attempt")


@dataclass(frozen=True)
class Results:
    """A finished run, read from its folder."""

    path: Path

    @classmethod
    def read(cls, path: str | Path, partial: bool = False) -> "Results":
        """Open a run folder.

        Raises:
            RunError: If the run was not finished and ``partial`` is not set.
        """
        folder = Path(path)
        if not (folder / DONE).exists() and not partial:
            raise RunError(f"run must be finished, got {folder} without {DONE}; give the same command again")
        return cls(folder)

    @cached_property
    def summary(self) -> Summary:
        """Rows of the table with intervals, tiers and notes."""
        try:
            return Summary.model_validate(read_document("summary", self.path / "summary.json"))
        except (OSError, ValueError) as error:
            raise RunError(f"summary must be readable, got {self.path / 'summary.json'}: {error}; give the same command again") from error

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """Return ``units.parquet``: one row per clip, explainer and metric."""
        return self._table("units")

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """Return ``curves.parquet``: fractions and log-odds of every faithfulness curve."""
        return self._table("curves")

    @cached_property
    def timings(self) -> "pd.DataFrame":
        """Return ``timings.parquet``: seconds, counts, memory and host of every piece of work."""
        return self._table("timings")

    def _table(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        try:
            return pd.read_parquet(self.path / f"{name}.parquet")
        except (OSError, ValueError) as error:
            raise RunError(f"{name}.parquet must be readable, got {self.path}: {error}; give the same command again") from error

    def table(self, metric: str = "", polarity: str = "declared", part: str = "all") -> "pd.DataFrame":
        """Return the summary rows of one metric, best mean first; by default of the one that leads each task."""
        import pandas as pd

        wanted = {} if metric else leading((row.task, row.metric) for row in self.summary.rows)
        place = polarity, part
        rows = [r.model_dump() for r in self.summary.rows if (r.polarity, r.slice) == place and r.metric == wanted.get(r.task, metric)]
        return pd.DataFrame(rows).sort_values(
            ["task", "detector", "recipe", "mean"], ascending=[True, True, True, False], ignore_index=True
        )

    def _repr_html_(self) -> str:
        """Show the primary scores where a notebook ends a cell with the results: every text escaped, nothing loaded."""
        import pandas as pd

        table = self.table()
        shown = pd.DataFrame(
            {
                "task": table.task,
                "detector": table.detector,
                "truth": table.recipe,
                "explainer": table.title,
                "score": [HEADS.get(name, name) for name in table.metric],
                "mean": [_shown(mean, name) for mean, name in zip(table["mean"], table.metric, strict=True)],
                "95 %": [
                    f"{_shown(low, n)} to {_shown(high, n)}" for low, high, n in zip(table.low, table.high, table.metric, strict=True)
                ],
                "tier": ["" if pd.isna(tier) else str(int(tier)) for tier in table.tier],
                "n": [f"{n}/{total}" for n, total in zip(table.n, table.n_total, strict=True)],
                "note": table.note,
            }
        )
        html: str = shown.to_html(index=False, escape=True, border=0)
        return html

    def heatmap(self, digest: str) -> "Tensor":
        """Return the stored heatmap (F, N) whose hash a row of ``frame`` names."""
        return read_heatmap(self.path, digest)


class Table:
    """A parquet file with a fixed schema, written in groups of rows; its bytes depend on the values and on the version of Arrow alone.

    It appears whole under its name at the end of its block, or not at all.

    Raises:
        RunError: If the folder cannot be written.
    """

    def __init__(self, folder: RunFolder, name: str, columns: tuple[str, ...]):
        import pyarrow as pa

        kinds = {"bool": pa.bool_(), "double": pa.float64(), "list": pa.list_(pa.float64())}
        numbers = {**dict.fromkeys(COUNTS, pa.int64()), "seconds": pa.float64(), "peak_rss_mb": pa.float64()}
        self._schema = pa.schema([(c, kinds[TYPES[c]] if c in TYPES else numbers.get(c, pa.string())) for c in columns])
        self._folder, self._path = folder, folder.path / f"{name}.parquet"
        self._part = folder.path / f".{name}.parquet.part"
        self._rows: list[Mapping[str, Any]] = []
        self._batches: list[Any] = []
        self._groups = 0

    def through(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield rows, each after it is taken down."""
        for row in rows:
            self._rows.append(row)
            if len(self._rows) == BATCH:
                self._pack()
            yield row

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take down rows."""
        deque(self.through(rows), maxlen=0)

    def _pack(self) -> None:
        """Turn the last rows into columns, which take a tenth of the room; write a group when there are enough."""
        import pyarrow as pa

        arrays = [pa.array([row[field.name] for row in self._rows], type=field.type) for field in self._schema]
        self._batches.append(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()
        if sum(map(len, self._batches)) >= GROUP:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        group = pa.concat_tables(self._batches).combine_chunks()
        try:
            self._writer.write_table(group, row_group_size=GROUP)
        except OSError as error:
            raise self._folder.unwritable(error) from error
        self._batches.clear()
        self._groups += 1

    def __enter__(self) -> Self:
        import pyarrow.parquet as pq

        try:
            self._writer = pq.ParquetWriter(self._part, self._schema, compression="zstd")
        except OSError as error:
            raise self._folder.unwritable(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                if self._rows or not (self._batches or self._groups):
                    self._pack()
                if self._batches:
                    self._write_group()
            with contextlib.suppress(OSError) if kind is not None else contextlib.nullcontext():
                self._writer.close()
            if kind is None:
                with self._part.open("rb") as stream:
                    os.fsync(stream.fileno())
                self._part.replace(self._path)
        except OSError as failure:
            raise self._folder.unwritable(failure) from failure
        finally:
            self._part.unlink(missing_ok=True)


def write_summary(folder: RunFolder, summary: Summary) -> None:
    """Write ``summary.json``: strict JSON, one row of the table per line, so that two runs can be compared by ``diff``."""
    whole = summary.model_dump(mode="json")
    rows = ",\n".join(_json(row) for row in whole.pop("rows"))
    head = _json(whole).removesuffix("}")
    folder.write("summary.json", f'{head},"rows":[\n{rows}\n]}}\n'.encode())


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _shown(value: float | None, metric: str) -> str:
    """Write a share in percent, an area under log-odds as it is."""
    if value is None or value != value:  # noqa: PLR0124 (NaN)
        return "–"
    return f"{value:.2f}" if metric == "srg" else f"{100 * value:.1f}"
