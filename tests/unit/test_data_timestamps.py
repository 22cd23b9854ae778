"""Times as people write them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from training.data.timestamps import ParsedTimes, as_times, parse_timestamps


def shown(parsed: ParsedTimes) -> list[str]:
    return [str(time) for time in as_times(parsed.stamps, parsed.time_kind, parsed.timezone)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2020-01-01", "2020-01-02 03:00:00"], ["2020-01-01 00:00:00", "2020-01-02 03:00:00"]),
        (["1962-01", "1962-02"], ["1962-01-01 00:00:00", "1962-02-01 00:00:00"]),
        (["02/01/2019", "31/01/2019"], ["2019-01-02 00:00:00", "2019-01-31 00:00:00"]),
        (["02.01.2019 13:00", "31.1.2019 14:00"], ["2019-01-02 13:00:00", "2019-01-31 14:00:00"]),
        (["02/13/2019", "3/1/2019"], ["2019-02-13 00:00:00", "2019-03-01 00:00:00"]),
        (["12/31/2019 01:00:00 PM"], ["2019-12-31 13:00:00"]),
        (["2019/01/02", "2019/12/31 12:00"], ["2019-01-02 00:00:00", "2019-12-31 12:00:00"]),
        (["2010-07-01 00-30-00"], ["2010-07-01 00:30:00"]),
        (["2019Q1", "2019 Q4"], ["2019-01-01 00:00:00", "2019-10-01 00:00:00"]),
        (["Jan 2019", "1 Feb 2019"], ["2019-01-01 00:00:00", "2019-02-01 00:00:00"]),
        (["1500-01-01", "9999-12-31"], ["1500-01-01 00:00:00", "9999-12-31 00:00:00"]),
    ],
)
def test_texts_are_read(texts: list[str], expected: list[str]) -> None:
    """Each spelling gives the date that a person would read."""
    parsed = parse_timestamps(pd.Series(texts))
    assert not parsed.bad.any()
    assert shown(parsed) == expected


def test_day_and_month_are_never_guessed() -> None:
    """Without a row above 12 the column is refused, with the remedy."""
    parsed = parse_timestamps(pd.Series(["02/01/2019", "03/01/2019"]), "Date")
    assert parsed.refusal is not None
    assert parsed.refusal.code == "time_ambiguous"
    assert "2020-01-31" in parsed.refusal.remedy


def test_contradicting_orders_are_refused() -> None:
    """A column with the 13th in both places has no order."""
    parsed = parse_timestamps(pd.Series(["13/01/2019", "01/13/2019"]))
    assert parsed.refusal is not None


def test_decided_order_is_said() -> None:
    """What decided the order of day and month is part of the notes."""
    parsed = parse_timestamps(pd.Series(["02/01/2019", "31/01/2019"]), "Date")
    assert "day/month/year" in parsed.notes[0]


def test_unreadable_rows_are_marked() -> None:
    """Text that is no time, and missing times, are marked row by row."""
    parsed = parse_timestamps(pd.Series(["2020-01-01", None, "no date", "2020-01-02", "99"]))
    assert parsed.bad.tolist() == [False, True, True, False, True]


@pytest.mark.parametrize("values", [[1, 2, 5], [1.0, 2.0, 5.0], ["1", "2", "5"]])
def test_integers_count(values: list[object]) -> None:
    """Whole numbers of any type are integer time."""
    parsed = parse_timestamps(pd.Series(values))
    assert parsed.time_kind == "integer"
    assert parsed.stamps.tolist() == [1, 2, 5]


def test_fractions_are_refused() -> None:
    """Time that counts in fractions has no grid."""
    assert parse_timestamps(pd.Series([0.5, 1.0])).refusal is not None


def test_digits_that_are_dates_are_dates() -> None:
    """20190131 is the last of January, not the number of a step."""
    parsed = parse_timestamps(pd.Series([20190131, 20190201]))
    assert parsed.time_kind == "datetime"
    assert np.diff(parsed.stamps).tolist() == [86_400_000_000]
    assert "YYYYMMDD" in parsed.notes[0]


def test_offsets_become_utc_and_their_zone_is_found() -> None:
    """Offsets of both halves of the year name a zone with that clock; the timestamps are regular in UTC."""
    clock = pd.date_range("2012-01-01", "2012-12-31", freq="6h", tz="America/New_York")
    parsed = parse_timestamps(pd.Series([time.isoformat() for time in clock]))
    assert parsed.timezone is not None
    np.testing.assert_array_equal(parsed.stamps, clock.as_unit("us").asi8)
    assert shown(parsed) == [str(time) for time in clock]


def test_one_offset_is_a_fixed_clock() -> None:
    """A column of one offset keeps that clock, and UTC is UTC."""
    assert parse_timestamps(pd.Series(["2012-01-01T00:00:00-05:00"])).timezone == "UTC-05:00"
    assert parse_timestamps(pd.Series(["2012-01-01T00:00:00Z"])).timezone == "UTC"


def test_offset_on_some_rows_is_refused() -> None:
    """A time without offset among times with one could be any hour."""
    parsed = parse_timestamps(pd.Series(["2012-01-01T00:00:00-05:00", "2012-01-01T01:00:00"]))
    assert parsed.refusal is not None
    assert "offset" in parsed.refusal.message


def test_offsets_of_no_zone_fall_back_to_utc() -> None:
    """Offsets that no zone ever showed are regular in UTC all the same."""
    parsed = parse_timestamps(pd.Series(["2012-01-01T00:00:00+01:17", "2012-01-01T02:00:00+02:43"]))
    assert parsed.timezone == "UTC"
    assert "no known zone" in parsed.notes[0]


def test_datetime_columns_of_any_unit_agree() -> None:
    """Nanoseconds, seconds and zones give the same microseconds."""
    times = pd.date_range("2020-03-28", periods=50, freq="h", tz="Europe/Berlin")
    for column in (times.as_unit("s"), times.as_unit("ns"), times.tz_convert("UTC").as_unit("ms")):
        np.testing.assert_array_equal(parse_timestamps(pd.Series(column)).stamps, times.as_unit("us").asi8)
