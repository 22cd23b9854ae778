"""A long table as the series of a request, by the rule of `gradcast forecast`.

Rows after a series' last real `y` carry the known future of the covariates; a series without any `y` is asked for by its
name. Columns that the model does not read are left aside, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from app.errors import ProblemError
from app.schemas.forecast import SeriesRequest
from models.bundle import BundleManifest

ONLY_SERIES = "series"
# Beyond it a float64 does not hold every integer.
MAX_WHOLE = 2**53

Values = Sequence[float | str | None]


def series_of(table: pa.Table, manifest: BundleManifest, max_series: int) -> list[SeriesRequest]:
    """The series of a table, in the order in which they appear.

    Args:
        table: `ds`, `y`, optionally `unique_id`, and the model's covariates.
        manifest: Of the model.
        max_series: How many there may be.

    Raises:
        ProblemError: `table_invalid` or `too_many_series`.
    """
    columns = manifest.columns
    names = [*columns.futr_exog, *columns.hist_exog, *columns.stat_exog]
    for name in (*(["ds"] if "y" in table.column_names else []), *names):
        if table.column_names.count(name) != 1:
            raise _invalid(f"must have one column {name!r}, which the model reads")
    if not table.num_rows:
        raise _invalid("must have rows")
    ids, codes = _ids(table)
    if len(ids) > max_series:
        raise ProblemError("too_many_series", f"A request must hold at most {max_series} series. Send several requests.")
    ends = np.cumsum(np.bincount(codes))
    if (np.diff(codes) < 0).any():
        table = table.take(pa.array(np.argsort(codes, kind="stable")))
    y = _numbers(table.column("y")) if "y" in table.column_names else np.full(table.num_rows, np.nan)
    times = _times(table.column("ds")) if "ds" in table.column_names else []
    values = {name: _plain(table.column(name), name) for name in names}
    return list(_cut(ids, ends, y, times, values, manifest))


def _cut(
    ids: Sequence[str],
    ends: NDArray[np.int64],
    y: NDArray[np.float64],
    times: Sequence[str | int],
    values: Mapping[str, list[float | str | None]],
    manifest: BundleManifest,
) -> Iterator[SeriesRequest]:
    columns = manifest.columns
    start = 0
    for unique_id, end in zip(ids, ends.tolist(), strict=True):
        real = np.flatnonzero(~np.isnan(y[start:end]))
        last = start + (int(real[-1]) + 1 if len(real) else 0)
        futr = {name: values[name][start:end] for name in columns.futr_exog}
        if last == start:
            yield SeriesRequest.model_construct(unique_id=unique_id, futr_exog=futr)
        else:
            yield SeriesRequest.model_construct(
                unique_id=unique_id, ds=list(times[start:last]),
                y=[None if value != value else value for value in y[start:last].tolist()],  # NaN alone differs from itself
                futr_exog=futr, hist_exog={name: values[name][start:last] for name in columns.hist_exog},
                stat_exog={name: value for name in columns.stat_exog if (value := values[name][start]) is not None},
            )  # fmt: skip
        start = end


def _ids(table: pa.Table) -> tuple[list[str], NDArray[np.int64]]:
    """Names in the order of their first rows, and the number of each row's."""
    if "unique_id" not in table.column_names:
        return [ONLY_SERIES], np.zeros(table.num_rows, np.int64)
    column = table.column("unique_id")
    if column.null_count:
        raise _invalid("must have a name in every row of column 'unique_id'")
    try:
        encoded = pc.cast(column, pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException:
        raise _invalid("must have texts or numbers in column 'unique_id'") from None
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    try:
        numbers: NDArray[np.float64] = pc.cast(column, pa.float64()).to_numpy()
    except pa.ArrowException:
        raise _invalid("must have numbers in column 'y'") from None
    if np.isinf(numbers).any():
        raise _invalid("must have finite numbers in column 'y'")
    return numbers


def _times(column: pa.ChunkedArray) -> list[str | int]:
    if column.null_count:
        raise _invalid("must have a time in every row of column 'ds'")
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_string(kind):
        times: list[str | int] = column.to_pylist()
        return times
    if pa.types.is_floating(kind):  # JSON does not tell 1 from 1.0
        numbers = column.to_numpy()
        if not (np.isfinite(numbers) & (numbers == np.round(numbers)) & (np.abs(numbers) < MAX_WHOLE)).all():
            raise _invalid("must have whole numbers or times in column 'ds'")
        return [int(number) for number in numbers]
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise _invalid("must have times in column 'ds'")
    stamps = pc.cast(column, pa.timestamp("us", tz=getattr(kind, "tz", None))).cast(pa.int64()).to_numpy()
    texts = np.datetime_as_string(stamps.view("M8[us]"), unit="us").tolist()
    return [f"{text}Z" for text in texts] if getattr(kind, "tz", None) else texts


def _plain(column: pa.ChunkedArray, name: str) -> list[float | str | None]:
    """Numbers or texts, None where missing."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = pc.cast(column, pa.float64()).to_pylist()
        return [None if value is None or value != value else value for value in numbers]
    if pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return list(column.to_pylist())
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type), name)
    raise _invalid(f"must have numbers or texts in column {name!r}")


def _invalid(what: str) -> ProblemError:
    return ProblemError("table_invalid", f"The table {what}.")
