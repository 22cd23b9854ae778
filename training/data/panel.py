"""The panel: many series in one contiguous float32 store. Frames stop here; windows are gathered from it by index."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.columns import Columns
from training.config import DataConfig, FillPolicy
from training.data.assembly import Grid, build_grid, fill_missing, read_target
from training.data.calendar_features import build_calendar, choose_calendar, validate_calendar
from training.data.channels import build_channels, build_static, resolve_columns
from training.data.covariates import missing_columns
from training.data.frequency import default_season_length, estimate_season_length, grid_clock, infer_frequency, require_grid
from training.data.readers import read_frame
from training.data.rows import SortedRows, block_edges, duplicate_problems, sort_rows
from training.data.splits import training_rows
from training.data.steps import Frequency, parse_frequency
from training.data.timestamps import TimeKind, as_times
from training.errors import MAX_SHOWN, DataError, Problem

# A store larger than this lives in a file that the operating system pages in as windows are read.
MEMMAP_THRESHOLD_BYTES = 512 * 2**20


class Storage:
    """A temporary directory for memory-mapped arrays, removed when the last panel that uses it is gone."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gradcast-panel-"))
        weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Panel:
    """Many series on a regular grid, from the first to the last observed value of each.

    Rows of a series lie together; row `i` of series `n` is row `offsets[n] + i` of the store and `starts[n]` plus `i`
    steps in time. Steps that the file lacks are rows with `observed` False. Rows before the first and after the last
    observed value are no part of the store: a forecast starts after the last value really seen. Known-future
    covariates of later rows are kept in `future_extra`.

    Attributes:
        ids: Series names.
        offsets: First row of each series in the store, and the end (N + 1).
        values: `y`, in its own unit; 0 where missing.
        observed: True where `y` is real.
        filled: True where `values` holds a guess (fill ffill or linear): context for the network, never a target;
            None if nothing is guessed.
        fill: How missing targets were filled.
        covariates: Channels of the known-future columns, then of the past-only ones, without the calendar (T, K).
        covariate_fill: Value per channel used before a covariate is first seen: its mean over training rows (K,).
        static: Channels of the static columns (N, S).
        future_extra: Known-future channels of the steps after the last row (N, E, K of the known-future columns).
        num_future: Steps after the last row of each series for which every known-future column has a value (N,).
        calendar: Calendar channels of all steps of all series, shared where series overlap (G, C).
        calendar_start: Row of `calendar` at which each series starts (N,).
        horizon: Rows that `calendar` goes on past the end of every series.
        starts: First timestamp per series (datetime64[us], UTC where `timezone` is given; or int64).
        freq: Step between rows: a pandas offset alias, or a number for integer time.
        season_length: Steps per season.
        time_kind: Dates or integers.
        timezone: Zone in which timestamps are shown and calendar features computed; None for times without offset.
        columns: Names and roles of the covariates.
        target: Name of `y` in the file.
        notes: What was decided, dropped or left out, to be said aloud.
        storage: Keeps the files of memory-mapped arrays alive.
    """

    ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    values: NDArray[np.float32]
    observed: NDArray[np.bool_]
    filled: NDArray[np.bool_] | None
    fill: FillPolicy
    covariates: NDArray[np.float32]
    covariate_fill: NDArray[np.float32]
    static: NDArray[np.float32]
    future_extra: NDArray[np.float32]
    num_future: NDArray[np.int64]
    calendar: NDArray[np.float32]
    calendar_start: NDArray[np.int64]
    horizon: int
    starts: NDArray[np.generic]
    freq: str
    season_length: int
    time_kind: TimeKind
    timezone: str | None
    columns: Columns
    target: str
    notes: tuple[str, ...] = ()
    storage: Storage | None = None

    @property
    def num_series(self) -> int:
        """Number of series N."""
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Rows of each series (N,)."""
        return np.diff(self.offsets)

    @property
    def num_future_channels(self) -> int:
        """Channels of `covariates` that are known into the future."""
        return self.future_extra.shape[2]

    @cached_property
    def frequency(self) -> Frequency:
        """The step between rows, ready for arithmetic."""
        return parse_frequency(self.freq)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything a network can learn from: equal data has equal fingerprints, whatever the file format."""
        digest = hashlib.sha256()
        digest.update("\x00".join(self.ids).encode())
        digest.update(f"|{self.freq}|{self.timezone}|{self.columns.model_dump_json()}|".encode())
        for array in (self.offsets, self.starts.view(np.int64), self.values, self.observed, self.covariates, self.static):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def timestamps(self, series_index: int, start: int, stop: int) -> pd.DatetimeIndex | NDArray[np.int64]:
        """Timestamps of the rows `start .. stop - 1` of a series; rows beyond its end are its future."""
        first = int(self.starts.view(np.int64)[series_index])
        return as_times(self.frequency.range(first, start, stop), self.time_kind, self.timezone)

    def series_without_future(self, horizon: int) -> tuple[str, ...]:
        """Series that lack a known-future covariate for one of the next `horizon` steps; their last value is repeated."""
        if not self.columns.futr_exog:
            return ()
        return tuple(self.ids[i] for i in np.flatnonzero(self.num_future < horizon))

    def extended(self, horizon: int) -> Panel:
        """The same panel with calendar rows for at least `horizon` steps past the end of every series."""
        if horizon <= self.horizon or not self.columns.calendar:
            return self
        starts = self.starts.view(np.int64)
        calendar, first = build_calendar(self.columns.calendar, self.frequency, starts, self.lengths, horizon, self.timezone)
        return replace(self, calendar=calendar, calendar_start=first, horizon=horizon)


