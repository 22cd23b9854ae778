"""Rows that lie on a regular grid as they come, proven so from where their runs begin, without looking at every row again.

Names and times of a parquet file are kept as runs (`training.data.runs`): of one name, and of one step. If every run of times
begins with a series, and no series begins twice, then the rows are grouped, in order, without repetition and without gaps. If
anything of that is not proven, nothing is said about it here: `build_panel` looks at every row and names what is wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.assembly import Grid
from training.data.collectors import MISSING_TIME, Collector, IntegerColumn, NumberColumn, TextColumn, TimeColumn
from training.data.frequency import SAMPLE_ROWS, counts_days, infer_frequency
from training.data.gathered import GatheredRows
from training.data.readers import single_name
from training.data.rows import SortedRows, block_edges
from training.data.runs import RunColumn
from training.data.target import GridTarget
from training.data.timestamps import TimeKind, only_counts, wall_clock

# No run of times reaches beyond, where integers would begin anew.
_LATEST = 2.0**62


class _Series(NamedTuple):
    """Names (N,) and first rows (N + 1) of the series."""

    ids: tuple[str, ...]
    offsets: NDArray[np.int64]


class _Clock(NamedTuple):
    """How times are counted, the first of each series (N,), and the step between rows."""

    kind: TimeKind
    zone: str | None
    starts: NDArray[np.int64]
    step: int


def find_regular(rows: GatheredRows, freq: str | None) -> GridTarget | None:
    """The target of rows that lie on a regular grid, every series from its first to its last value.

    Args:
        rows: The rows; their numbers become the store where the target is found.
        freq: The step that the user says.

    Returns:
        None where that is not proven.

    Raises:
        DataError: If `freq` is no frequency.
    """
    layout = rows.layout
    if layout.kind != "long" or len(layout.time_cols) != 1 or not rows.num_rows:
        return None
    series = _find_series(rows)
    clock = None if series is None else _find_clock(rows.columns[layout.time_cols[0]], series)
    if series is None or clock is None:
        return None
    first_rows = _first_rows(series, clock)
    finding = infer_frequency(first_rows, freq)
    if not finding.is_dense or finding.problems or finding.frequency is None:
        return None
    found = _find_values(rows.columns[layout.target_col or ""], series.offsets)
    if found is None:
        return None
    count = len(series.ids)
    grid = Grid(np.arange(count), series.offsets, clock.starts, None, np.zeros((count, 0), np.int64), (), 0)
    newest = int((clock.starts + (np.diff(series.offsets) - 1) * clock.step).max())
    return GridTarget(series.ids, grid, finding.frequency, clock.kind, clock.zone, newest, *found)


def _find_series(rows: GatheredRows) -> _Series | None:
    """The series, if the rows of each lie together and have a name."""
    if rows.layout.id_col is None:
        return _Series((single_name(rows.layout, rows.path),), np.array([0, rows.num_rows]))
    column = rows.columns[rows.layout.id_col]
    if not isinstance(column, TextColumn) or column.runs.is_plain:
        return None
    codes = column.runs.firsts
    if (codes < 0).any() or len(np.unique(codes)) < len(codes):
        return None
    names = column.names
    return _Series(tuple(names[code] for code in codes), np.append(column.runs.starts, rows.num_rows))


def _find_clock(column: Collector, series: _Series) -> _Clock | None:
    """The clock, if times go on by one step within every series."""
    if not isinstance(column, TimeColumn | IntegerColumn):
        return None
    runs, offsets = column.runs, series.offsets
    if runs.is_plain or runs.step is None or runs.step <= 0 or not np.isin(runs.starts, offsets[:-1]).all():
        return None
    starts = np.asarray(runs.at(offsets[:-1]), np.int64)
    last = starts.astype(np.float64) + (np.diff(offsets) - 1) * float(runs.step)
    if (starts == MISSING_TIME).any() or last.max() > _LATEST:
        return None
    if isinstance(column, IntegerColumn):
        is_counted = not column.missing and only_counts(int(starts.min()), int(last.max()))
        return _Clock("integer", None, starts, runs.step) if is_counted else None
    zone = _zone(column.zone)
    return None if _is_local(runs, offsets, zone) else _Clock("datetime", zone, starts, runs.step)


def _zone(written: str | None) -> str | None:
    """A zone as pandas spells it."""
    return None if written is None else str(pd.DatetimeIndex([], tz="UTC").tz_convert(written).tz)


def _is_local(runs: RunColumn, offsets: NDArray[np.int64], zone: str | None) -> bool:
    """Whether steps are counted on the local clock, as `grid_clock` would."""
    if zone in (None, "UTC"):
        return False
    stamps = np.asarray(runs.at(np.arange(min(runs.num_rows, SAMPLE_ROWS))), np.int64)
    return counts_days(wall_clock(stamps, zone), offsets)


def _first_rows(series: _Series, clock: _Clock) -> SortedRows:
    """The first two rows of every series: where all steps are equal, they say as much as all rows."""
    counts = np.minimum(np.diff(series.offsets), 2)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    stamps = np.repeat(clock.starts, counts)
    stamps[1:] += np.where(np.diff(np.repeat(np.arange(len(counts)), counts)) == 0, clock.step, 0)
    return SortedRows(series.ids, offsets, stamps, None, clock.kind, clock.zone)


def _find_values(column: Collector, offsets: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """The store of `y` and where it is observed, if every series begins and ends with a value."""
    if isinstance(column, IntegerColumn):
        return None if column.missing else (_as_float32(column.runs.numbers()), np.ones(int(offsets[-1]), np.bool_))
    if not isinstance(column, NumberColumn):
        return None
    values: NDArray[np.float32] = column.values  # noqa: PD011  an array of ours, not a frame's
    observed = np.ones(len(values), np.bool_)
    if column.is_finite:
        return values, observed
    if np.isnan(values[offsets[:-1]]).any() or np.isnan(values[offsets[1:] - 1]).any():
        return None
    for start, stop in block_edges(len(values)):
        np.logical_not(np.isnan(values[start:stop]), out=observed[start:stop])
        if np.isinf(values[start:stop]).any():
            return None
    for start, stop in block_edges(len(values)):
        np.copyto(values[start:stop], 0.0, where=~observed[start:stop])
    return values, observed


def _as_float32(integers: NDArray[np.signedinteger]) -> NDArray[np.float32]:
    return integers.astype(np.float32)
