"""Checks of the audit that look at one series at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.data.findings import AuditProblem
from training.data.steps import DAY, HOUR, Frequency
from training.data.timestamps import TimeKind, as_times

_SENTINELS = (-1.0, -9.0, -99.0, -200.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0, 999999.0)
_OUTLIER_IQRS = 100.0
_MIN_ROWS = 10


@dataclass(frozen=True)
class AuditedSeries:
    """One series as the file has it, in order of time, without repeated timestamps.

    Attributes:
        name: The series.
        stamps: Timestamps.
        y: Values, NaN where missing.
        line: Line of the file of each row; None for a file without lines.
        frequency: The step, if there is one for the whole file.
        season_length: Steps per season.
        time_kind: Dates or integers.
        timezone: Zone of the timestamps.
    """

    name: str
    stamps: NDArray[np.int64]
    y: NDArray[np.float64]
    line: NDArray[np.int64] | None
    frequency: Frequency | None
    season_length: int
    time_kind: TimeKind
    timezone: str | None

    def row(self, position: int) -> int | None:
        """Line of the file of a row."""
        return None if self.line is None else int(self.line[position])

    def when(self, position: int) -> str:
        """Timestamp of a row as text."""
        return str(as_times(self.stamps[position : position + 1], self.time_kind, self.timezone)[0])


def check_series(series: AuditedSeries) -> Iterator[AuditProblem]:
    """Every finding about one series."""
    observed = np.flatnonzero(~np.isnan(series.y))
    if not len(observed):
        fix = "It will be left out; bring its values or remove it."
        yield AuditProblem(
            "all_missing", "warning", series.name, series.row(0), len(series.y), "has no value at all.", fix
        )
        return
    values = series.y[observed]
    needed = max(_MIN_ROWS, 2 * series.season_length)
    if len(values) < needed:
        message = f"has {len(values)} values; with less than {needed} its season cannot be learned from it."
        yield AuditProblem(
            "short",
            "warning",
            series.name,
            series.row(0),
            len(values),
            message,
            "Bring more history, or expect no windows of its own.",
        )
    if len(values) > 1 and values.min() == values.max():
        yield AuditProblem(
            "constant",
            "warning",
            series.name,
            series.row(0),
            len(values),
            f"never changes (always {values[0]:g}).",
            "Leave it out: there is nothing to learn.",
        )
        yield from check_gaps(series)
        return
    yield from check_gaps(series)
    yield from _check_missing(series)
    found = find_sentinel(series.y)
    if found is not None:
        yield _sentinel(series, *found)
        series = replace(series, y=np.where(series.y == found[0], np.nan, series.y))
    for check in _CHECKS:
        yield from check(series)


def check_gaps(series: AuditedSeries) -> Iterator[AuditProblem]:
    """Steps of the grid without a row."""
    frequency = series.frequency
    if frequency is None or len(series.stamps) < 2:
        return
    missing = np.diff(frequency.units(series.stamps)[0]) // frequency.step - 1
    total = int(missing.sum())
    if total <= 0:
        return
    widest = int(np.argmax(missing))
    longest, share = int(missing[widest]), total / (total + len(series.stamps))
    is_grave = share > 0.1 or longest > series.season_length
    summer = (
        " It looks like the hour that daylight saving time skips." if _looks_like_summer_time(series, missing) else ""
    )
    message = (
        f"{total:,} of {total + len(series.stamps):,} steps have no row ({share:.2%}), in {int((missing > 0).sum())} gap(s); "
        f"the longest, {longest:,} steps, ends at {series.when(widest + 1)}.{summer}"
    )
    fix = "Masked by default; data.fill offers ffill, linear, zero (where no row means nothing happened) and error."
    yield AuditProblem(
        "gaps", "warning" if is_grave else "info", series.name, series.row(widest + 1), total, message, fix
    )


def _looks_like_summer_time(series: AuditedSeries, missing: NDArray[np.int64]) -> bool:
    """Whether an hour is absent in the small hours of a Sunday in spring."""
    if (
        series.time_kind == "integer"
        or series.timezone is not None
        or series.frequency is None
        or series.frequency.step > HOUR
    ):
        return False
    after = series.stamps[1:][missing * series.frequency.step == HOUR]
    month = after.view("M8[us]").astype("M8[M]").astype(np.int64) % 12 + 1
    is_sunday, hour = (after // DAY + 3) % 7 == 6, after % DAY // HOUR
    return bool((is_sunday & (hour <= 4) & np.isin(month, (3, 4, 9, 10))).any())


def _check_missing(series: AuditedSeries) -> Iterator[AuditProblem]:
    missing = np.isnan(series.y)
    if missing.any():
        first, last = int(np.argmin(missing)), len(missing) - int(np.argmin(missing[::-1]))
        inner = int(missing[first:last].sum())
        message = f"{int(missing.sum())} rows have no y: {first} at the start, {inner} inside, {len(missing) - last} at the end."
        fix = "Start and end are left out; inside they are masked, or filled as data.fill says."
        yield AuditProblem(
            "missing_values", "info", series.name, series.row(int(np.argmax(missing))), int(missing.sum()), message, fix
        )


def _check_negative(series: AuditedSeries) -> Iterator[AuditProblem]:
    negative = series.y < 0
    count = int(negative.sum())
    if 0 < count <= 0.01 * np.count_nonzero(~np.isnan(series.y)):
        message = f"{count} values are negative where the others are not (lowest {np.nanmin(series.y):g})."
        yield AuditProblem(
            "negative_values",
            "info",
            series.name,
            series.row(int(np.argmax(negative))),
            count,
            message,
            "Check whether they are returns, corrections or errors.",
        )


def _check_zeros(series: AuditedSeries) -> Iterator[AuditProblem]:
    zeros = series.y == 0
    share = float(zeros.sum() / np.count_nonzero(~np.isnan(series.y)))
    if share > 0.3:
        message = f"{100 * share:.0f} % of the values are 0."
        yield AuditProblem(
            "many_zeros",
            "info",
            series.name,
            series.row(int(np.argmax(zeros))),
            int(zeros.sum()),
            message,
            "An intermittent series; sMAPE says little about it.",
        )


def find_outliers(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions further from the median than a hundred times the spread of the middle half.

    Where more than half of the values are equal (rain), the spread is that of the others.
    """
    known = values[~np.isnan(values)]
    if len(known) < _MIN_ROWS:
        return np.zeros(0, np.int64)
    low, middle, high = np.percentile(known, [25, 50, 75])
    spread = high - low
    if spread == 0:
        others = known[known != middle]
        if len(others) < _MIN_ROWS:
            return np.zeros(0, np.int64)
        spread = float(np.median(np.abs(others - middle)))
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(np.abs(values - middle) > _OUTLIER_IQRS * spread)


