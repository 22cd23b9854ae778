"""From a column of times as people write them to int64 timestamps, with nothing guessed silently."""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.errors import Problem

TimeKind = Literal["datetime", "integer"]

_OFFSET = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(Z|[+-]\d{2}(?::?\d{2})?)$"
_YEAR_LAST = r"^(\d{1,2})[/.\-](\d{1,2})[/.\-](\d{4})(?!\d)(.*)$"
_YEAR_FIRST = r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})(?!\d)(.*)$"
_QUARTER = r"^(\d{4})[ \-]?[Qq]([1-4])$"
_ODD_CLOCK = r"[ T](\d{1,2})[.\-](\d{2})(?:[.\-](\d{2}))?$"  # Monash writes 2010-07-01 00-30-00

# Zones that many data sets come from, tried first: several zones share one clock, and a familiar name reads best.
_FAMILIAR_ZONES = (
    "Europe/London", "Europe/Paris", "Europe/Berlin", "Europe/Athens", "Europe/Lisbon", "America/New_York",
    "America/Chicago", "America/Denver", "America/Los_Angeles", "America/Sao_Paulo", "Australia/Melbourne",
    "Australia/Adelaide", "Australia/Brisbane", "Pacific/Auckland", "Asia/Jerusalem",
)  # fmt: skip


@dataclass(frozen=True)
class ParsedTimes:
    """A column of times, understood.

    Attributes:
        stamps: Microseconds since 1970 (UTC where the column carries offsets), or the integers; 0 where `bad`.
        time_kind: Which of the two.
        timezone: Zone whose clock the column shows, or None for times without offset.
        bad: True where the text is missing or not a time.
        notes: What was decided, to be said aloud.
        refusal: Why the column as a whole cannot be read, or None.
    """

    stamps: NDArray[np.int64]
    time_kind: TimeKind
    timezone: str | None
    bad: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    refusal: Problem | None = None


