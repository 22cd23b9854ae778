"""Brings the rows of every series together where a table has them apart, in one pass, with files as buckets."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.parquet_folder import ParquetTable, Piece
from training.data.series_order import coded

# Rows held back until they are worth a row group each.
_HELD_ROWS = 2_000_000
# Every bucket is an open file.
MAX_BUCKETS = 512


def regroup(
    table: ParquetTable, folder: Path, num_buckets: int, on_rows: Callable[[int], None] = lambda _rows: None
) -> None:
    """Write every row into the bucket of its series' name; the folder appears complete or not at all.

    Args:
        table: The rows.
        folder: Where to; replaced if it exists.
        num_buckets: Files, at most `MAX_BUCKETS`. A bucket without a series has no file.
        on_rows: Told how many rows were written since the last time.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for old in (unfinished, folder):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with _Buckets(unfinished, num_buckets) as buckets:
        for index, file in enumerate(table.files):
            for batch in table.batches(Piece(index, 0, file.num_rows)):
                buckets.add(_plain(batch), table.layout.id_col or "")
                on_rows(batch.num_rows)
    os.replace(unfinished, folder)


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without dictionaries: those of one batch differ from those of the next."""
    columns = [
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


class _Buckets(ExitStack):
    def __init__(self, folder: Path, num_buckets: int) -> None:
        super().__init__()
        self.folder, self.num_buckets = folder, min(num_buckets, MAX_BUCKETS)
        self._held: dict[int, list[pa.RecordBatch]] = defaultdict(list)
        self._num_held = 0
        self._writers: dict[int, pq.ParquetWriter] = {}

    def add(self, batch: pa.RecordBatch, id_col: str) -> None:
        """Take rows."""
        for bucket, rows in self._shared_out(batch, id_col):
            self._held[bucket].append(rows)
        self._num_held += batch.num_rows
        if self._num_held >= _HELD_ROWS:
            self._flush()

    def __exit__(self, *error: object) -> bool | None:
        self._flush()
        return super().__exit__(*error)  # type: ignore[arg-type]  # whatever with statements hand over

    def _shared_out(self, batch: pa.RecordBatch, id_col: str) -> Iterator[tuple[int, pa.RecordBatch]]:
        codes, hashes = coded(batch.column(id_col))
        of_row = (hashes % np.uint64(self.num_buckets)).astype(np.int64)[codes]
        order = np.argsort(of_row, kind="stable")
        rows = batch.take(pa.array(order))
        edges = np.searchsorted(of_row[order], np.arange(self.num_buckets + 1))
        for bucket in np.flatnonzero(np.diff(edges)).tolist():
            start = int(edges[bucket])
            yield bucket, rows.slice(start, int(edges[bucket + 1]) - start)

    def _flush(self) -> None:
        for bucket, batches in self._held.items():
            if bucket not in self._writers:
                writer = pq.ParquetWriter(self.folder / f"bucket-{bucket:03d}.parquet", batches[0].schema)
                self._writers[bucket] = self.enter_context(writer)
            joined = pa.Table.from_batches(batches)
            self._writers[bucket].write_table(joined, row_group_size=joined.num_rows)
        self._held.clear()
        self._num_held = 0
