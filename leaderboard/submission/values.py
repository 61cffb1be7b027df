"""The values of single clips beside a record, read as what they are: a file from outside, which may claim any size."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from xaibench.benchmark.results import TYPES
from xaibench.benchmark.tidy import UNIT_COLUMNS
from xaibench.errors import SubmissionError

MAX_FILE_BYTES = 1 << 28
MAX_BYTES = 1 << 33
"""Of all columns, unpacked."""
MAX_ROWS = 20_000_000
MAX_TEXT = 4096
"""Characters of one cell: a dictionary of one long text can be named by every row."""
BATCH = 4096


def is_file_of(path: Path, digest: str) -> bool:
    """Tell whether a file is plain, not too large, and has the SHA-256."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        return False
    return sha256(path.read_bytes()).hexdigest() == digest


def read_values(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a ``units.parquet``; a batch of them is in memory at a time.

    Raises:
        SubmissionError: If it has other columns than a run writes, or claims more than any run has.
        pyarrow.ArrowException: If it is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        _check(file)
    texts = [name for name in UNIT_COLUMNS if name not in TYPES]
    with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(BATCH):
            columns = {}
            for name, column in zip(UNIT_COLUMNS, batch.columns, strict=True):
                if name in TYPES:
                    columns[name] = column.to_pylist()
                    continue
                found = column.dictionary if pa.types.is_dictionary(column.type) else column
                if (pyarrow.compute.max(pyarrow.compute.utf8_length(found)).as_py() or 0) > MAX_TEXT:
                    raise SubmissionError(f"{name} must have at most {MAX_TEXT} characters, got more; score the package again")
                columns[name] = column.cast(pa.string()).to_pylist()
            yield from (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _check(file: Any) -> None:
    import pyarrow as pa

    kinds = {"bool": pa.bool_(), "double": pa.float64()}
    wanted = [(name, kinds[TYPES[name]] if name in TYPES else pa.string()) for name in UNIT_COLUMNS]
    if [(field.name, field.type) for field in file.schema_arrow] != wanted:
        raise SubmissionError("columns must be those that a run writes, got others; score the package again")
    about = file.metadata
    unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if about.num_rows > MAX_ROWS or unpacked > MAX_BYTES:
        raise SubmissionError(
            f"a table may have {MAX_ROWS} rows and {MAX_BYTES} bytes, got {about.num_rows} and {unpacked}; score the package again"
        )