def _check_outliers(series: AuditedSeries) -> Iterator[AuditProblem]:
    far = find_outliers(series.y)
    if len(far):
        median, first = float(np.nanmedian(series.y)), series.y[far[0]]
        message = f"{len(far)} value(s) lie over {_OUTLIER_IQRS:.0f} middle spreads off the median {median:g}, first {first:g}."
        yield AuditProblem(
            "outliers",
            "info",
            series.name,
            series.row(int(far[0])),
            len(far),
            message,
            "Correct errors; for real peaks try model.scaler: robust.",
        )


def find_sentinel(values: NDArray[np.float64]) -> tuple[float, NDArray[np.int64]] | None:
    """A number such as -999 or -200 that stands for missing: often there, and far from all others."""
    known = values[~np.isnan(values)]
    if len(known) < _MIN_ROWS:
        return None
    for sentinel in (float(known.min()), float(known.max())):
        here = known == sentinel
        others = known[~here]
        if sentinel not in _SENTINELS or here.sum() < 3 or len(others) < _MIN_ROWS:
            continue
        distance = float(np.abs(others - sentinel).min())
        spread = float(np.subtract(*np.percentile(others, [95, 5])))
        is_foreign = sentinel <= -9 and others.min() >= 0 and here.mean() > 0.01
        if (distance > 0.5 * spread and distance > 1) or is_foreign:
            return sentinel, np.flatnonzero(values == sentinel)
    return None


def _sentinel(series: AuditedSeries, sentinel: float, rows: NDArray[np.int64]) -> AuditProblem:
    message = f"{len(rows)} values are exactly {sentinel:g}, far from all others: it may stand for missing."
    fix = f"Replace {sentinel:g} by an empty field."
    return AuditProblem("sentinel", "warning", series.name, series.row(int(rows[0])), len(rows), message, fix)


def _check_stuck(series: AuditedSeries) -> Iterator[AuditProblem]:
    changes = np.flatnonzero(np.concatenate([[True], series.y[1:] != series.y[:-1], [True]]))
    runs = np.diff(changes)
    runs[(series.y[changes[:-1]] == 0) | np.isnan(series.y[changes[:-1]])] = 0
    longest = int(np.argmax(runs))
    length = int(runs[longest])
    if length >= max(24, series.season_length):
        start = int(changes[longest])
        message = f"stays at {series.y[start]:g} for {length} rows from {series.when(start)} on."
        yield AuditProblem(
            "stuck_value",
            "info",
            series.name,
            series.row(start),
            length,
            message,
            "A sensor may have been stuck; empty the rows if so.",
        )


def _check_level(series: AuditedSeries) -> Iterator[AuditProblem]:
    """A lasting change of level by more than four times, between neighbouring pairs of seasons."""
    width = max(2 * series.season_length, 14)
    count = len(series.y) // width
    if count < 4:
        return
    blocks = series.y[: count * width].reshape(count, width)
    blocks = blocks[~np.isnan(blocks).all(axis=1)]
    level = np.nanmedian(blocks, axis=1)
    if len(level) < 4 or (level <= 0).any():
        return
    change = np.abs(np.log(level[2:] / level[:-2]))
    position = int(np.argmax(change))
    # Steady growth changes the level all the time; a break stands out.
    if change[position] > max(np.log(4), 5 * float(np.median(change))):
        row = min((position + 1) * width, len(series.y) - 1)
        message = (
            f"its level changes from about {level[position]:g} to {level[position + 2]:g} around {series.when(row)}."
        )
        yield AuditProblem(
            "level_change",
            "info",
            series.name,
            series.row(row),
            1,
            message,
            "Validation on rows after the change tells more than rows before it.",
        )


def _check_precision(series: AuditedSeries) -> Iterator[AuditProblem]:
    known = series.y[~np.isnan(series.y)]
    spread, size = float(known.std()), float(np.abs(known).max())
    if spread < 1e-5 * size:
        message = f"varies by {spread:.2g} around {size:.6g}: float32 keeps about seven digits."
        yield AuditProblem(
            "precision", "warning", series.name, None, len(known), message, "Subtract a constant before training."
        )


_CHECKS: tuple[Callable[[AuditedSeries], Iterator[AuditProblem]], ...] = (
    _check_negative, _check_zeros, _check_outliers, _check_stuck, _check_level, _check_precision,
)  # fmt: skip
