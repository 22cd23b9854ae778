"""Where in the day, week and year a step is, as points on circles: known for the past and the future.

The features of all series live in one table over the steps that any series covers; a series reads it from the row at
which it starts.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.holiday_dates import PREFIX, Dates, holiday_flags
from training.data.steps import DAY, HOUR, MINUTE, WEEK, Frequency
from training.data.timestamps import wall_clock
from training.errors import DataError, Problem

_YEAR = 365 * DAY
NO_DATES: Dates = MappingProxyType({})

# Position on the circle in [0, 1) of each feature. Hours count minutes too; the other features step from whole to whole.
_POSITIONS: dict[str, Callable[[pd.DatetimeIndex], NDArray[np.float64]]] = {
    "minute_of_hour": lambda t: np.asarray(t.minute + t.second / 60) / 60,
    "hour_of_day": lambda t: np.asarray(t.hour + t.minute / 60 + t.second / 3600) / 24,
    "day_of_week": lambda t: np.asarray(t.day_of_week) / 7,
    "day_of_month": lambda t: (np.asarray(t.day) - 1) / 31,
    "day_of_year": lambda t: (np.asarray(t.day_of_year) - 1) / 366,
    "week_of_year": lambda t: (np.asarray(t.isocalendar()["week"], dtype=np.float64) - 1) / 53,
    "month_of_year": lambda t: (np.asarray(t.month) - 1) / 12,
    "quarter_of_year": lambda t: (np.asarray(t.quarter) - 1) / 4,
}
_PERIODS = {
    "minute_of_hour": HOUR, "hour_of_day": DAY, "day_of_week": WEEK, "day_of_month": 28 * DAY, "day_of_year": _YEAR,
    "week_of_year": _YEAR, "month_of_year": _YEAR, "quarter_of_year": _YEAR,
}  # fmt: skip


def choose_calendar(
    wanted: Literal["auto", "none"] | tuple[str, ...], frequency: Frequency, longest: int
) -> tuple[str, ...]:
    """Names of the sine and cosine features.

    Automatic features are those that change from step to step and come back within the longest series: a feature that
    never completes its circle in training would only extrapolate.

    Args:
        wanted: `auto`, `none` or feature names, as configured.
        frequency: Step between rows.
        longest: Steps of the longest series.

    Raises:
        DataError: If features are asked for by name and time is only counted.
    """
    if wanted == "none":
        return ()
    if frequency.kind == "integer":
        if wanted == "auto":
            return ()
        message = f"names {', '.join(wanted)}, but integer time has no calendar."
        raise DataError([Problem("calendar_impossible", "data.calendar", message, "Set data.calendar: none.")])
    names = _automatic(frequency, longest) if wanted == "auto" else tuple(wanted)
    return tuple(f"{name}_{function}" for name in names for function in ("sin", "cos"))


def _step_length(frequency: Frequency) -> int:
    """Length of a step in microseconds, roughly where months are concerned."""
    if frequency.kind == "fixed":
        return frequency.step
    return frequency.step * (DAY if frequency.kind == "business" else 30 * DAY)


def _automatic(frequency: Frequency, longest: int) -> tuple[str, ...]:
    step = _step_length(frequency)
    names: tuple[str, ...]
    if frequency.kind in ("month_start", "month_end"):
        names = ("month_of_year",) if frequency.step < 3 else ("quarter_of_year",) if frequency.step == 3 else ()
    elif step < DAY:
        names = ("hour_of_day", "day_of_week", "day_of_year")
        if step <= MINUTE:
            names = ("minute_of_hour", *names)
    elif step == DAY:
        names = ("day_of_week", "day_of_month", "day_of_year")
    elif step < WEEK:
        names = ("day_of_week", "day_of_year")
    else:
        names = ("week_of_year",) if step < 180 * DAY else ()
    # A year of months is 360 days of 30, so the comparison leaves some slack.
    return tuple(name for name in names if step * longest * 1.02 >= _PERIODS[name])


def build_calendar(
    features: tuple[str, ...],
    frequency: Frequency,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    extra: int,
    timezone: str | None,
    holidays: Dates = NO_DATES,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compute the shared table.

    Series that overlap in time share rows; series apart in time, or between each other's steps, have blocks of their
    own, so that the table is never longer than the series together.

    Args:
        features: Feature names, each a sine or a cosine.
        frequency: Step between rows.
        starts: First timestamp of each series.
        lengths: Rows of each series.
        extra: Rows to add past the end of each series.
        timezone: Zone whose clock the features follow, or None for the clock of the timestamps.
        holidays: Names by date by place, for the features `holiday_PLACE`.

    Returns:
        The table (G, C) and the row (N,) at which each series starts.
    """
    if not features:
        return np.zeros((0, 0), np.float32), np.zeros(len(starts), np.int64)
    first, last, phase = _extents(frequency, starts, lengths + extra)
    order = np.lexsort((first, phase))
    block = _blocks(first[order], last[order], phase[order])
    opens = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))
    block_first = first[order][opens]
    block_last = np.maximum.reduceat(last[order], opens)
    sizes = block_last - block_first
    block_row = np.concatenate([[0], np.cumsum(sizes)])
    series_row = np.empty(len(starts), np.int64)
    series_row[order] = block_row[block] + first[order] - block_first[block]
    leaders = order[opens]
    stamps = [frequency.range(int(starts[leader]), 0, int(size)) for leader, size in zip(leaders, sizes, strict=True)]
    return encode_calendar(features, np.concatenate(stamps), timezone, holidays), series_row