def load_panel(config: DataConfig, horizon: int = 0) -> Panel:
    """Read the configured file into a panel.

    Raises:
        DataError: With everything found wrong.
    """
    if config.path is None:
        raise DataError([Problem("path_missing", "data.path", "must name a data file, but is null instead.", "Use --data FILE.")])
    return build_panel(read_frame(Path(config.path), config), config, horizon=horizon)


def build_panel(
    frame: pd.DataFrame,
    config: DataConfig,
    columns: Columns | None = None,
    horizon: int = 0,
    covariate_fill: NDArray[np.float32] | None = None,
    memmap_threshold_bytes: int = MEMMAP_THRESHOLD_BYTES,
) -> Panel:
    """Put the rows of a frame on a regular grid.

    Args:
        frame: Columns `unique_id`, `ds`, `y` and the covariates.
        config: Frequency, season, roles and fill policy; the roles are ignored if `columns` is given.
        columns: Roles and vocabulary of a trained model; None chooses them from the data.
        horizon: Calendar rows past the end of each series, and future rows to keep.
        covariate_fill: With `columns`: value per channel of a covariate not seen yet; None is its mean in the frame.
        memmap_threshold_bytes: Size of the store from which it lives in a file.

    Raises:
        DataError: With everything found wrong, each with its series and row.
    """
    _require_columns(frame, config, columns)
    rows = sort_rows(frame)
    values = read_target(frame)
    problems = duplicate_problems(rows, frame)
    if problems:
        raise DataError(problems)
    notes = list(rows.notes)
    stamps, is_local = grid_clock(rows)
    if is_local:
        notes.append(f"steps of a day and more are counted on the local clock of {rows.timezone}")
        rows = replace(rows, stamps=stamps, timezone=None)
    finding = infer_frequency(rows, config.freq)
    frequency = require_grid(finding)

    futr_exog = config.futr_exog if columns is None else columns.futr_exog
    observed = rows.arrange(_is_number(values))
    has_future = rows.arrange(frame[list(futr_exog)].notna().any(axis=1).to_numpy(bool)) if futr_exog else None
    grid = build_grid(rows, observed, has_future, frequency, horizon)
    train_end = training_rows(np.diff(grid.offsets), horizon, config.val_size, config.test_size)
    resolved = columns or resolve_columns(frame, config, rows, grid, train_end)
    if columns is None:
        longest = int(np.diff(grid.offsets).max())
        resolved = resolved.model_copy(update={"calendar": choose_calendar(config.calendar, frequency, longest)})
    validate_calendar(resolved.calendar)

    num_channels = len(resolved.past_features) - len(resolved.calendar)
    size = grid.num_rows * (5 + 4 * num_channels)
    storage = Storage() if size > memmap_threshold_bytes else None
    store, seen = _store_target(grid, rows, values, storage)
    notes += _target_notes(grid, rows, store, seen)
    filled = _apply_fill(config.fill, store, seen, grid, rows, frequency, notes)
    channels = build_channels(
        frame, resolved, rows, grid, train_end, covariate_fill, _allocate(storage, "covariates", (grid.num_rows, num_channels), np.float32)
    )
    static, static_notes = build_static(frame, resolved, rows, grid)
    calendar, calendar_start = build_calendar(
        resolved.calendar, frequency, grid.starts, np.diff(grid.offsets), horizon, rows.timezone
    )
    return Panel(
        ids=tuple(rows.ids[i] for i in grid.series),
        offsets=grid.offsets,
        values=store,
        observed=seen,
        filled=filled,
        fill=config.fill,
        covariates=channels.covariates,
        covariate_fill=channels.fill,
        static=static,
        future_extra=channels.future,
        num_future=channels.num_future,
        calendar=calendar,
        calendar_start=calendar_start,
        horizon=horizon,
        starts=grid.starts if rows.time_kind == "integer" else grid.starts.view("M8[us]"),
        freq=frequency.alias,
        season_length=_season_length(config, columns, frequency, store, seen, grid, train_end),
        time_kind=rows.time_kind,
        timezone=rows.timezone,
        columns=resolved,
        target=config.target_col,
        notes=(*frame.attrs.get("gradcast", {}).get("notes", ()), *notes, *channels.notes, *static_notes),
        storage=storage,
    )


