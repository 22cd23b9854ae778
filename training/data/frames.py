"""Frames that a program hands over, of pandas, polars or anything that speaks Arrow, and the same kind back."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from training.config import DataConfig
from training.data.readers import read_frame
from training.errors import DataError, Problem


def write_rows(frame: Any, path: Path, target_col: str | None = None) -> None:
    """Write a frame as the parquet file that the readers know.

    Args:
        frame: Of pandas (its index is left out), or with Arrow's stream interface, as polars' frames are.
        path: The file.
        target_col: Added without a value if the frame lacks it.

    Raises:
        DataError: If it is no frame, or a column holds what no table can.
    """
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False) if isinstance(frame, pd.DataFrame) else pa.table(frame)
    except (TypeError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0][:120] if isinstance(frame, pd.DataFrame) else type(frame).__name__
        message = f"must be a frame of pandas, polars or Arrow, but is {reason} instead."
        raise DataError([Problem("frame_unreadable", "the frame", message)]) from None
    if target_col is not None and target_col not in table.column_names:
        table = table.append_column(target_col, pa.nulls(len(table), pa.float64()))
    pq.write_table(pa.table([_plain(column) for column in table.columns], table.column_names), path)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Views of texts, polars' way of keeping them, are younger than most kernels and readers of parquet."""
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    if not pa.types.is_dictionary(column.type):
        return column
    chunks = [pa.DictionaryArray.from_arrays(part.indices, _texts(part.dictionary)) for part in column.chunks]
    return pa.chunked_array([chunk.dictionary_decode() for chunk in chunks], _texts(column.type.value_type))


def _texts(what: pa.Array | pa.DataType) -> pa.Array | pa.DataType:
    """Texts, or the type of them, not as views."""
    is_type = isinstance(what, pa.DataType)
    if not pa.types.is_string_view(what if is_type else what.type):
        return what
    return pa.large_string() if is_type else what.cast(pa.large_string())


def read_rows(frame: Any, config: DataConfig, is_future: bool = False) -> pd.DataFrame:
    """A frame read as a file with the same rows is.

    Args:
        frame: As `write_rows` takes it.
        config: Names and roles of its columns.
        is_future: Whether `y` may be absent.

    Returns:
        `unique_id`, `ds`, `y` and the covariates.

    Raises:
        DataError: With what is wrong with it.
    """
    with tempfile.TemporaryDirectory(prefix="gradcast-frame-") as directory:
        path = Path(directory) / "frame.parquet"
        write_rows(frame, path, config.target_col if is_future else None)
        return read_frame(path, config)


def join_rows(past: pd.DataFrame, future: pd.DataFrame) -> pd.DataFrame:
    """The rows of both, on one clock: times with an offset are brought to the past's zone."""
    parts = [part.assign(unique_id=part["unique_id"].astype(str)) for part in (past, future)]
    zones = [getattr(part["ds"].dtype, "tz", None) for part in parts]
    if all(zone is not None for zone in zones):
        parts[1]["ds"] = parts[1]["ds"].dt.tz_convert(zones[0])
    return pd.concat(parts, ignore_index=True)


def as_kind_of(result: pd.DataFrame, like: Any) -> Any:
    """A result as polars' frame if that is what was handed over, else of pandas."""
    if type(like).__module__.partition(".")[0] != "polars":
        return result
    # It is imported already: somebody made the frame.
    return sys.modules["polars"].from_arrow(pa.Table.from_pandas(result, preserve_index=False))
