"""Long tables in and out: CSV, Parquet and Arrow's stream, as bytes.

Nothing is read that could take more memory than the limit: the pages of a Parquet file are counted first, compressed Arrow
is refused (a body may be compressed as a whole instead, by Content-Encoding).
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from app.errors import ProblemError
from app.services.answer import Answer
from app.services.encoding import EncodedSeries
from training.data.dialect import too_large
from training.data.parquet_pages import validate_unpacked
from training.errors import DataError

CSV, PARQUET, ARROW = "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"
# Fields of Arrow's flatbuffers (format/Message.fbs): the header of a message, the compression of its buffers.
_HEADER_TYPE, _HEADER, _COMPRESSION = 1, 2, 3
_DICTIONARY, _RECORDS = 2, 3


def read_table(body: bytes, media_type: str, max_bytes: int) -> pa.Table:
    """Rows of a body.

    Args:
        body: Unpacked.
        media_type: One of `MEDIA_TYPES`.
        max_bytes: Most that it may take as columns.

    Raises:
        ProblemError: `table_invalid`, or `body_too_large`.
    """
    try:
        return _read_parquet(body, max_bytes) if media_type == PARQUET else READERS[media_type](body)
    except (pa.ArrowException, ValueError, struct.error, OSError, DataError) as error:
        if isinstance(error, DataError) and any(problem.code == "file_too_large" for problem in error.problems):
            raise ProblemError("body_too_large", f"The table must unpack to at most {max_bytes} bytes.") from None
        raise ProblemError("table_invalid", f"The body must be a whole table in the format {media_type}.") from None


def answer_table(answer: Answer) -> pa.Table:
    """One row per series that has a forecast, and step: `unique_id`, `ds`, `mean`, intervals, quantiles."""
    forecast = [(unique_id, outcome) for unique_id, outcome, _ in answer.rows() if isinstance(outcome, EncodedSeries)]
    stamps = np.concatenate([answer.stamps(outcome) for _, outcome in forecast])
    grid = answer.timeline.grid
    times = pa.array(stamps) if grid.time_kind == "integer" else pa.array(stamps, pa.timestamp("us", tz=grid.timezone))
    ids = pa.array([unique_id for unique_id, _ in forecast]).take(np.repeat(np.arange(len(forecast)), answer.horizon))
    values = {
        key: pa.array(np.ascontiguousarray(rows).reshape(-1))
        for key, rows in zip(answer.levels.keys, answer.values, strict=True)
    }
    return pa.table({"unique_id": ids, "ds": times, **values})


def write_table(table: pa.Table, media_type: str) -> bytes:
    """The bytes of a table.

    Args:
        table: Forecasts.
        media_type: One of `MEDIA_TYPES`.
    """
    stream = io.BytesIO()
    WRITERS[media_type](table, stream)
    return stream.getvalue()


def _read_csv(body: bytes) -> pa.Table:
    names_are_text = pa.csv.ConvertOptions(column_types={"unique_id": pa.string()}, strings_can_be_null=True)
    return pa.csv.read_csv(io.BytesIO(body), convert_options=names_are_text)


def _read_parquet(body: bytes, max_bytes: int) -> pa.Table:
    with tempfile.TemporaryDirectory(prefix="gradcast-body-") as directory:
        path = Path(directory) / "body.parquet"
        path.write_bytes(body)
        with pq.ParquetFile(path) as probe:
            schema = probe.schema_arrow
            validate_unpacked(probe, path, len(schema.names), max_bytes, is_ours=True)
        texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
        # A text that repeats stands in the file once: what all its repetitions take is known before they are written out.
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            table = file.read()
        num_bytes = sum(_repeated_bytes(chunk) for name in texts for chunk in table.column(name).chunks)
        if num_bytes > max_bytes:
            raise too_large(path, f"texts of {num_bytes} bytes", max_bytes)
        return table.cast(schema)


def _repeated_bytes(texts: pa.DictionaryArray) -> int:
    longest = pc.max(pc.binary_length(texts.dictionary)).as_py() or 0
    return int(longest) * len(texts)


def _read_arrow(body: bytes) -> pa.Table:
    for message in pa.ipc.MessageReader.open_stream(body):
        if _is_compressed(message.metadata.to_pybytes()):
            raise ValueError(ARROW)
    with pa.ipc.open_stream(body) as reader:
        return reader.read_all()


def _is_compressed(message: bytes) -> bool:
    """Whether the buffers of a message stand for more than their own bytes."""
    root = struct.unpack_from("<I", message, 0)[0]
    kind_at, header_at = _field(message, root, _HEADER_TYPE), _field(message, root, _HEADER)
    kind = message[kind_at] if kind_at else 0
    if not header_at or kind not in (_DICTIONARY, _RECORDS):
        return False
    header = header_at + struct.unpack_from("<I", message, header_at)[0]
    if kind == _DICTIONARY:  # its records lie one table deeper
        records_at = _field(message, header, 1)
        if not records_at:
            return False
        header = records_at + struct.unpack_from("<I", message, records_at)[0]
    return bool(_field(message, header, _COMPRESSION))


def _field(message: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table is; 0 if it is left out."""
    names = table - struct.unpack_from("<i", message, table)[0]
    size = struct.unpack_from("<H", message, names)[0]
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", message, names + at)[0] if at < size else 0
    return table + offset if offset else 0


def _write_csv(table: pa.Table, stream: io.BytesIO) -> None:
    ds = table.column("ds")
    if pa.types.is_timestamp(ds.type):
        texts = pc.strftime(ds, format="%Y-%m-%dT%H:%M:%S%z" if ds.type.tz else "%Y-%m-%dT%H:%M:%S")
        table = table.set_column(1, "ds", texts)
    pa.csv.write_csv(table, stream, pa.csv.WriteOptions(quoting_style="needed"))


def _write_arrow(table: pa.Table, stream: io.BytesIO) -> None:
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)


MEDIA_TYPES = (CSV, PARQUET, ARROW)
READERS: Mapping[str, Callable[[bytes], pa.Table]] = {CSV: _read_csv, ARROW: _read_arrow}
WRITERS: Mapping[str, Callable[[pa.Table, io.BytesIO], None]] = {
    CSV: _write_csv, PARQUET: pq.write_table, ARROW: _write_arrow,
}  # fmt: skip
