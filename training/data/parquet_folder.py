"""Parquet in one file, in many, or in hive partitions, as one table of rows that is read a stretch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.config import DataConfig
from training.data.dialect import unreadable
from training.data.gathered import GatheredRows
from training.data.layout import Layout
from training.data.parquet import BATCH_ROWS, damaged, gather, read_parquet_sample, text_columns
from training.data.parquet_pages import validate_unpacked
from training.data.readers import needed_columns, parquet_layout
from training.errors import DataError, Problem

SUFFIXES = (".parquet", ".pq", ".parq")
# What Hive writes where the partition's value is missing.
_NULL_KEY = "__HIVE_DEFAULT_PARTITION__"
# Bytes of a column that are read at once: a row group may be larger than memory.
_BUFFER_BYTES = 1 << 20
_TAIL_BYTES = 8  # of a parquet file: length of its footer, and its mark


@dataclass(frozen=True)
class SourceFile:
    """One file of a table.

    Attributes:
        path: Where it is.
        name: Its path below the folder, with `/`; the file's name if the table is a single file.
        keys: Values of its hive partitions, `region=north` as `{"region": "north"}`; None where missing.
    """

    path: Path
    name: str
    keys: Mapping[str, str | None]

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """First row of every row group, and the end."""
        with _opened(self.path) as file:
            validate_unpacked(file, self.path, 1)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        return np.cumsum([0, *counts], dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return int(self.edges[-1])

    def footer(self) -> bytes:
        """The description at its end, with the statistics of every column: other content has another one."""
        with self.path.open("rb") as stream:
            stream.seek(-_TAIL_BYTES, 2)
            length = int.from_bytes(stream.read(4), "little")
            stream.seek(-min(length + _TAIL_BYTES, self.path.stat().st_size), 2)
            return stream.read()


class Piece(NamedTuple):
    """Rows `start .. stop - 1` of a file of a table."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True)
