"""A long frame as the series of a request, by the rule of `gradcast forecast`.

Rows after a series' last real `y` carry the known future of the covariates; a series without any `y` is asked for by its
name. Columns that the model does not read are left aside, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from app.errors import ProblemError
from app.schemas.forecast import SeriesRequest
from models.bundle import BundleManifest

ONLY_SERIES = "series"


def series_of(frame: pd.DataFrame, manifest: BundleManifest, max_series: int) -> list[SeriesRequest]:
    """The series of a frame, in the order in which they appear.

    Args:
        frame: `ds`, `y`, optionally `unique_id`, and the model's covariates.
        manifest: Of the model.
        max_series: How many there may be.

    Raises:
        ProblemError: `table_invalid` or `too_many_series`.
    """
    columns = manifest.columns
    names = [*columns.futr_exog, *columns.hist_exog, *columns.stat_exog]
    for name in (*(["ds"] if "y" in frame else []), *names):
        if name not in frame:
            raise _invalid(f"must have a column {name!r}, which the model reads")
    if not len(frame):
        raise _invalid("must have rows")
    ids = frame["unique_id"] if "unique_id" in frame else pd.Series(ONLY_SERIES, index=frame.index)
    codes, uniques = pd.factorize(ids.astype(str))
    if len(uniques) > max_series:
        raise ProblemError("too_many_series", f"A request must hold at most {max_series} series. Send several requests.")
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))
    y = _numbers(frame["y"].iloc[order]) if "y" in frame else np.full(len(frame), np.nan)
    times = _times(frame["ds"].iloc[order]) if "ds" in frame else []
    values = {name: _plain(frame[name].iloc[order]) for name in names}
    return list(_cut(uniques.tolist(), ends, y, times, values, manifest))


def _cut(
    ids: Sequence[str],
    ends: np.ndarray,
    y: np.ndarray,
    times: Sequence[str | int],
    values: dict[str, list[float | str | None]],
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
                y=[None if value != value else value for value in y[start:last].tolist()],  # noqa: PLR0124  NaN alone differs
                futr_exog=futr, hist_exog={name: values[name][start:last] for name in columns.hist_exog},
                stat_exog={name: value for name in columns.stat_exog if (value := values[name][start]) is not None},
            )  # fmt: skip
        start = end


def _numbers(column: pd.Series) -> np.ndarray:
    try:
        numbers = pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        raise _invalid("must have numbers in column 'y'") from None
    if np.isinf(numbers).any():
        raise _invalid("must have finite numbers in column 'y'")
    return numbers


def _times(column: pd.Series) -> list[str | int]:
    if column.isna().any():
        raise _invalid("must have a time in every row of column 'ds'")
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return [time.isoformat() for time in column]
    if column.dtype.kind == "M":
        texts: list[str | int] = np.datetime_as_string(column.to_numpy(dtype="M8[us]"), unit="us").tolist()
        return texts
    if column.dtype.kind in "iu":
        return [int(time) for time in column]
    return [time if isinstance(time, int) else str(time) for time in column]


def _plain(column: pd.Series) -> list[float | str | None]:
    """Numbers or texts, None where missing; of a table that only looks numeric here and there, as it is."""
    values = column.astype(object).where(column.notna(), None).tolist()
    return [float(value) if isinstance(value, bool | int | np.number) else value for value in values]


def _invalid(what: str) -> ProblemError:
    return ProblemError("table_invalid", f"The table {what}.")
