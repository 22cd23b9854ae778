"""Arithmetic of regular time against pandas' date ranges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pandas.tseries.frequencies import to_offset

from training.data.frequency import future_timestamps
from training.data.steps import build_frequency, parse_frequency
from training.errors import DataError

ALIASES = (
    "s",
    "90s",
    "min",
    "5min",
    "30min",
    "h",
    "2h",
    "12h",
    "D",
    "2D",
    "14D",
    "B",
    "W-SUN",
    "W-MON",
    "2W-WED",
    "MS",
    "ME",
    "2MS",
    "QS",
    "QS-FEB",
    "QE",
    "QE-NOV",
    "YS",
    "YS-JUL",
    "YE",
    "YE-JUN",
)


@pytest.mark.parametrize("alias", ALIASES)
def test_range_equals_date_range_of_pandas(alias: str) -> None:
    """The timestamps of 60 steps are those that pandas gives for the same alias, leap years included."""
    expected = pd.date_range("1959-12-30", periods=60, freq=to_offset(alias), unit="us")
    stamps = parse_frequency(alias).range(int(expected.asi8[0]), 0, 60)
    np.testing.assert_array_equal(stamps, expected.asi8)


@pytest.mark.parametrize("alias", [alias for alias in ALIASES if alias != "14D"])
def test_canonical_alias_means_the_same_offset(alias: str) -> None:
    """The alias that a found frequency is given means the same offset to pandas, and parses to the same frequency."""
    frequency = parse_frequency(alias)
    stamps = pd.date_range("2001-01-01", periods=30, freq=to_offset(alias), unit="us").asi8
    assert frequency.fits_anchor(stamps).all()
    named = build_frequency(frequency.kind, frequency.step, stamps)
    assert to_offset(named.alias) == to_offset(alias)
    assert parse_frequency(named.alias) == named


@pytest.mark.parametrize(
    ("old", "new"),
    [("H", "h"), ("T", "min"), ("15T", "15min"), ("M", "ME"), ("Q", "QE"), ("A", "YE"), ("AS-JUL", "YS-JUL")],
)
def test_old_spellings_are_understood(old: str, new: str) -> None:
    """Aliases that pandas has dropped mean what they used to mean."""
    assert parse_frequency(old) == parse_frequency(new)


@pytest.mark.parametrize("alias", ["foo", "", "0", "-1", "SM", "BMS", "1.5", "C"])
def test_unknown_frequency_is_refused_with_a_list(alias: str) -> None:
    """An alias without a regular grid is refused, and the message names those that work."""
    with pytest.raises(DataError, match="W-MON") as caught:
        parse_frequency(alias)
    assert caught.value.problems[0].code == "freq_unknown"


@pytest.mark.parametrize("alias", ["9999999h", "99999999999D", "9999999W", "99999ME", "9999999B", "9" * 30, "9" * 5000])
def test_a_step_beyond_all_timestamps_is_refused(alias: str) -> None:
    """Centuries per step are no frequency, in whatever unit they are written."""
    with pytest.raises(DataError, match="regular step"):
        parse_frequency(alias)


def test_future_timestamps_follow_the_last_one() -> None:
    """The future of a month's last day is the last day of the following months."""
    last = int(np.datetime64("2024-01-31", "us").astype(np.int64))
    stamps = future_timestamps(last, parse_frequency("ME"), 3).view("M8[us]").astype(str)
    assert [stamp[:10] for stamp in stamps] == ["2024-02-29", "2024-03-31", "2024-04-30"]


def test_months_keep_their_day_and_hour() -> None:
    """A monthly series on the 15th at noon goes on on the 15th at noon."""
    start = int(np.datetime64("2024-01-15T12:00", "us").astype(np.int64))
    stamps = parse_frequency("MS").range(start, 1, 3).view("M8[us]").astype(str)
    assert [stamp[:16] for stamp in stamps] == ["2024-02-15T12:00", "2024-03-15T12:00"]


def test_years_before_1677_do_not_overflow() -> None:
    """Dates outside the nanosecond range of pandas keep their year."""
    start = int(np.datetime64("1500-01-01", "us").astype(np.int64))
    assert str(parse_frequency("YS").range(start, 0, 600).view("M8[us]")[-1])[:10] == "2099-01-01"


def test_integer_time_counts() -> None:
    """Integer time steps by the number itself."""
    assert parse_frequency("3").range(10, -1, 3).tolist() == [7, 10, 13, 16]