def parse_timestamps(column: pd.Series, name: str = "ds") -> ParsedTimes:
    """Read a time column of any type: dates, integers, text in ISO or day/month/year order, with or without offset."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _by_code(parse_timestamps(pd.Series(column.cat.categories), name), np.asarray(column.cat.codes))
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _from_datetimes(pd.DatetimeIndex(column))
    if pd.api.types.is_bool_dtype(column.dtype):
        return _refused(len(column), name, "holds true and false", "Name the time column with data.time_col.")
    if pd.api.types.is_numeric_dtype(column.dtype):
        return _from_numbers(column, name)
    codes, uniques = pd.factorize(column, use_na_sentinel=True)
    return _by_code(_from_texts(pd.Series(uniques, dtype=object), name), codes)


def _by_code(parsed: ParsedTimes, codes: NDArray[np.integer]) -> ParsedTimes:
    """Times of all rows from those of the distinct texts; code -1 is a missing text."""
    stamps, bad = np.append(parsed.stamps, 0)[codes], np.append(parsed.bad, True)[codes]
    return ParsedTimes(stamps, parsed.time_kind, parsed.timezone, bad, parsed.notes, parsed.refusal)


def as_times(
    stamps: NDArray[np.int64], time_kind: TimeKind, timezone: str | None
) -> pd.DatetimeIndex | NDArray[np.int64]:
    """Timestamps as users see them: in their own zone, or the integers."""
    if time_kind == "integer":
        return stamps
    index = pd.DatetimeIndex(np.ascontiguousarray(stamps).view("M8[us]"))
    return index if timezone is None else index.tz_localize("UTC").tz_convert(timezone)


def wall_clock(stamps: NDArray[np.int64], timezone: str | None) -> NDArray[np.int64]:
    """Local clock time of UTC timestamps, as timestamps without offset."""
    if timezone is None or timezone == "UTC":
        return stamps
    index = pd.DatetimeIndex(stamps.view("M8[us]")).tz_localize("UTC").tz_convert(timezone).tz_localize(None)
    return np.asarray(index.as_unit("us").asi8)


def _refused(count: int, name: str, actual: str, remedy: str, kind: TimeKind = "datetime") -> ParsedTimes:
    problem = Problem(
        "time_unreadable", f"column {name!r}", f"must hold timestamps or integers, but {actual} instead.", remedy
    )
    return ParsedTimes(np.zeros(count, np.int64), kind, None, np.ones(count, np.bool_), (), problem)


def _from_datetimes(index: pd.DatetimeIndex) -> ParsedTimes:
    bad = np.asarray(index.isna())
    zone = None if index.tz is None else str(index.tz)
    # as_unit copies even where there is nothing to do.
    stamps = np.asarray(index.asi8 if index.unit == "us" else index.as_unit("us").asi8)
    if bad.any():
        stamps = np.where(bad, 0, stamps)
    return ParsedTimes(stamps, "datetime", zone, bad)


def _from_numbers(column: pd.Series, name: str) -> ParsedTimes:
    bad = column.isna().to_numpy()
    if pd.api.types.is_float_dtype(column.dtype):
        values = column.to_numpy(np.float64, na_value=np.nan)
        bad = ~np.isfinite(values)
        whole = np.where(bad, 0.0, values)
        if (whole != np.floor(whole)).any() or (np.abs(whole) > 2**53).any():
            return _refused(
                len(column), name, "holds numbers with decimals", "Write dates, or whole numbers that count steps."
            )
        stamps = whole.astype(np.int64)
    else:
        stamps = column.fillna(0).to_numpy(np.int64) if bad.any() else column.to_numpy(np.int64)
    return _dates_in_digits(stamps, bad, name) or ParsedTimes(
        stamps, "integer", None, bad, _integer_notes(stamps[~bad], name)
    )


_SECONDS, _YEARS, _DIGITS = (10**9, 5 * 10**9 - 1), (1500, 2200), (1600_01_01, 2200_12_31)


def only_counts(least: int, greatest: int) -> bool:
    """Whether integers from `least` to `greatest` are nothing but numbers of steps: no seconds, years or dates in digits."""
    return not any(low <= least and greatest <= high for low, high in (_SECONDS, _YEARS, _DIGITS))


def _integer_notes(stamps: NDArray[np.int64], name: str) -> tuple[str, ...]:
    if len(stamps) and stamps.min() >= _SECONDS[0] and stamps.max() <= _SECONDS[1]:
        return (f"{name} looks like seconds since 1970 and is read as integer time; write dates for calendar features",)
    if len(stamps) > 1 and stamps.min() >= _YEARS[0] and stamps.max() <= _YEARS[1]:
        return (f"{name} looks like years and is read as integer time; write 1990-01-01 for dates",)
    return ()


def _dates_in_digits(stamps: NDArray[np.int64], bad: NDArray[np.bool_], name: str) -> ParsedTimes | None:
    """Read 20190131 as a date, if every number is one."""
    good = stamps[~bad]
    if len(good) < 2 or good.min() < _DIGITS[0] or good.max() > _DIGITS[1]:
        return None
    days = pd.to_datetime(pd.Series(good.astype(str)), format="%Y%m%d", errors="coerce")
    if days.isna().any():
        return None
    read = np.zeros(len(stamps), np.int64)
    read[~bad] = pd.DatetimeIndex(days).as_unit("us").asi8
    return ParsedTimes(read, "datetime", None, bad, (f"{name} holds dates written as YYYYMMDD numbers",))


def _from_texts(texts: pd.Series, name: str) -> ParsedTimes:
    text = texts.astype("str").str.strip()
    if len(text) and pd.to_numeric(text[:100], errors="coerce").notna().mean() > 0.5:
        return _from_numbers(pd.to_numeric(text, errors="coerce"), name)
    may_have_offset = text.str[10:].str.contains(r"[Z+\-]", regex=True, na=False)
    has_offset = np.zeros(len(text), np.bool_)
    if may_have_offset.any():
        offsets = text.str.extract(_OFFSET, expand=False)
        has_offset = offsets.notna().to_numpy(bool)
    notes: tuple[str, ...] = ()
    index = pd.DatetimeIndex(pd.to_datetime(text, format="ISO8601", errors="coerce", utc=bool(has_offset.any())))
    if index.hasnans:
        text, notes, refusal = _year_first(text, name)
        if refusal is not None:
            return ParsedTimes(
                np.zeros(len(text), np.int64), "datetime", None, np.ones(len(text), np.bool_), notes, refusal
            )
        index = _parse_iso(text, utc=bool(has_offset.any()))
    bad = np.asarray(index.isna())
    stamps = np.where(bad, 0, index.as_unit("us").asi8)
    if len(bad) and bad.all():
        return _refused(
            len(text),
            name,
            "holds text that is no time",
            "Write times as 2020-01-31 13:00:00, or name another data.time_col.",
        )
    if not has_offset.any():
        return ParsedTimes(stamps, "datetime", None, bad, notes)
    if (~has_offset & ~bad).any():
        actual = f"{int((~has_offset & ~bad).sum())} distinct times lack the UTC offset that others carry"
        return _refused(len(text), name, actual, "Write the offset on every row, or on none.")
    zone, said = guess_zone(stamps[~bad], offsets[~bad].tolist())
    return ParsedTimes(stamps, "datetime", zone, bad, (*notes, said))


def _year_first(text: pd.Series, name: str) -> tuple[pd.Series, tuple[str, ...], Problem | None]:
    """Rewrite day/month/year, year/month/day, quarters and odd clocks as ISO."""
    parts = text.str.extract(_QUARTER)
    if parts[0].notna().any():
        month = pd.to_numeric(parts[1]).mul(3).sub(2).fillna(1).astype(int).astype(str).str.zfill(2)
        text = text.where(parts[0].isna(), parts[0] + "-" + month + "-01")
    odd = text.str.extract(_ODD_CLOCK)[0].notna()
    if odd.any():
        text = text.where(~odd, text.str.replace(_ODD_CLOCK, _clock, regex=True))
    parts = text.str.extract(_YEAR_FIRST)
    if parts[0].notna().any():
        text = text.where(
            parts[0].isna(), parts[0] + "-" + parts[1].str.zfill(2) + "-" + parts[2].str.zfill(2) + parts[3]
        )
    parts = text.str.extract(_YEAR_LAST)
    rows = parts[0].notna()
    if not rows.any():
        return text, (), None
    first, second = (pd.to_numeric(parts[column]) for column in (0, 1))
    dayfirst, monthfirst = int((first > 12).sum()), int((second > 12).sum())
    if (dayfirst > 0) == (monthfirst > 0):
        actual = "both day and month exceed 12 in different rows" if dayfirst else "no row tells day from month"
        message = f"must be written in one known order, but {actual} instead (like {text[rows].iloc[0]!r})."
        return text, (), Problem("time_ambiguous", f"column {name!r}", message, "Write the dates as 2020-01-31.")
    day, month = (parts[0], parts[1]) if dayfirst else (parts[1], parts[0])
    text = text.where(~rows, parts[2] + "-" + month.str.zfill(2) + "-" + day.str.zfill(2) + parts[3])
    order, count = ("day/month/year", dayfirst) if dayfirst else ("month/day/year", monthfirst)
    return text, (f"{name} is read as {order}: {count} distinct times allow no other order",), None


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = match.groups()
    return f" {int(hour):02d}:{minute}:{second or '00'}"


def _parse_iso(text: pd.Series, utc: bool) -> pd.DatetimeIndex:
    index = pd.DatetimeIndex(pd.to_datetime(text, format="ISO8601", errors="coerce", utc=utc))
    rest = np.asarray(index.isna()) & text.str.contains(r"\d{4}", regex=True, na=False).to_numpy(bool)
    if not rest.any():
        return index
    loose = [_parse_loose(value, utc) for value in text[rest]]
    filled = pd.Series(index.as_unit("us"))
    filled[rest] = pd.DatetimeIndex(pd.to_datetime(pd.Series(loose), utc=utc)).as_unit("us")
    return pd.DatetimeIndex(filled)


# A month's name, or a clock of 12 hours or with one digit, beside a year of four digits; nothing else is guessed at.
_LOOSE = re.compile(r"[A-Za-z]{3,9}\.?[ \-,/]|[ \-/][A-Za-z]{3,9}|^\d{4}-\d{1,2}(-\d{1,2})?([ T]\d{1,2}:.*)?$")


def _parse_loose(value: str, utc: bool) -> pd.Timestamp | None:
    if len(value) > 40 or not _LOOSE.search(value):
        return None
    try:
        stamp = pd.Timestamp(value)
    except (ValueError, OverflowError):
        return None
    return None if (stamp.tzinfo is not None) != utc else stamp


def guess_zone(stamps: NDArray[np.int64], offsets: Sequence[str]) -> tuple[str, str]:
    """Find the zone whose clock shows these offsets.

    Args:
        stamps: UTC timestamps.
        offsets: UTC offset of each, as written: `+10:00`, `-0500`, `Z`.

    Returns:
        A zone name that pandas understands, and the sentence that says how it was found.
    """
    minutes = np.array([_offset_minutes(offset) for offset in offsets])
    present = np.unique(minutes)
    if len(present) == 1:
        name = _offset_name(int(present[0]))
        return name, f"times carry the UTC offset {name}; calendar features follow that clock"
    order = np.argsort(stamps)
    changes = np.flatnonzero(np.diff(minutes[order]))
    spread = np.linspace(0, len(order) - 1, 60).astype(int)
    probe = order[np.unique(np.concatenate([changes[:200], changes[:200] + 1, spread]))]
    probes = tuple(zip(stamps[probe].tolist(), minutes[probe].tolist(), strict=True))
    for zone in (*_FAMILIAR_ZONES, *sorted(zoneinfo.available_timezones())):
        if _shows(zone, probes):
            return zone, f"UTC offsets change as in {zone}; the grid is in UTC, calendar features follow that clock"
    return "UTC", "UTC offsets change as in no known zone; the grid and the calendar features are in UTC"


def _offset_minutes(text: str) -> int:
    if text == "Z":
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    return (1 if text[0] == "+" else -1) * (int(digits[:2]) * 60 + int(digits[2:]))


def _offset_name(minutes: int) -> str:
    if minutes == 0:
        return "UTC"
    return f"UTC{'+' if minutes > 0 else '-'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


@functools.lru_cache(maxsize=1024)
def _zone(name: str) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _shows(name: str, probes: Sequence[tuple[int, int]]) -> bool:
    zone = _zone(name)
    if zone is None:
        return False
    for stamp, minutes in probes:
        offset = datetime.fromtimestamp(stamp / 1e6, UTC).astimezone(zone).utcoffset()
        if offset is None or offset.total_seconds() != minutes * 60:
            return False
    return True
