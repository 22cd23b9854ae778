"""From sorted rows to a regular grid: which row of the file each row of the store holds, and what fills the gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.config import FillPolicy
from training.data.covariates import last_seen
from training.data.rows import SortedRows, block_edges, place
from training.data.steps import Frequency
from training.errors import DataError, Problem

# A grid this many times longer than the file is a wrong timestamp or a wrong frequency, not a series with gaps.
_MAX_STRETCH = 100
_FREE_ROWS = 1_000_000
MAX_FUTURE_ROWS = 10_000


@dataclass(frozen=True)
class Grid:
    """The rows of the store.

    Attributes:
        series: Series that are kept (positions in the sorted rows).
        offsets: First row of each kept series in the store, and the end.
        starts: First timestamp of each kept series.
        source: Sorted row of each row of the store, -1 for a gap; None if both are the same.
        future: Sorted row (N, E) of each step after the last known one, -1 where the file has none.
        dropped: Names of series without a single value.
        num_trimmed: Rows before the first and after the last value of the kept series that are not future rows.
    """

    series: NDArray[np.int64]
    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    source: NDArray[np.int64] | None
    future: NDArray[np.int64]
    dropped: tuple[str, ...]
    num_trimmed: int

    @property
    def num_rows(self) -> int:
        """Rows of the store."""
        return int(self.offsets[-1])


def read_target(frame: pd.DataFrame) -> NDArray[np.floating]:
    """The target as numbers, NaN where missing, without a copy if it is numbers already.

    Raises:
        DataError: If a value is text or infinite, or too large for float32.
    """
    column = frame["y"]
    if pd.api.types.is_bool_dtype(column.dtype):
        column = column.astype("float32")
    is_numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype)
    numbers = column if is_numeric else pd.to_numeric(column, errors="coerce")
    if not pd.api.types.is_numeric_dtype(numbers.dtype):
        actual = f"is of type {column.dtype}"
        raise DataError(
            [
                Problem(
                    "target_not_numeric",
                    "column 'y'",
                    f"must hold numbers, but {actual} instead.",
                    "Name the target with data.target_col.",
                )
            ]
        )
    has_mask = pd.api.types.is_extension_array_dtype(numbers.dtype)
    values = numbers.to_numpy(np.float64, na_value=np.nan) if has_mask else numbers.to_numpy()
    problems = []
    if not is_numeric:
        text = np.flatnonzero(np.isnan(values) & column.notna().to_numpy(bool))
        problems += _cell_problems(
            frame, text, "target_not_numeric", "y is text, not a number", "Replace it by a number or an empty field."
        )
    if values.dtype.kind == "f":
        infinite = [
            np.flatnonzero(~(np.abs(values[a:b]) <= np.finfo(np.float32).max) & ~np.isnan(values[a:b])) + a
            for a, b in block_edges(len(values))
        ]
        huge = np.concatenate([*infinite, np.zeros(0, np.int64)]).astype(np.int64)
        problems += _cell_problems(
            frame, huge, "target_infinite", "y is infinite or beyond 3e38", "Replace it by a number or an empty field."
        )
    if problems:
        raise DataError(problems)
    return np.asarray(values)


def _cell_problems(frame: pd.DataFrame, rows: NDArray[np.int64], code: str, message: str, remedy: str) -> list[Problem]:
    if not len(rows):
        return []
    names = frame["unique_id"]
    series = pd.Series(rows).groupby(names.iloc[rows].astype(str).to_numpy(), sort=False).agg(["first", "count"])
    return [
        Problem(
            code, f"series {name!r}, {place(frame, int(first))}", f"{message} ({count} row(s) of this series).", remedy
        )
        for name, first, count in series.itertuples()
    ]


def build_grid(
    rows: SortedRows,
    observed: NDArray[np.bool_],
    has_future: NDArray[np.bool_] | None,
    frequency: Frequency,
    horizon: int,
) -> Grid:
    """Lay the rows on a regular grid from the first to the last observed value of each series.

    Args:
        rows: Sorted rows without repeated timestamps, all on the grid of `frequency`.
        observed: True for sorted rows with a value of `y`.
        has_future: True for sorted rows with a known-future covariate; None if there is no such covariate.
        frequency: Step of the grid.
        horizon: Future rows to keep; 0 keeps all within reason.

    Raises:
        DataError: If no series has a value, or the grid is out of proportion to the rows.
    """
    first, stop = rows.offsets[:-1], rows.offsets[1:]
    keep = stop > first
    is_whole = bool(keep.all() and observed[first].all() and observed[stop - 1].all())
    if not is_whole:
        first, stop, keep = _observed_extent(rows, observed)
    dropped = tuple(rows.ids[i] for i in np.flatnonzero(~keep))
    if not keep.any():
        raise DataError(
            [Problem("target_all_missing", "column 'y'", "has no value in any series.", "Check data.target_col.")]
        )
    first, stop = first[keep], stop[keep]
    units_first = frequency.units(rows.stamps[first])[0]
    lengths = (frequency.units(rows.stamps[stop - 1])[0] - units_first) // frequency.step + 1
    _check_proportion(rows, np.flatnonzero(keep), lengths, stop - first)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    source = None
    if not (is_whole and offsets[-1] == len(rows.stamps)):
        source = np.full(offsets[-1], -1, np.int64)
        counts = stop - first
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
        position = (frequency.units(rows.stamps[row])[0] - np.repeat(units_first, counts)) // frequency.step
        source[np.repeat(offsets[:-1], counts) + position] = row
    future = _future_rows(rows, keep, stop, units_first, lengths, has_future, frequency, horizon)
    num_trimmed = int(np.diff(rows.offsets)[keep].sum() - (stop - first).sum() - (future >= 0).sum())
    return Grid(np.flatnonzero(keep), offsets, rows.stamps[first], source, future, dropped, num_trimmed)


def _observed_extent(
    rows: SortedRows, observed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    seen = np.append(np.flatnonzero(observed), 0)
    position = np.searchsorted(seen[:-1], rows.offsets)
    keep = np.diff(position) > 0
    return seen[position[:-1]], seen[position[1:] - 1] + 1, keep


def _check_proportion(
    rows: SortedRows, series: NDArray[np.int64], lengths: NDArray[np.int64], counts: NDArray[np.int64]
) -> None:
    if lengths.sum(dtype=np.float64) <= _FREE_ROWS + _MAX_STRETCH * float(counts.sum()):
        return
    worst = int(np.argmax(lengths / counts))
    index = int(series[worst])
    stamps = rows.stamps[rows.offsets[index] : rows.offsets[index + 1]]
    jump = int(rows.offsets[index]) + int(np.argmax(np.diff(stamps))) + 1
    message = (
        f"has {counts[worst]} rows on a grid of {lengths[worst]} steps; "
        f"the largest gap lies before {rows.time_text(jump)}."
    )
    remedy = "Correct that timestamp, or set data.freq to a longer step."
    raise DataError([Problem("grid_too_sparse", f"series {rows.ids[index]!r}", message, remedy)])


def _future_rows(
    rows: SortedRows,
    keep: NDArray[np.bool_],
    stop: NDArray[np.int64],
    units_first: NDArray[np.int64],
    lengths: NDArray[np.int64],
    has_future: NDArray[np.bool_] | None,
    frequency: Frequency,
    horizon: int,
) -> NDArray[np.int64]:
    """Rows after the last value of `y` that carry known-future covariates, by step after it."""
    counts = rows.offsets[1:][keep] - stop
    if has_future is None or not counts.any():
        return np.zeros((len(lengths), 0), np.int64)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - stop, counts)
    series = np.repeat(np.arange(len(counts)), counts)
    step = (frequency.units(rows.stamps[row])[0] - units_first[series]) // frequency.step - lengths[series]
    kept = has_future[row] & (step < (horizon or MAX_FUTURE_ROWS))
    row, series, step = row[kept], series[kept], step[kept]
    future = np.full((len(lengths), int(step.max(initial=-1)) + 1), -1, np.int64)
    future[series, step] = row
    return future


def fill_missing(
    values: NDArray[np.float32], observed: NDArray[np.bool_], offsets: NDArray[np.int64], policy: FillPolicy
) -> NDArray[np.bool_] | None:
    """Fill missing targets in place.

    `zero` says that no row means nothing happened: the zeros count as observed, in training and in every metric.
    `ffill` and `linear` are guesses: the network sees them as context, but they are never a target and never scored.

    Args:
        values: The store of `y`, 0 where missing.
        observed: True where a value is real.
        offsets: First row of each series, and the end; the first and last row of a series are observed.
        policy: What to do.

    Returns:
        True for the rows that were guessed; None if none was.
    """
    if policy in ("mask", "error") or observed.all():
        return None
    if policy == "zero":
        observed[:] = True
        return None
    filled = ~observed
    before = last_seen(filled, offsets)
    rows = np.flatnonzero(filled)
    if policy == "ffill":
        values[rows] = values[before[rows]]
        return filled
    behind = len(values) - 1 - last_seen(filled[::-1], len(values) - offsets[::-1])[::-1]
    low, high = before[rows], behind[rows]
    share = ((rows - low) / (high - low)).astype(np.float32)
    values[rows] = values[low] + share * (values[high] - values[low])
    return filled
