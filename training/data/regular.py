"""Rows in order on a regular grid, proven so from where their runs begin, without looking at every row again.

Names and times of a parquet file are kept as runs (`training.data.runs`): of one name, and of one step. If no series begins
twice, and every run of times begins with a series or some whole steps after the run before it, then the rows are grouped, in
order, without repetition, and on one grid. If anything of that is not proven, nothing is said about it here: `build_panel`
looks at every row and names what is wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.collectors import Collector, IntegerColumn, NumberColumn, TextColumn, TimeColumn
from training.data.frequency import SAMPLE_ROWS, counts_days, infer_frequency
from training.data.gathered import GatheredRows
from training.data.readers import single_name
from training.data.rows import SortedRows, block_edges
from training.data.runs import RunColumn
from training.data.steps import DAY, WEEK, Frequency
from training.data.target import GridTarget
from training.data.timestamps import TimeKind, only_counts, wall_clock

# Times beyond are missing or wrong: their differences might not fit into an integer.
_LATEST = 2.0**61
# A grid with more steps than this many per row is looked at row by row.
_MAX_STEPS_PER_ROW = 1.5
# So many days in a row hold a Saturday or a Sunday.
_WEEKEND_DAYS = 6


class _Series(NamedTuple):
    """Names (N,) and first rows (N + 1) of the series."""

    ids: tuple[str, ...]
    offsets: NDArray[np.int64]


class _Gaps(NamedTuple):
    """Rows (G,) before which steps are absent, and how many (G,)."""

    rows: NDArray[np.int64]
    missing: NDArray[np.int64]


class _Clock(NamedTuple):
    """How times are counted, their runs, the first of each series (N,), the step, and where the grid has no row."""

    kind: TimeKind
    zone: str | None
    runs: RunColumn
    starts: NDArray[np.int64]
    step: int
    gaps: _Gaps


def find_regular(rows: GatheredRows, freq: str | None, max_steps: int) -> GridTarget | None:
    """The target of rows in order on a regular grid, every series from its first to its last value.

    Args:
        rows: The rows; their numbers become the store where the target is found.
        freq: The step that the user says.
        max_steps: Largest grid.

    Returns:
        None where that is not proven.

    Raises:
        DataError: If `freq` is no frequency.
    """
    layout = rows.layout
    if layout.kind != "long" or len(layout.time_cols) != 1 or not rows.num_rows:
        return None
    series = _find_series(rows)
    clock = None if series is None else _find_clock(rows.columns[layout.time_cols[0]], series.offsets)
    if series is None or clock is None:
        return None
    lengths = np.diff(series.offsets) + _per_series(clock.gaps.rows, series.offsets, clock.gaps.missing)
    frequency = _find_frequency(series, clock, freq)
    if frequency is None or lengths.sum(dtype=np.float64) > min(max_steps, _MAX_STEPS_PER_ROW * rows.num_rows):
        return None
    found = _find_values(rows.columns[layout.target_col or ""], series.offsets)
    if found is None:
        return None
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    newest = int((clock.starts + (lengths - 1) * clock.step).max())
    values, observed = _spread(*found, clock.gaps, int(offsets[-1]))
    return GridTarget(
        series.ids, offsets, clock.starts, (), 0, frequency, clock.kind, clock.zone, newest, values, observed
    )


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


def _find_clock(column: Collector, offsets: NDArray[np.int64]) -> _Clock | None:
    """The clock, if times go on by whole steps within every series."""
    if not isinstance(column, TimeColumn | IntegerColumn):
        return None
    runs = column.runs
    if runs.is_plain or runs.step is None or runs.step <= 0:
        return None
    last = runs.firsts + (np.diff(runs.starts, append=runs.num_rows) - 1) * float(runs.step)
    if runs.firsts.min() < -_LATEST or last.max() > _LATEST:
        return None
    gaps = _find_gaps(runs, runs.step, offsets)
    if gaps is None:
        return None
    starts = np.asarray(runs.at(offsets[:-1]), np.int64)
    if isinstance(column, IntegerColumn):
        is_counted = not column.missing and only_counts(int(starts.min()), int(last.max()))
        return _Clock("integer", None, runs, starts, runs.step, gaps) if is_counted else None
    zone = _zone(column.zone)
    return None if _is_local(runs, offsets, zone) else _Clock("datetime", zone, runs, starts, runs.step, gaps)


def _find_gaps(runs: RunColumn, step: int, offsets: NDArray[np.int64]) -> _Gaps | None:
    """The gaps within series; None if times go back, stand still or leave the grid."""
    rows = np.setdiff1d(runs.starts, offsets[:-1], assume_unique=True)
    jumps = np.asarray(runs.at(rows) - runs.at(rows - 1), np.int64)
    return None if (jumps <= 0).any() or (jumps % step).any() else _Gaps(rows, jumps // step - 1)


def _per_series(rows: NDArray[np.int64], offsets: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum over the rows of each series."""
    total = np.zeros(len(offsets) - 1, np.int64)
    np.add.at(total, np.searchsorted(offsets, rows, side="right") - 1, counts)
    return total


