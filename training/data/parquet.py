"""Parquet, batch by batch into arrays of their final type: the file is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.collectors import Collector, collector
from training.data.dialect import unreadable
from training.data.parquet_pages import validate_unpacked
from training.errors import DataError

BATCH_ROWS = 1 << 18
_SAMPLE_ROWS = 200
_MANY_TEXTS = 1 << 17
_NAMELESS_INDEX = "__index_level_"


def read_parquet_sample(path: Path, is_validated: bool = False) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Column names and the first rows of a parquet file.

    Args:
        path: The file.
        is_validated: Whether `validate_unpacked` has seen it.

    Raises:
        DataError: If the file is damaged or has no rows.
    """
    try:
        with pq.ParquetFile(path) as file:
            # pandas writes a nameless index along: row numbers say nothing, times are the times of the rows.
            names = tuple(
                field.name
                for field in file.schema_arrow
                if not field.name.startswith(_NAMELESS_INDEX) or pa.types.is_temporal(field.type)
            )
            if not is_validated:
                validate_unpacked(file, path, 1)
            groups = [0] if file.num_row_groups else []
            batch = next(file.iter_batches(batch_size=_SAMPLE_ROWS, row_groups=groups, columns=list(names)), None)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None
    if batch is None or not batch.num_rows:
        raise unreadable(path, "a parquet file without rows", "Bring rows.", "data_empty")
    # Without pandas' own remarks, by which a column named `ds` may come back as the index.
    return names, pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True)


def read_parquet_columns(path: Path, needed: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Read columns.

    Args:
        path: The file.
        needed: Columns to read.
        names: Those of them that hold names: whatever their type, they become text.

    Returns:
        Columns that a DataFrame takes without copying: float32, datetime64[us], int64 for integer times, categories.

    Raises:
        DataError: If the file is damaged, or a column is a list or a structure.
    """
    try:
        with pq.ParquetFile(path) as probe:
            validate_unpacked(probe, path, len(needed))
            fields = {name: probe.schema_arrow.field(name).type for name in needed}
        with pq.ParquetFile(path, read_dictionary=text_columns(fields)) as file:
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=list(needed))
            gathered = gather(batches, fields, file.metadata.num_rows, names)
            return {name: column.column() for name, column in gathered.items()}
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def text_columns(fields: Mapping[str, pa.DataType]) -> list[str]:
    """Columns of text, which are read as codes into their distinct texts."""
    return [name for name, kind in fields.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]


def gather(
    batches: Iterable[pa.RecordBatch], fields: Mapping[str, pa.DataType], num_rows: int, names: Sequence[str]
) -> dict[str, Collector]:
    """Put batches one behind the other, each while the next is decoded.

    Args:
        batches: Of any sizes.
        fields: Their columns and types.
        num_rows: Rows of all batches together.
        names: Columns whose distinct values become text.

    Raises:
        DataError: If a column is a list or a structure.
    """
    collectors = {name: collector(name, kind, num_rows, name in names) for name, kind in fields.items()}
    start = 0
    for batch in _ahead(iter(batches)):
        for name, column in collectors.items():
            column.add(start, batch.column(name))
        start += batch.num_rows
    return collectors


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, "decode") as thread:
        upcoming = thread.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            upcoming = thread.submit(next, batches, None)
            yield batch


def damaged(path: Path, error: Exception) -> DataError:
    """The refusal of a file that pyarrow cannot read."""
    return unreadable(path, f"a damaged parquet file ({str(error).splitlines()[0][:200]})", "Write it again.")
