"""From a frame to the panel: rows are put on a grid, and every problem is named. Frames stop here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.columns import Columns
from training.config import DataConfig, FillPolicy
from training.data.assembly import Grid, build_grid, fill_missing, read_target
from training.data.calendar_features import build_calendar, choose_calendar, validate_calendar
from training.data.channels import build_channels, build_static, resolve_columns
from training.data.covariates import missing_columns
from training.data.dialect import detect_container
from training.data.frequency import (
    default_season_length,
    estimate_season_length,
    grid_clock,
    infer_frequency,
    require_grid,
)
from training.data.holiday_dates import holiday_features, read_holidays
from training.data.readers import read_frame
from training.data.resampling import resample_frame
from training.data.rows import SortedRows, block_edges, duplicate_problems, sort_rows
from training.data.splits import training_rows
from training.data.steps import Frequency
from training.data.store import Panel, Storage
from training.data.timestamps import as_times, wall_clock
from training.errors import MAX_SHOWN, DataError, Problem

if TYPE_CHECKING:
    from training.data.mapping import Watch

__all__ = ["AS_GIVEN", "MEMMAP_THRESHOLD_BYTES", "Panel", "build_panel", "load_panel"]

# A store larger than this lives in a file that the operating system pages in as windows are read.
MEMMAP_THRESHOLD_BYTES = 512 * 2**20
# Timestamps stay on the clock that they come with.
AS_GIVEN = "as given"


def load_panel(
    config: DataConfig, horizon: int = 0, columns: Columns | None = None, watch: Watch | None = None
) -> Panel:
    """Read the configured file, or folder of parquet, into a panel; one larger than memory is built on disk and mapped.

    Args:
        config: Where the data is, and how it is read.
        horizon: As in `build_panel`.
        columns: Those of a trained model, as in `build_panel`.
        watch: Told how far it is where it takes long.

    Raises:
        DataError: With everything found wrong.
    """
    if config.path is None:
        raise DataError(
            [Problem("path_missing", "data.path", "must name a data file, but is null instead.", "Use --data FILE.")]
        )
    path = Path(config.path)
    if path.is_dir() or detect_container(path) == "parquet":
        from training.data.mapping import load_table
        from training.data.parquet_folder import open_table

        table = open_table(path, config)
        if path.is_dir() or table.layout.kind == "long":
            return load_table(table, horizon, columns, watch)
    return build_panel(read_frame(path, config), config, columns=columns, horizon=horizon)


def build_panel(
    frame: pd.DataFrame,
    config: DataConfig,
    columns: Columns | None = None,
    horizon: int = 0,
    covariate_fill: NDArray[np.float32] | None = None,
    timezone: str | None = AS_GIVEN,
    memmap_threshold_bytes: int = MEMMAP_THRESHOLD_BYTES,
    fill_static: bool = True,
) -> Panel:
    """Put the rows of a frame on a regular grid.

    Args:
        frame: Columns `unique_id`, `ds`, `y` and the covariates.
        config: Frequency, season, roles and fill policy; the roles are ignored if `columns` is given.
        columns: Roles and vocabulary of a trained model; None chooses them from the data.
        horizon: Calendar rows past the end of each series, and future rows to keep.
        covariate_fill: With `columns`: value per channel of a covariate not seen yet; None is its mean in the frame.
        timezone: Zone of a trained model's timestamps, None if they had no offset: timestamps with an offset are brought
            to that zone, or to the clock they show. The default leaves them as they are.
        memmap_threshold_bytes: Size of the store from which it lives in a file.
        fill_static: Whether a number that a series lacks becomes the mean of the others, instead of NaN.

    Raises:
        DataError: With everything found wrong, each with its series and row.
    """
    _require_columns(frame, config, columns)
    if config.irregular == "resample":
        frame = resample_frame(frame, config.freq)
    rows = sort_rows(frame)
    if timezone != AS_GIVEN:
        rows = _in_zone(rows, timezone)
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
        holidays = read_holidays(config.holidays, frequency, int(grid.starts.min()), int(rows.stamps.max()))
        calendar_names = (*choose_calendar(config.calendar, frequency, longest), *holiday_features(holidays))
        resolved = resolved.model_copy(update={"calendar": calendar_names, "holidays": holidays})
    validate_calendar(resolved.calendar, resolved.holidays)

    num_channels = len(resolved.past_features) - len(resolved.calendar)
    size = grid.num_rows * (5 + 4 * num_channels)
    storage = Storage() if size > memmap_threshold_bytes else None
    store, seen = _store_target(grid, rows, values, storage)
    notes += _target_notes(grid, rows, store, seen)
    filled = _apply_fill(config.fill, store, seen, grid, rows, frequency, notes)
    channels = build_channels(
        frame,
        resolved,
        rows,
        grid,
        train_end,
        covariate_fill,
        _allocate(storage, "covariates", (grid.num_rows, num_channels), np.float32),
    )
    static, static_notes = build_static(frame, resolved, rows, grid, fill_static)
    calendar, calendar_start = build_calendar(
        resolved.calendar, frequency, grid.starts, np.diff(grid.offsets), horizon, rows.timezone, resolved.holidays
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
        Problem(
            "column_missing",
            f"column {name!r}",
            "is not in the data.",
            "Rename the column, or set data.id_col, data.time_col, data.target_col.",
        )
        for name in ("unique_id", "ds", "y")
        if name not in frame.columns
    ]
    problems += missing_columns(frame, columns or config)
    if not problems and not len(frame):
        problems.append(Problem("data_empty", "data", "has no rows.", "Bring rows."))
    if problems:
        raise DataError(problems)


def _in_zone(rows: SortedRows, timezone: str | None) -> SortedRows:
    """Timestamps on the clock of a trained model."""
    if rows.timezone == timezone or rows.time_kind == "integer":
        return rows
    if timezone is None:
        return replace(rows, stamps=wall_clock(rows.stamps, rows.timezone), timezone=None)
    if rows.timezone is not None:
        return replace(rows, timezone=timezone)
    message = f"must carry a UTC offset, as the timestamps that the model was trained on ({timezone}) did."
    raise DataError(
        [Problem("time_without_offset", "column 'ds'", message, "Write times as 2020-01-31T13:00:00+01:00.")]
    )


def _is_number(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    if values.dtype.kind != "f":
        return np.ones(len(values), np.bool_)
    return ~np.isnan(values)


def _allocate(storage: Storage | None, name: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
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
