"""Columns of a parquet file on their way from batches into arrays of their final type."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from training.data.runs import RunColumn
from training.errors import DataError, Problem

MISSING_TIME = np.iinfo(np.int64).min  # pandas' NaT


class Collector(Protocol):
    """One column."""

    def add(self, start: int, chunk: pa.Array) -> None:
        """Take the rows from `start` on."""

    def column(self) -> Any:
        """All rows, as a DataFrame takes them without copying."""


class NumberColumn:
    """Numbers as float32, NaN where null: the store has no more digits, so the file's need not be kept.

    Attributes:
        values: The numbers.
        is_finite: Whether every number is there, and none is infinite or beyond float32.
    """

    def __init__(self, num_rows: int) -> None:
        self.values = np.empty(num_rows, np.float32)
        self.is_finite = True

    def add(self, start: int, chunk: pa.Array) -> None:
        """Take the rows from `start` on."""
        is_float = pa.types.is_float32(chunk.type) or pa.types.is_float64(chunk.type)
        numbers = chunk if is_float else chunk.cast(pa.float64(), safe=False)
        out = self.values[start : start + len(chunk)]
        with np.errstate(over="ignore"):
            out[:] = numbers.to_numpy(zero_copy_only=False)
        self.is_finite = bool(self.is_finite and np.isfinite(out).all())

    def column(self) -> NDArray[np.float32]:
        """All rows."""
        return self.values


class TimeColumn:
    """Dates or timestamps as microseconds.

    Attributes:
        runs: Microseconds since 1970, `MISSING_TIME` where null.
        zone: Zone of the timestamps, or None.
    """

    def __init__(self, num_rows: int, zone: str | None) -> None:
        self.runs, self.zone = RunColumn(num_rows, np.int64), zone

    def add(self, start: int, chunk: pa.Array) -> None:
        """Take the rows from `start` on."""
        self.runs.add(
            start, without_null(chunk.cast(pa.timestamp("us", self.zone), safe=False).cast(pa.int64()), MISSING_TIME)
        )

    def column(self) -> pd.DatetimeIndex | NDArray[Any]:
        """All rows."""
        stamps = self.runs.numbers().view("M8[us]")
        return stamps if self.zone is None else pd.DatetimeIndex(stamps).tz_localize("UTC").tz_convert(self.zone)


class IntegerColumn:
    """Integers that keep every digit.

    Attributes:
        runs: The integers, 0 where null.
        missing: Rows that are null.
    """

    def __init__(self, num_rows: int) -> None:
        self.runs = RunColumn(num_rows, np.int64)
        self.missing: list[NDArray[np.int64]] = []

    def add(self, start: int, chunk: pa.Array) -> None:
        """Take the rows from `start` on."""
        self.runs.add(start, without_null(chunk.cast(pa.int64(), safe=False), 0))
        if chunk.null_count:
            self.missing.append(np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False)) + start)

    def column(self) -> Any:
        """All rows."""
        if not self.missing:
            return self.runs.numbers()
        column = pd.array(self.runs.numbers(), dtype="Int64")
        column[np.concatenate(self.missing)] = pd.NA
        return column


class TextColumn:
    """Text as codes into one list of distinct texts, in order of first appearance.

    Attributes:
        runs: Code of every row, -1 where null.
    """

    def __init__(self, num_rows: int) -> None:
        self.runs = RunColumn(num_rows, np.int32, step=0)
        self._known: dict[Any, int] = {}
        self._dictionary: pa.Array | None = None
        self._table = np.zeros(0, np.int32)

    def add(self, start: int, chunk: pa.Array) -> None:
        """Take the rows from `start` on."""
        encoded = chunk if pa.types.is_dictionary(chunk.type) else pc.dictionary_encode(chunk)
        if self._dictionary is None or not encoded.dictionary.equals(self._dictionary):
            self._dictionary = encoded.dictionary
            names = encoded.dictionary.to_pylist()
            codes = [-1 if name is None else self._known.setdefault(name, len(self._known)) for name in names]
            self._table = np.array([*codes, -1], np.int32)
        self.runs.add(start, without_null(encoded.indices.cast(pa.int32()), len(self._table) - 1), self._table)

    @property
    def names(self) -> list[str]:
        """The text of every code."""
        return [_as_text(name) for name in self._known]

    def column(self) -> pd.Categorical:
        """All rows."""
        return pd.Categorical.from_codes(self.runs.numbers(), pd.Index(self.names, dtype="str"), validate=False)


def collector(name: str, kind: pa.DataType, num_rows: int, is_name: bool) -> Collector:
    """The collector of a column.

    Args:
        name: Of the column.
        kind: Its type in the file.
        num_rows: Its rows.
        is_name: Whether it holds names: whatever their type, they become text.

    Raises:
        DataError: If the column is a list or a structure.
    """
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_name or pa.types.is_string(value) or pa.types.is_large_string(value):
        return TextColumn(num_rows)
    if pa.types.is_timestamp(value):
        return TimeColumn(num_rows, value.tz)
    if pa.types.is_date(value):
        return TimeColumn(num_rows, None)
    if name == "ds" or pa.types.is_integer(value):
        return IntegerColumn(num_rows) if pa.types.is_integer(value) else NumberColumn(num_rows)
    if (
        pa.types.is_floating(value)
        or pa.types.is_decimal(value)
        or pa.types.is_boolean(value)
        or pa.types.is_null(value)
    ):
        return NumberColumn(num_rows)
    message = f"must hold numbers, text or times, but holds {kind} instead."
    raise DataError([Problem("column_type", f"column {name!r}", message, "Write one value per row.")])


def without_null(integers: pa.Array, instead: int) -> NDArray[Any]:
    """Integers, with another for those that are missing; fill_null copies even where there is nothing to do."""
    return np.asarray((pc.fill_null(integers, instead) if integers.null_count else integers).to_numpy())


def _as_text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
