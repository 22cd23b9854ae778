"""From a frame to the panel: rows are put on a grid, and every problem is named. Frames stop here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.columns import Columns
from training.config import DataConfig
from training.data.assembly import build_grid, read_target
from training.data.calendar_features import build_calendar, choose_calendar, validate_calendar
from training.data.channels import Channels, build_channels, build_static, no_channels, resolve_columns
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
from training.data.regular import find_regular
from training.data.resampling import resample_frame
from training.data.rows import SortedRows, duplicate_problems, sort_rows
from training.data.splits import training_rows
from training.data.steps import Frequency
from training.data.store import Panel, Storage
from training.data.target import GridTarget, allocate, fill_target, store_target, target_notes
from training.data.timestamps import wall_clock
from training.errors import DataError, Problem

if TYPE_CHECKING:
    from training.data.gathered import GatheredRows
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
    resolved, newest = columns or resolve_columns(frame, config, rows, grid, train_end), int(rows.stamps.max())
    if columns is None:
        resolved = _with_calendar(resolved, config, frequency, grid.offsets, grid.starts, newest)
    validate_calendar(resolved.calendar, resolved.holidays)

    num_channels = len(resolved.past_features) - len(resolved.calendar)
    size = grid.num_rows * (5 + 4 * num_channels)
    storage = Storage() if size > memmap_threshold_bytes else None
    store, seen = store_target(grid, rows, values, storage)
    ids = tuple(rows.ids[i] for i in grid.series)
    target = GridTarget(
        ids, grid.offsets, grid.starts, grid.dropped, grid.num_trimmed, frequency, rows.time_kind, rows.timezone, newest,
        store, seen, storage,
    )  # fmt: skip
    notes += target_notes(target)
    filled = fill_target(target, config.fill, notes)
    channels = build_channels(
        frame,
        resolved,
        rows,
        grid,
        train_end,
        covariate_fill,
        allocate(storage, "covariates", (grid.num_rows, num_channels), np.float32),
    )
    static, static_notes = build_static(frame, resolved, rows, grid, fill_static)
    notes = [*frame.attrs.get("gradcast", {}).get("notes", ()), *notes, *channels.notes, *static_notes]
    return _join(target, filled, channels, static, resolved, config, horizon, columns is not None, notes)


def build_regular_panel(
    rows: GatheredRows, config: DataConfig, columns: Columns | None = None, horizon: int = 0
) -> Panel | None:
    """The panel of rows that lie on a regular grid already, without a frame of them: the same as `build_panel` makes.

    Args:
        rows: Columns of a parquet file.
        config: As in `build_panel`.
        columns: As in `build_panel`.
        horizon: As in `build_panel`.

    Returns:
        None where the rows are not proven to lie so, or have covariates; then the array of `y` is as it was.

    Raises:
        DataError: As `build_panel`.
    """
    names = columns or config
    has_covariates = bool(names.futr_exog or names.hist_exog or names.stat_exog or (columns and columns.series))
    if has_covariates or config.irregular == "resample":
        return None
    target = find_regular(rows, config.freq, MEMMAP_THRESHOLD_BYTES // 5)
    if target is None:
        return None
    resolved = columns or _with_calendar(Columns(), config, target.frequency, target.offsets, target.starts, target.newest)
    validate_calendar(resolved.calendar, resolved.holidays)
    notes = target_notes(target)
    filled = fill_target(target, config.fill, notes)
    static = np.zeros((len(target.ids), 0), np.float32)
    channels = no_channels(len(target.ids), len(target.values))
    return _join(target, filled, channels, static, resolved, config, horizon, columns is not None, notes)


def _with_calendar(
    columns: Columns,
    config: DataConfig,
    frequency: Frequency,
    offsets: NDArray[np.int64],
    starts: NDArray[np.int64],
    newest: int,
) -> Columns:
    """The columns with the calendar features that the data asks for."""
    holidays = read_holidays(config.holidays, frequency, int(starts.min()), newest)
    names = (*choose_calendar(config.calendar, frequency, int(np.diff(offsets).max())), *holiday_features(holidays))
    return columns.model_copy(update={"calendar": names, "holidays": holidays})


def _join(
    target: GridTarget,
    filled: NDArray[np.bool_] | None,
    channels: Channels,
    static: NDArray[np.float32],
    columns: Columns,
    config: DataConfig,
    horizon: int,
    is_known: bool,
    notes: Sequence[str],
) -> Panel:
    """The panel of its parts, with what depends on all of them: calendar and season."""
    frequency, lengths = target.frequency, np.diff(target.offsets)
    train_end = training_rows(lengths, horizon, config.val_size, config.test_size)
    calendar, calendar_start = build_calendar(
        columns.calendar, frequency, target.starts, lengths, horizon, target.timezone, columns.holidays
    )
    return Panel(
        ids=target.ids,
        offsets=target.offsets,
        values=target.values,
        observed=target.observed,
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
        starts=target.starts if target.time_kind == "integer" else target.starts.view("M8[us]"),
        freq=frequency.alias,
        season_length=_season_length(config, is_known, target, train_end),
        time_kind=target.time_kind,
        timezone=target.timezone,
        columns=columns,
        target=config.target_col,
        notes=tuple(notes),
        storage=target.storage,
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


def _season_length(config: DataConfig, is_known: bool, target: GridTarget, train_end: NDArray[np.int64]) -> int:
    if config.season_length is not None:
        return config.season_length
    if is_known:
        return default_season_length(target.frequency)
    return estimate_season_length(target.frequency, target.values, target.observed, target.offsets, train_end)
