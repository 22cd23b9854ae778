"""The last rows of every trained series, kept with the bundle so that a known series is forecast by name alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.data.dialect import unreadable
from training.data.panel import Panel
from training.data.parquet_pages import VALUE_BYTES, validate_unpacked
from training.data.splits import Splits

# Of all rows of all series, unpacked.
MAX_CONTEXT_BYTES = 2**30


def context_bytes(panel: Panel, context_length: int) -> int:
    """How much `write_context` would write at most, unpacked."""
    columns = panel.columns
    num_columns = 3 + len(columns.futr_exog) + len(columns.hist_exog) + len(columns.stat_exog)
    return int(np.minimum(panel.lengths, context_length).sum()) * num_columns * VALUE_BYTES


def write_context(panel: Panel, splits: Splits | None, context_length: int) -> bytes:
    """Write the last rows of each series as parquet.

    Args:
        panel: The series.
        splits: If given, series without a training window are left out.
        context_length: Rows per series at most.

    Returns:
        Columns `unique_id`, `ds`, `y` (null where missing) and the covariates, as in the file that was trained on. Where
        missing values are filled, the rows begin at a real one: a gap at their start is filled from what lies before it.
    """
    series = np.array(
        [i for i, name in enumerate(panel.ids) if splits is None or name not in splits.excluded], np.int64
    )
    lengths = _lengths(panel, series, context_length)
    code = np.repeat(np.arange(len(series)), lengths)
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    row = np.repeat(panel.offsets[series + 1] - lengths, lengths) + position
    values: NDArray[np.float32] = panel.values  # noqa: PD011  an array of ours, not a frame's
    columns: dict[str, pa.Array] = {
        "unique_id": pa.DictionaryArray.from_arrays(
            pa.array(code, pa.int32()), pa.array([panel.ids[i] for i in series], pa.string())
        ),
        "ds": _times(panel, series, lengths),
        "y": pa.array(values[row], pa.float32(), mask=~panel.observed[row]),
    }
    channel = 0
    for name in (*panel.columns.futr_exog, *panel.columns.hist_exog):
        categories = panel.columns.categories.get(name)
        width = 1 if categories is None else len(categories)
        columns[name] = _decode(panel.covariates[row, channel : channel + width], categories)
        channel += width
    channel = 0
    for name in panel.columns.stat_exog:
        categories = panel.columns.categories.get(name)
        width = 1 if categories is None else len(categories)
        columns[name] = _decode(panel.static[series, channel : channel + width], categories).take(pa.array(code))
        channel += width
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, compression="zstd")
    return stream.getvalue()


def _lengths(panel: Panel, series: NDArray[np.int64], context_length: int) -> NDArray[np.int64]:
    """Rows to keep of each series, counted from its end."""
    lengths = np.minimum(panel.lengths[series], context_length)
    if panel.filled is None:
        return lengths
    ends = panel.offsets[series + 1]
    newest = np.maximum.accumulate(np.where(panel.observed, np.arange(len(panel.observed)), 0))
    return np.asarray(ends - newest[ends - lengths])


def _times(panel: Panel, series: NDArray[np.int64], lengths: NDArray[np.int64]) -> pa.Array:
    starts = panel.starts.view(np.int64)
    ends = panel.lengths[series]
    stamps = [
        panel.frequency.range(int(starts[i]), int(end - length), int(end))
        for i, end, length in zip(series, ends, lengths, strict=True)
    ]
    joined = np.concatenate([*stamps, np.zeros(0, np.int64)])
    if panel.time_kind == "integer":
        return pa.array(joined, pa.int64())
    return pa.array(joined, pa.int64()).cast(pa.timestamp("us", "UTC" if panel.timezone is not None else None))


def _decode(channels: NDArray[np.float32], categories: tuple[str, ...] | None) -> pa.Array:
    if categories is None:
        return pa.array(channels[:, 0], pa.float32())
    known = channels.any(axis=1)
    if not categories:
        return pa.nulls(len(channels), pa.string())
    return pa.array(np.array(categories, dtype=object)[channels.argmax(axis=1)], pa.string(), mask=~known)


def read_context(path: Path) -> pd.DataFrame:
    """Read what `write_context` wrote.

    Whoever may write to a registry may have made the file: what it unpacks to is known before memory is taken, and a text that
    repeats is kept once.

    Args:
        path: The file.

    Returns:
        A frame of `unique_id`, `ds`, `y` and covariates. Times with a zone are in UTC.

    Raises:
        DataError: If it is damaged, unpacks to more than `MAX_CONTEXT_BYTES`, or is written in another way than ours.
    """
    try:
        with pq.ParquetFile(path) as probe:
            schema = probe.schema_arrow
            validate_unpacked(probe, path, len(schema.names), MAX_CONTEXT_BYTES, is_ours=True)
            texts = [field.name for field in schema if _is_text(field.type)]
        table = pq.ParquetFile(path, read_dictionary=texts).read()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, f"damaged ({str(error).splitlines()[0][:200]})", "Fetch the bundle again.") from None
    frame = table.to_pandas()
    # As references to one text each, which is what the rest of the project knows; `unique_id` stays a category.
    return frame.astype({name: object for name in texts if name != "unique_id"})


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