def _extents(
    frequency: Frequency, starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First and one past the last step of each series on the grid of its phase, and the phase."""
    units, rest = frequency.units(starts)
    first, remainder = np.divmod(units, frequency.step)
    _, phase = np.unique(np.stack([remainder, np.broadcast_to(rest, units.shape)]), axis=1, return_inverse=True)
    return first, first + lengths, phase.ravel()


def _blocks(first: NDArray[np.int64], last: NDArray[np.int64], phase: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the groups of overlapping extents; all are sorted by phase, then by first step."""
    block = np.zeros(len(first), np.int64)
    for value in np.unique(phase):
        mine = np.flatnonzero(phase == value)
        reach = np.maximum.accumulate(last[mine])
        opens = np.concatenate([[1], (first[mine][1:] > reach[:-1]).astype(np.int64)])
        block[mine] = np.cumsum(opens) + (block[mine[0] - 1] if mine[0] else -1)
    return block


def encode_calendar(
    features: tuple[str, ...], stamps: NDArray[np.int64], timezone: str | None, holidays: Dates = NO_DATES
) -> NDArray[np.float32]:
    """Sine and cosine of the position in each period, rounded so that the sine of half a turn is exactly 0, and flags.

    A column of rounding noise would otherwise be standardised into a feature.

    Raises:
        DataError: If holidays are read of a year whose dates are not kept.
    """
    clock = wall_clock(stamps, timezone)
    index = pd.DatetimeIndex(clock.view("M8[us]"))
    table = np.empty((len(stamps), len(features)), np.float32)
    for channel, feature in enumerate(features):
        if feature.startswith(PREFIX):
            table[:, channel] = holiday_flags(feature.removeprefix(PREFIX), clock, holidays)
            continue
        name, _, function = feature.rpartition("_")
        angle = 2 * np.pi * _POSITIONS[name](index)
        table[:, channel] = np.round(np.sin(angle) if function == "sin" else np.cos(angle), 7) + 0.0
    return table


def validate_calendar(features: tuple[str, ...], holidays: Dates = NO_DATES) -> None:
    """Refuse calendar features that this release cannot compute; those of `holidays` need its dates.

    Raises:
        DataError: If a name is unknown.
    """
    known = {f"{name}_{function}" for name in _POSITIONS for function in ("sin", "cos")} | {
        f"{PREFIX}{place}" for place, dates in holidays.items() if dates
    }
    unknown = [feature for feature in features if feature not in known]
    if unknown:
        message = f"names {unknown[0]!r}, which is not known."
        raise DataError(
            [Problem("calendar_unknown", "columns.calendar", message, f"Known are {', '.join(sorted(known))}.")]
        )
