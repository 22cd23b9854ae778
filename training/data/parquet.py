"""Parquet, batch by batch into arrays of their final type: the file is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.data.dialect import unreadable
from training.data.parquet_pages import validate_unpacked
from training.errors import DataError, Problem

BATCH_ROWS = 1 << 18
_SAMPLE_ROWS = 200
_MANY_TEXTS = 1 << 17
_NAMELESS_INDEX = "__index_level_"


class _Collector(Protocol):
    def add(self, start: int, chunk: pa.Array) -> None: ...

    def column(self) -> Any: ...


class _Numbers:
    """A column of numbers as float32, NaN where null: the store has no more digits, so the file's need not be kept."""

    def __init__(self, num_rows: int) -> None:
        self.values = np.empty(num_rows, np.float32)

    def add(self, start: int, chunk: pa.Array) -> None:
        numbers = chunk if pa.types.is_floating(chunk.type) else chunk.cast(pa.float64(), safe=False)
        with np.errstate(over="ignore"):
            self.values[start : start + len(chunk)] = numbers.to_numpy(zero_copy_only=False)

    def column(self) -> NDArray[np.float32]:
        return self.values


class _Times:
    """A column of dates or timestamps as microseconds."""

    def __init__(self, num_rows: int, zone: str | None) -> None:
        self.values = np.empty(num_rows, np.int64)
        self.zone = zone

    def add(self, start: int, chunk: pa.Array) -> None:
        stamps = chunk.cast(pa.timestamp("us", self.zone), safe=False)
        missing = np.iinfo(np.int64).min  # pandas' NaT
        self.values[start : start + len(chunk)] = without_null(stamps.cast(pa.int64()), missing).to_numpy()

    def column(self) -> pd.DatetimeIndex | NDArray[Any]:
        stamps = self.values.view("M8[us]")
        return stamps if self.zone is None else pd.DatetimeIndex(stamps).tz_localize("UTC").tz_convert(self.zone)


class _Integers:
    """A column of integers that keeps every digit."""

    def __init__(self, num_rows: int) -> None:
        self.values = np.empty(num_rows, np.int64)
        self.missing: list[NDArray[np.int64]] = []

    def add(self, start: int, chunk: pa.Array) -> None:
        self.values[start : start + len(chunk)] = pc.fill_null(chunk.cast(pa.int64(), safe=False), 0).to_numpy()
        if chunk.null_count:
            self.missing.append(np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False)) + start)

    def column(self) -> Any:
        if not self.missing:
            return self.values
        column = pd.array(self.values, dtype="Int64")
        column[np.concatenate(self.missing)] = pd.NA
        return column


class _Texts:
    """A column of text as codes into one list of distinct texts, in order of first appearance.

    Every row group has a dictionary of its own: codes count through all of them until many have come together, and then
    their texts are compared at once.
    """

    def __init__(self, num_rows: int) -> None:
        self.codes = np.empty(num_rows, np.int32)
        self._known = pa.array([], pa.large_string())
        self._unsettled: list[pa.Array] = []
        self._newest: pa.Array | None = None
        self._begin = self._end = self._settled = 0

    def add(self, start: int, chunk: pa.Array) -> None:
        encoded = chunk if pa.types.is_dictionary(chunk.type) else pc.dictionary_encode(chunk)
        if self._newest is None or not encoded.dictionary.equals(self._newest):
            if self._end - len(self._known) > max(len(self._known), _MANY_TEXTS):
                self._settle(start)
            self._newest = encoded.dictionary
            self._unsettled.append(_as_texts(encoded.dictionary))
            self._begin, self._end = self._end, self._end + len(encoded.dictionary)
        codes = without_null(encoded.indices.cast(pa.int32()), -1 - self._begin).to_numpy()
        np.add(codes, self._begin, out=self.codes[start : start + len(chunk)])

    def column(self) -> pd.Categorical:
        self._settle(len(self.codes))
        names = pd.Index(self._known.to_pandas(), dtype="str")
        return pd.Categorical.from_codes(self.codes, names, validate=False)

    def _settle(self, stop: int) -> None:
        """Let the codes up to a row count through the distinct texts; known ones keep theirs."""
        known = pa.chunked_array([self._known, *self._unsettled]).combine_chunks().dictionary_encode()
        table = np.append(without_null(known.indices, -1).to_numpy(), np.int32(-1))  # the last is that of a missing text
        for first in range(self._settled, stop, BATCH_ROWS):
            rows = slice(first, min(first + BATCH_ROWS, stop))
            self.codes[rows] = table[self.codes[rows]]
        self._known, self._unsettled = known.dictionary, []
        self._end, self._settled = len(known.dictionary), stop


def _as_texts(values: pa.Array) -> pa.Array:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return values.cast(pa.large_string())
    return pa.array([None if value is None else _as_text(value) for value in values.to_pylist()], pa.large_string())


def _as_text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def without_null(values: pa.Array, instead: int) -> pa.Array:
    """The values, with another for those that are missing."""
    return pc.fill_null(values, instead) if values.null_count else values


def read_parquet_sample(path: Path) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Column names and the first rows of a parquet file.

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
            return collect(batches, fields, file.metadata.num_rows, names)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def text_columns(fields: Mapping[str, pa.DataType]) -> list[str]:
    """Columns of text, which are read as codes into their distinct texts."""
    return [name for name, kind in fields.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]


def collect(
    batches: Iterable[pa.RecordBatch], fields: Mapping[str, pa.DataType], num_rows: int, names: Sequence[str]
) -> dict[str, Any]:
    """Put batches one behind the other.

    Args:
        batches: Of any sizes.
        fields: Their columns and types.
        num_rows: Rows of all batches together.
        names: Columns whose distinct values become text.

    Returns:
        As `read_parquet_columns`.

    Raises:
        DataError: If a column is a list or a structure.
    """
    collectors = {name: _collector(name, kind, num_rows, name in names) for name, kind in fields.items()}
    start = 0
    for batch in batches:
        for name, collector in collectors.items():
            collector.add(start, batch.column(name))
        start += batch.num_rows
    return {name: collector.column() for name, collector in collectors.items()}


def damaged(path: Path, error: Exception) -> DataError:
    """The refusal of a file that pyarrow cannot read."""
    return unreadable(path, f"a damaged parquet file ({str(error).splitlines()[0][:200]})", "Write it again.")


def _collector(name: str, kind: pa.DataType, num_rows: int, is_name: bool) -> _Collector:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_name or pa.types.is_string(value) or pa.types.is_large_string(value):
        return _Texts(num_rows)
    if pa.types.is_timestamp(value):
        return _Times(num_rows, value.tz)
    if pa.types.is_date(value):
        return _Times(num_rows, None)
    if name == "ds" or pa.types.is_integer(value):
        return _Integers(num_rows) if pa.types.is_integer(value) else _Numbers(num_rows)
    if (
        pa.types.is_floating(value)
        or pa.types.is_decimal(value)
        or pa.types.is_boolean(value)
        or pa.types.is_null(value)
    ):
        return _Numbers(num_rows)
    message = f"must hold numbers, text or times, but holds {kind} instead."
    raise DataError([Problem("column_type", f"column {name!r}", message, "Write one value per row.")])
