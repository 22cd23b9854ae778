"""Where a table may be cut without cutting a series, found in one pass over the column that names the series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from training.data.collectors import without_null
from training.data.parquet_folder import ParquetTable, Piece

_FIRST_CHECK = 1 << 16


class _Runs(NamedTuple):
    """Neighbouring rows of one series that begin inside a batch.

    Attributes:
        starts: First row of each, counted over the table.
        names: Hash of each series' name.
    """

    starts: NDArray[np.int64]
    names: NDArray[np.uint64]


def find_cuts(
    table: ParquetTable, part_rows: int, on_rows: Callable[[int], None] = lambda _rows: None
) -> tuple[int, ...] | None:
    """Rows at which the table is cut into parts of whole series.

    Memory: 8 bytes per series.

    Args:
        table: The rows.
        part_rows: A part ends with the first series that reaches this many rows, or with its partition.
        on_rows: Told how many rows were looked at since the last time.

    Returns:
        First row of each part, and the end; None if the rows of a series lie apart.
    """
    total = int(table.ends[-1]) if len(table.ends) else 0
    if table.layout.id_col is None:
        return (0, total)
    seen, cuts, partition = _SeenNames(), [0], None
    for index in np.flatnonzero(np.diff(table.ends, prepend=0)).tolist():
        begins_anew = table.partition(index) != partition
        partition = table.partition(index)
        for runs in _file_runs(table, index, seen.last, on_rows):
            if not seen.add(runs.names):
                return None
            first = int(table.ends[index]) - table.files[index].num_rows
            if begins_anew and first > 0:
                if not len(runs.starts) or runs.starts[0] != first:
                    return None  # a series goes on in another partition
                cuts.append(first)
            begins_anew = False
            _cut(cuts, runs.starts, part_rows)
    if not seen.is_distinct():
        return None
    return tuple(dict.fromkeys((*cuts, total)))


def _cut(cuts: list[int], starts: NDArray[np.int64], part_rows: int) -> None:
    while True:
        position = int(np.searchsorted(starts, cuts[-1] + part_rows))
        if position == len(starts):
            return
        cuts.append(int(starts[position]))


def _file_runs(
    table: ParquetTable, index: int, last: Callable[[], np.uint64 | None], on_rows: Callable[[int], None]
) -> Iterator[_Runs]:
    num_rows = table.files[index].num_rows
    position = int(table.ends[index]) - num_rows
    if table.id_key is not None:
        names = hash_names(table.key_values[table.id_key].slice(index, 1))
        on_rows(num_rows)
        yield _begun(np.zeros(1, np.int64) + position, names, last())
        return
    for batch in table.batches(Piece(index, 0, num_rows), [table.layout.id_col or ""]):
        starts, names = _batch_runs(batch.column(0))
        yield _begun(starts + position, names, last())
        position += batch.num_rows
        on_rows(batch.num_rows)


def _begun(starts: NDArray[np.int64], names: NDArray[np.uint64], last: np.uint64 | None) -> _Runs:
    """Without the first run if it goes on with the series before it."""
    skip = int(last is not None and names[0] == last)
    return _Runs(starts[skip:], names[skip:])


def _batch_runs(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    encoded = _encoded(column)
    codes = without_null(encoded.indices.cast(pa.int32()), -1)
    starts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    # A row group's dictionary may hold many more names than these rows.
    return starts.astype(np.int64), hash_names(encoded.dictionary.take(encoded.indices.take(pa.array(starts))))


def coded(column: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Code of every row, and the hash of every code's name; the last code stands for a missing name."""
    encoded = _encoded(column)
    hashes = np.append(hash_names(encoded.dictionary), np.uint64(0))
    return without_null(encoded.indices.cast(pa.int32()), len(hashes) - 1), hashes


def _encoded(column: pa.Array) -> pa.DictionaryArray:
    return column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)


def hash_names(names: pa.Array) -> NDArray[np.uint64]:
    """64 bits of every name, the same in every process and file; all of them 1 for a missing one."""
    hashes = pd.util.hash_array(names.cast(pa.string()).to_numpy(zero_copy_only=False), categorize=False)
    if names.null_count:  # which would be hashed as if it were called None
        hashes[names.is_null().to_numpy(zero_copy_only=False)] = np.iinfo(np.uint64).max
    return hashes


class _SeenNames:
    """Hashes of the series met so far.

    Two names of one hash (3 in 10^8 chances for a million series) only mean that rows are brought together that were
    together already.
    """

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.uint64]] = []
        self._count, self._next_check = 0, _FIRST_CHECK
        self._last: np.uint64 | None = None

    def last(self) -> np.uint64 | None:
        """The newest."""
        return self._last

    def add(self, names: NDArray[np.uint64]) -> bool:
        """Remember; False if one was certainly there before."""
        if not len(names):
            return True
        self._chunks.append(names)
        self._count += len(names)
        self._last = names[-1]
        if self._count < self._next_check:
            return True
        self._next_check *= 2
        return self.is_distinct()

    def is_distinct(self) -> bool:
        """Whether every name was met once."""
        if self._chunks:
            self._chunks = [np.sort(np.concatenate(self._chunks))]
        return all(bool((chunk[1:] != chunk[:-1]).all()) for chunk in self._chunks)