class ParquetTable:
    """Files of the same columns.

    Attributes:
        path: The folder, or the one file.
        files: By name, in order.
        config: Columns and roles.
        layout: Which column is what.
        id_hint: What to say about timestamps that repeat.
    """

    path: Path
    files: tuple[SourceFile, ...]
    config: DataConfig
    layout: Layout
    id_hint: str | None

    @cached_property
    def key_values(self) -> dict[str, pa.Array]:
        """Value of every hive key by file; numbers where all are whole numbers."""
        return {name: _typed([file.keys[name] for file in self.files]) for name in self.files[0].keys}

    @cached_property
    def fields(self) -> dict[str, pa.DataType]:
        """Columns that are needed, hive keys among them, with their types in the first file."""
        with _opened(self.files[0].path) as file:
            schema = file.schema_arrow
        stored = set(schema.names)
        return {
            name: schema.field(name).type if name in stored else self.key_values[name].type
            for name in needed_columns(self.layout, self.config)
        }

    @property
    def said_config(self) -> DataConfig:
        """The configuration with the columns that were found: other first rows might suggest others."""
        layout = self.layout
        roles = {"id_col": layout.id_col, "time_col": "+".join(layout.time_cols), "target_col": layout.target_col}
        return self.config.model_copy(update={name: value for name, value in roles.items() if value is not None})

    def require_long(self) -> None:
        """Refuse a table with a column per series, which cannot be read series by series.

        Raises:
            DataError: If it is one.
        """
        if self.layout.kind == "wide":
            remedy = "Write one row per series and time, and set data.format: long."
            raise unreadable(self.path, "a wide table", remedy, "layout_wide")

    @property
    def id_key(self) -> str | None:
        """The hive key that names the series, if one does."""
        name = self.layout.id_col
        return name if name in self.files[0].keys and name not in self._stored else None

    @cached_property
    def _stored(self) -> tuple[str, ...]:
        return tuple(name for name in self.fields if name not in self.files[0].keys)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Rows of the table up to the end of every file."""
        return np.cumsum([file.num_rows for file in self.files], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all names, sizes and footers: says whether the table is still the one that work began on."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name}\0{file.path.stat().st_size}\0".encode())
            digest.update(file.footer())
        return digest.hexdigest()

    def partition(self, index: int) -> str:
        """Folder of a file below the table's, without the key that names the series."""
        parts = PurePosixPath(self.files[index].name).parent.parts
        return "/".join(part for part in parts if part.partition("=")[0] != self.id_key)

    def pieces(self, start: int, stop: int) -> tuple[Piece, ...]:
        """Rows `start .. stop - 1` of the table by file."""
        first, last = np.searchsorted(self.ends, (start, stop - 1), side="right")
        begins = self.ends - [file.num_rows for file in self.files]
        found = []
        for index in range(int(first), int(last) + 1):
            begin, end = int(begins[index]), int(self.ends[index])
            found.append(Piece(index, max(start, begin) - begin, min(stop, end) - begin))
        return tuple(piece for piece in found if piece.stop > piece.start)

    def batches(self, piece: Piece, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Rows of a file, some ten thousand at a time.

        Args:
            piece: Which.
            names: Columns; None = all that are needed.

        Raises:
            DataError: If the file is damaged or its columns are others than the first file's.
        """
        source = self.files[piece.file]
        wanted = list(self.fields if names is None else names)
        stored = [name for name in wanted if name in self._stored]
        groups = np.flatnonzero((source.edges[:-1] < piece.stop) & (source.edges[1:] > piece.start)).tolist()
        position = int(source.edges[groups[0]]) if groups else 0
        try:
            with _opened(source.path, text_columns({name: self.fields[name] for name in stored})) as file:
                self._validate(source, file.schema_arrow)
                has_threads = len(stored) > 1 and pa.cpu_count() > 1  # else there is only another thread to wait for
                for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=stored, use_threads=has_threads):
                    low, high = max(piece.start - position, 0), min(piece.stop - position, batch.num_rows)
                    position += batch.num_rows
                    if high > low:
                        yield self._with_keys(batch.slice(low, high - low), piece.file, wanted)
                    if position >= piece.stop:
                        return
        except (pa.ArrowException, OSError) as error:
            raise damaged(source.path, error) from None

    def gather(self, pieces: Sequence[Piece]) -> GatheredRows:
        """Rows column by column."""
        batches = (batch for piece in pieces for batch in self.batches(piece))
        ids = [self.layout.id_col] if self.layout.id_col is not None else []
        num_rows = sum(piece.stop - piece.start for piece in pieces)
        columns = gather(batches, self.fields, num_rows, ids)
        return GatheredRows(columns, num_rows, self.layout, self.path, self.config, self.id_hint)

    def read(self, pieces: Sequence[Piece]) -> pd.DataFrame:
        """Rows as a frame, as `training.data.readers.read_frame` describes it."""
        return self.gather(pieces).frame()

    def _with_keys(self, batch: pa.RecordBatch, index: int, wanted: Sequence[str]) -> pa.RecordBatch:
        columns = [
            batch.column(name) if name in self._stored else pa.repeat(self.key_values[name][index], batch.num_rows)
            for name in wanted
        ]
        return pa.RecordBatch.from_arrays(columns, names=list(wanted))

    def _validate(self, source: SourceFile, schema: pa.Schema) -> None:
        problems = []
        for name in self._stored:
            actual = schema.field(name).type if name in schema.names else None
            if actual is None or _kind(actual) != _kind(self.fields[name]):
                found = "absent" if actual is None else str(actual)
                message = f"must be {self.fields[name]} as in {self.files[0].name}, but is {found} instead."
                where = f"file {source.name}, column {name!r}"
                problems.append(Problem("files_differ", where, message, "Write all files with the same columns."))
        if problems:
            raise DataError(problems)


def open_table(path: Path, config: DataConfig) -> ParquetTable:
    """Find the files and what their columns are.

    Args:
        path: A parquet file, or a folder of them; files and folders whose name begins with `_` or `.` are left out.
        config: Columns and roles; what is open is guessed from the first rows.

    Raises:
        DataError: If there is none, or something else lies between them.
    """
    path = Path(path)
    files = tuple(_find(path)) if path.is_dir() else (SourceFile(path, path.name, {}),)
    layout, id_hint = parquet_layout(*_sample(files), config)
    return ParquetTable(path, files, config, layout, id_hint)


def sample_folder(folder: Path) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Columns of a folder's files, keys of their partitions among them, and the first rows.

    Raises:
        DataError: If there is no file, or something else lies between them.
    """
    return _sample(tuple(_find(folder)))


def _sample(files: Sequence[SourceFile]) -> tuple[tuple[str, ...], pd.DataFrame]:
    # What a file unpacks to is found with its edges, which are kept; once is enough.
    is_validated = len(files[0].edges) > 0
    names, head = read_parquet_sample(files[0].path, is_validated)
    for key in files[0].keys:
        if key not in head.columns:
            head[key] = _typed([file.keys[key] for file in files])[0].as_py()
            names = (*names, key)
    return tuple(names), head


def _find(folder: Path) -> Iterator[SourceFile]:
    """The folder's files in the order of their names.

    Raises:
        DataError: If there is none, one is no parquet, or their partitions have different keys.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_dir() or any(part.startswith(("_", ".")) for part in parts):
            continue
        if path.suffix.lower() not in SUFFIXES:
            raise unreadable(folder, f"with {'/'.join(parts)} in it", "A folder must hold parquet files only.", "folder_mixed")
        found.append(SourceFile(path, "/".join(parts), _keys(parts[:-1])))
    if not found:
        raise unreadable(folder, "without a parquet file", "Bring files whose names end in .parquet.", "data_empty")
    odd = next((file for file in found if tuple(file.keys) != tuple(found[0].keys)), None)
    if odd is not None:
        actual = f"partitioned by other keys in {odd.name} than in {found[0].name}"
        raise unreadable(folder, actual, "Partition all files by the same keys.", "folder_mixed")
    yield from found


def _keys(folders: Sequence[str]) -> dict[str, str | None]:
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {name: None if value == _NULL_KEY else unquote(value) for name, _, value in pairs}


def _typed(values: Sequence[str | None]) -> pa.Array:
    texts = pa.array(values, pa.string())
    try:
        numbers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return texts
    # 007 is a name, not a number.
    return numbers if numbers.cast(pa.string()).equals(texts) else texts


def _kind(kind: pa.DataType) -> str:
    """What a column must agree on between files: a number may be wider in one of them, a time in other units."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(value) or pa.types.is_large_string(value):
        return "text"
    if pa.types.is_timestamp(value):
        return f"time {value.tz}"
    if pa.types.is_integer(value):
        return "integer"
    return "number" if pa.types.is_floating(value) or pa.types.is_decimal(value) else str(value)


def _opened(path: Path, texts: Sequence[str] = ()) -> Any:
    try:
        return pq.ParquetFile(path, read_dictionary=list(texts), buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None
