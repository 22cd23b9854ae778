"""Arithmetic of regular time: which step a timestamp is, and which timestamp a step is.

Timestamps are int64 inside: microseconds since 1970 for dates (years 1 to 9999 and far beyond fit, where nanoseconds end
in 1677), the number itself for integer time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.frequencies import to_offset

from training.errors import DataError, Problem

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
SUPPORTED = "s, min, h, D, B, W-MON, MS, ME, QS, QE, YS, YE, each with a number in front, or 1 for integer time"

# Longer ones leave what a timestamp can hold after a few steps: 285 years, in each kind's own units.
_MAX_STEPS = {"integer": 2**53, "fixed": 2**53, "month_start": 3_420, "month_end": 3_420, "business": 75_000}

FrequencyKind = Literal["integer", "fixed", "month_start", "month_end", "business"]

# Spellings of pandas before 2.2 that users still type.
_OLD_SPELLINGS = {
    "H": "h",
    "T": "min",
    "S": "s",
    "L": "ms",
    "U": "us",
    "M": "ME",
    "Q": "QE",
    "A": "YE",
    "Y": "YE",
    "AS": "YS",
}


@dataclass(frozen=True)
class Frequency:
    """A regular step through time.

    Attributes:
        alias: Canonical pandas offset alias, or the step itself for integer time.
        kind: How a timestamp becomes a count: integers, microseconds, months or business days.
        step: Length of one step in units of `kind` (microseconds for `fixed`).
        anchor: Weekday (0 = Monday) of a weekly step, or month (0 = January) modulo the step of a step of several
            months; None where any will do.
    """

    alias: str
    kind: FrequencyKind
    step: int
    anchor: int | None = None

    def units(self, stamps: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split timestamps into whole units and the rest within the unit.

        Two timestamps are on one grid if their rests are equal and their units differ by a multiple of `step`.
        """
        if self.kind in ("integer", "fixed"):
            return stamps, np.zeros(1, np.int64)
        if self.kind == "business":
            days = stamps // DAY
            weeks, weekday = np.divmod(days + 3, 7)  # 1970-01-01 was a Thursday
            rest = np.where(weekday < 5, stamps - days * DAY, -1 - weekday)
            return weeks * 5 + np.minimum(weekday, 4), rest
        months = stamps.view("M8[us]").astype("M8[M]").astype(np.int64)
        return months, stamps - self._from_months(months)

    def stamps(self, units: NDArray[np.int64], rest: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Timestamps of whole units and a rest: the inverse of `units`."""
        if self.kind in ("integer", "fixed"):
            return units
        if self.kind == "business":
            weeks, weekday = np.divmod(units, 5)
            return np.asarray((weeks * 7 + weekday - 3) * DAY + rest, np.int64)
        return self._from_months(units) + rest

    def range(self, start: int, first: int, stop: int) -> NDArray[np.int64]:
        """Timestamps of the steps `first .. stop - 1` counted from the timestamp `start`."""
        units, rest = self.units(np.array([start], np.int64))
        return self.stamps(units[0] + np.arange(first, stop, dtype=np.int64) * self.step, rest[0])

    def fits_anchor(self, stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each timestamp lies on the weekday or month that the alias names."""
        if self.kind == "business":
            return self.units(stamps)[1] >= 0
        if self.anchor is None:
            return np.ones(len(stamps), np.bool_)
        if self.kind == "fixed":
            return (stamps // DAY + 3) % 7 == self.anchor
        return self.units(stamps)[0] % self.step == self.anchor

    def _from_months(self, months: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.kind == "month_start":
            return months.astype("M8[M]").astype("M8[us]").astype(np.int64)
        return (months + 1).astype("M8[M]").astype("M8[us]").astype(np.int64) - DAY


def build_frequency(kind: FrequencyKind, step: int, stamps: NDArray[np.int64]) -> Frequency:
    """Name a step found in data, with its anchor where all the timestamps agree on one.

    Args:
        kind: How time is counted.
        step: Length of the step in units of `kind`.
        stamps: Timestamps that lie on the grid, any selection of them.
    """
    if kind == "integer":
        return Frequency(str(step), kind, step)
    if kind == "business":
        return Frequency("B" if step == 1 else f"{step}B", kind, step)
    if kind == "fixed":
        return _fixed_frequency(step, stamps)
    letter = "S" if kind == "month_start" else "E"
    anchors = np.unique(Frequency("", kind, step).units(stamps)[0] % step)
    if step % 3 or len(anchors) != 1 or step not in (3, 12):
        return Frequency(f"{step if step > 1 else ''}M{letter}", kind, step)
    anchor, default = int(anchors[0]), (0 if kind == "month_start" else step - 1)
    # pandas names a quarter by its last such month at the end (QE-DEC) and by its first at the start (QS-JAN).
    month = anchor if kind == "month_start" or step == 12 else anchor + 9
    suffix = "" if anchor == default else f"-{MONTHS[month]}"
    return Frequency(f"{'Q' if step == 3 else 'Y'}{letter}{suffix}", kind, step, anchor)


def _fixed_frequency(step: int, stamps: NDArray[np.int64]) -> Frequency:
    if step % WEEK == 0:
        weekdays = np.unique((stamps // DAY + 3) % 7)
        count = step // WEEK
        if len(weekdays) == 1:
            alias = f"{count if count > 1 else ''}W-{WEEKDAYS[weekdays[0]]}"
            return Frequency(alias, "fixed", step, int(weekdays[0]))
        return Frequency(f"{count * 7}D", "fixed", step)
    for length, name in ((DAY, "D"), (HOUR, "h"), (MINUTE, "min"), (SECOND, "s"), (1000, "ms"), (1, "us")):
        if step % length == 0:
            count = step // length
            return Frequency(f"{count if count > 1 else ''}{name}", "fixed", step)
    raise AssertionError(step)


def parse_frequency(alias: str, where: str = "data.freq") -> Frequency:
    """Read a frequency that a user or a bundle names.

    Raises:
        DataError: If the alias is unknown or is a step without a regular grid.
    """
    text = alias.strip()
    if re.fullmatch(r"\d+", text):
        if len(text) < 20 and 0 < int(text) <= _MAX_STEPS["integer"]:
            return Frequency(str(int(text)), "integer", int(text))
        raise _unknown_frequency(alias, where)
    try:
        frequency = _from_offset(to_offset(_modern_spelling(text)))
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise _unknown_frequency(alias, where) from None
    if frequency is None or not 1 <= frequency.step <= _MAX_STEPS[frequency.kind]:
        raise _unknown_frequency(alias, where)
    return frequency


def _modern_spelling(alias: str) -> str:
    match = re.fullmatch(r"(\d*)([A-Za-z]+)((?:-[A-Za-z]{3})?)", alias)
    if not match:
        return alias
    number, name, anchor = match.groups()
    return f"{number}{_OLD_SPELLINGS.get(name, name)}{anchor.upper()}"


def _from_offset(offset: object) -> Frequency | None:
    n = int(getattr(offset, "n", 0))
    name = type(offset).__name__
    if name == "Week":
        weekday = getattr(offset, "weekday", None)
        if weekday is None:
            return Frequency(f"{7 * n}D", "fixed", n * WEEK)
        return Frequency(f"{n if n > 1 else ''}W-{WEEKDAYS[weekday]}", "fixed", n * WEEK, weekday)
    if name == "Day":
        return Frequency(f"{n if n > 1 else ''}D", "fixed", n * DAY)
    if isinstance(offset, pd.offsets.Tick):
        step = pd.Timedelta(offset).value // 1000
        return _fixed_frequency(step, np.zeros(0, np.int64)) if step > 0 else None
    if name == "BusinessDay":
        return Frequency("B" if n == 1 else f"{n}B", "business", n)
    months = {"Month": 1, "Quarter": 3, "Year": 12}.get(name.removesuffix("Begin").removesuffix("End"))
    if months is None:
        return None
    kind: FrequencyKind = "month_start" if name.endswith("Begin") else "month_end"
    first = getattr(offset, "startingMonth", None) or getattr(offset, "month", None)
    if months == 1 or n != 1 or first is None:
        return Frequency(
            f"{n * months if n * months > 1 else ''}M{'S' if kind == 'month_start' else 'E'}", kind, n * months
        )
    # A timestamp with the anchor's month names the quarter or year completely.
    month = np.array([f"2000-{first:02d}"], "M8[M]").astype("M8[us]").astype(np.int64)
    return build_frequency(kind, months, month)


def _unknown_frequency(alias: str, where: str) -> DataError:
    message = f"must be a regular step, but is {alias!r} instead."
    return DataError([Problem("freq_unknown", where, message, f"Use one of {SUPPORTED}.")])