def _require_columns(frame: pd.DataFrame, config: DataConfig, columns: Columns | None) -> None:
    problems = [
        Problem("column_missing", f"column {name!r}", "is not in the data.", "Rename the column, or set data.id_col, data.time_col, data.target_col.")
        for name in ("unique_id", "ds", "y")
        if name not in frame.columns
    ]
    problems += missing_columns(frame, columns or config)
    if not problems and not len(frame):
        problems.append(Problem("data_empty", "data", "has no rows.", "Bring rows."))
    if problems:
        raise DataError(problems)


def _is_number(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    if values.dtype.kind != "f":
        return np.ones(len(values), np.bool_)
    return ~np.isnan(values)


def _allocate(storage: Storage | None, name: str, shape: tuple[int, ...], dtype: type) -> NDArray[np.generic]:
    if storage is None or 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(storage.directory / name, dtype, "w+", shape=shape)


def _store_target(
    grid: Grid, rows: SortedRows, values: NDArray[np.floating], storage: Storage | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Copy the target into the store, block by block so that no second copy of it ever exists."""
    store = _allocate(storage, "values", (grid.num_rows,), np.float32)
    observed = _allocate(storage, "observed", (grid.num_rows,), np.bool_)
    for start, stop in block_edges(grid.num_rows):
        source = slice(start, stop) if grid.source is None else grid.source[start:stop]
        row = source if rows.order is None else rows.order[source]
        block = values[row].astype(np.float32)
        if grid.source is not None:
            block[grid.source[start:stop] < 0] = np.nan
        np.logical_not(np.isnan(block), out=observed[start:stop])
        store[start:stop] = np.nan_to_num(block, copy=False)
    return store, observed


def _target_notes(grid: Grid, rows: SortedRows, values: NDArray[np.float32], observed: NDArray[np.bool_]) -> list[str]:
    notes = []
    if grid.dropped:
        notes.append(f"{len(grid.dropped)} series without any value left out: {_some(grid.dropped)}")
    lowest = np.minimum.reduceat(values, grid.offsets[:-1])
    flat = (lowest == np.maximum.reduceat(values, grid.offsets[:-1])) & (np.diff(grid.offsets) > 1)
    constant = tuple(rows.ids[grid.series[i]] for i in np.flatnonzero(flat))
    if constant:
        notes.append(f"{len(constant)} series constant: {_some(constant)}")
    if grid.num_trimmed:
        notes.append(f"{grid.num_trimmed:,} rows before the first or after the last value of their series left out")
    num_missing = int(len(observed) - np.count_nonzero(observed))
    if num_missing:
        notes.append(f"{num_missing:,} of {len(observed):,} steps have no value of y")
    return notes


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(repr(name) for name in names[:MAX_SHOWN]) + more


_FILL_SAYS = {
    "ffill": "filled with the value before, as context only",
    "linear": "interpolated, as context only and never with values after a cutoff",
    "zero": "taken as 0",
}


def _apply_fill(
    policy: FillPolicy,
    values: NDArray[np.float32],
    observed: NDArray[np.bool_],
    grid: Grid,
    rows: SortedRows,
    frequency: Frequency,
    notes: list[str],
) -> NDArray[np.bool_] | None:
    num_missing = int(len(observed) - np.count_nonzero(observed))
    if num_missing and policy == "error":
        raise DataError(_missing_problems(observed, grid, rows, frequency))
    if num_missing and policy in _FILL_SAYS:
        notes.append(f"data.fill: {num_missing:,} missing values of y {_FILL_SAYS[policy]}")
    return fill_missing(values, observed, grid.offsets, policy)


def _missing_problems(observed: NDArray[np.bool_], grid: Grid, rows: SortedRows, frequency: Frequency) -> list[Problem]:
    problems = []
    for i, (start, stop) in enumerate(zip(grid.offsets[:-1], grid.offsets[1:], strict=True)):
        missing = np.flatnonzero(~observed[start:stop])
        if len(missing):
            stamp = frequency.range(int(grid.starts[i]), int(missing[0]), int(missing[0]) + 1)
            when = as_times(stamp, rows.time_kind, rows.timezone)[0]
            message = f"{len(missing)} of {stop - start} steps have no value, first {when}."
            remedy = "Bring the values, or set data.fill to mask, ffill, linear or zero."
            problems.append(Problem("target_missing", f"series {rows.ids[grid.series[i]]!r}", message, remedy))
    return problems


def _season_length(
    config: DataConfig,
    columns: Columns | None,
    frequency: Frequency,
    values: NDArray[np.float32],
    observed: NDArray[np.bool_],
    grid: Grid,
    train_end: NDArray[np.int64],
) -> int:
    if config.season_length is not None:
        return config.season_length
    if columns is not None:
        return default_season_length(frequency)
    return estimate_season_length(frequency, values, observed, grid.offsets, train_end)