def _zone(written: str | None) -> str | None:
    """A zone as pandas spells it."""
    return None if written is None else str(pd.DatetimeIndex([], tz="UTC").tz_convert(written).tz)


def _is_local(runs: RunColumn, offsets: NDArray[np.int64], zone: str | None) -> bool:
    """Whether steps are counted on the local clock, as `grid_clock` would."""
    if zone in (None, "UTC"):
        return False
    stamps = np.asarray(runs.at(np.arange(min(runs.num_rows, SAMPLE_ROWS))), np.int64)
    return counts_days(wall_clock(stamps, zone), offsets)


def _find_frequency(series: _Series, clock: _Clock, freq: str | None) -> Frequency | None:
    """What `infer_frequency` finds, if that is the step of the runs."""
    if freq is None and len(clock.gaps.rows) and not _is_common(clock, series.offsets):
        return None
    finding = infer_frequency(_first_steps(series, clock), freq)
    return finding.frequency if finding.is_dense and not finding.problems else None


def _is_common(clock: _Clock, offsets: NDArray[np.int64]) -> bool:
    """Whether gaps leave no doubt: most neighbours are one step apart, in the rows that are looked at and in every series."""
    runs = clock.runs
    if clock.kind == "datetime":
        longest = np.diff(runs.starts, append=runs.num_rows).max()
        if clock.step % WEEK == 0 or (clock.step == DAY and longest < _WEEKEND_DAYS):
            return False
    looked_at = min(runs.num_rows, SAMPLE_ROWS)
    num_runs, num_series = np.searchsorted(runs.starts, looked_at), np.searchsorted(offsets, looked_at)
    num_gaps = _per_series(clock.gaps.rows, offsets, np.ones(len(clock.gaps.rows), np.int64))
    is_most = looked_at - num_runs - num_series > num_runs
    return bool(is_most and (2 * num_gaps <= np.diff(offsets) - 1).all())


def _first_steps(series: _Series, clock: _Clock) -> SortedRows:
    """The first two steps of every series: where all others follow them on one grid, they say as much as all rows."""
    counts = np.minimum(np.diff(series.offsets), 2)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    stamps = np.repeat(clock.starts, counts)
    stamps[offsets[:-1][counts == 2] + 1] += clock.step
    return SortedRows(series.ids, offsets, stamps, None, clock.kind, clock.zone)


def _find_values(
    column: Collector, offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """`y` of every row and where it is observed, if every series begins and ends with a value."""
    if isinstance(column, IntegerColumn):
        numbers = None if column.missing else column.runs.numbers()
        return None if numbers is None else (numbers.astype(np.float32), np.ones(len(numbers), np.bool_))
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


def _spread(
    values: NDArray[np.float32], observed: NDArray[np.bool_], gaps: _Gaps, num_steps: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The rows with an unobserved 0 for every step that has none; they stay in their order."""
    if num_steps == len(values):
        return values, observed
    behind = np.cumsum(gaps.missing)
    absent = np.repeat(gaps.rows, gaps.missing) + np.arange(behind[-1])
    has_row = np.ones(num_steps, np.bool_)
    has_row[absent] = False
    store, seen = np.zeros(num_steps, np.float32), np.zeros(num_steps, np.bool_)
    store[has_row], seen[has_row] = values, observed
    return store, seen
