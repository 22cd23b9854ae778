"""Calendar features: what they show, and where they lie."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from training.config import DataConfig
from training.data.calendar_features import build_calendar, choose_calendar, encode_calendar, validate_calendar
from training.data.panel import build_panel
from training.data.steps import parse_frequency
from training.errors import DataError


def stamps(*texts: str) -> np.ndarray:
    return np.array(texts, "M8[us]").astype(np.int64)


def test_positions_on_the_circle() -> None:
    """A quarter of the way round is (1, 0), half is exactly (0, -1), for the hour with its minutes."""
    table = encode_calendar(
        ("hour_of_day_sin", "hour_of_day_cos"), stamps("2020-01-01T06:00", "2020-01-01T12:00", "2020-01-01T04:30"), None
    )
    assert table[0].tolist() == [1, 0]
    assert table[1].tolist() == [0, -1]
    assert table[2].tolist() == pytest.approx([np.sin(2 * np.pi * 4.5 / 24), np.cos(2 * np.pi * 4.5 / 24)], abs=1e-6)


def test_no_rounding_noise_is_left() -> None:
    """No value is a tiny number: noise would be standardised into a signal."""
    names = [
        f"{name}_{f}"
        for name in (
            "minute_of_hour",
            "hour_of_day",
            "day_of_week",
            "day_of_month",
            "day_of_year",
            "week_of_year",
            "month_of_year",
            "quarter_of_year",
        )
        for f in ("sin", "cos")
    ]
    table = encode_calendar(tuple(names), pd.date_range("2019-01-01", "2021-01-01", freq="15min", unit="us").asi8, None)
    assert not ((np.abs(table) > 0) & (np.abs(table) < 1e-6)).any()
    assert not np.signbit(table[table == 0]).any()
    np.testing.assert_allclose(table[:, ::2] ** 2 + table[:, 1::2] ** 2, 1, atol=1e-6)


def test_features_follow_the_local_clock() -> None:
    """Noon in Melbourne is noon, whatever UTC says, on both sides of daylight saving time."""
    noon = (
        pd.DatetimeIndex(["2020-01-15 12:00", "2020-07-15 12:00"]).tz_localize("Australia/Melbourne").as_unit("us").asi8
    )
    table = encode_calendar(("hour_of_day_sin", "hour_of_day_cos"), noon, "Australia/Melbourne")
    assert table.tolist() == [[0, -1], [0, -1]]


@pytest.mark.parametrize(
    ("freq", "length", "names"),
    [
        ("min", 60 * 24 * 8, {"minute_of_hour", "hour_of_day", "day_of_week"}),
        ("30min", 48 * 400, {"hour_of_day", "day_of_week", "day_of_year"}),
        ("h", 24 * 30, {"hour_of_day", "day_of_week"}),
        ("h", 30, {"hour_of_day"}),
        ("D", 800, {"day_of_week", "day_of_month", "day_of_year"}),
        ("W-MON", 104, {"week_of_year"}),
        ("MS", 24, {"month_of_year"}),
        ("ME", 24, {"month_of_year"}),
        ("QS", 24, {"quarter_of_year"}),
        ("YS", 100, set()),
        ("1", 100, set()),
    ],
)
def test_automatic_features_fit_frequency_and_span(freq: str, length: int, names: set[str]) -> None:
    """Automatic features change from step to step and complete their circle within the longest series."""
    features = choose_calendar("auto", parse_frequency(freq), length)
    assert {feature.rpartition("_")[0] for feature in features} == names
    assert len(features) == 2 * len(names)


def test_named_features_are_taken_as_named() -> None:
    """A list is taken in its order, none is none."""
    assert choose_calendar(("month_of_year",), parse_frequency("h"), 5) == ("month_of_year_sin", "month_of_year_cos")
    assert choose_calendar("none", parse_frequency("h"), 5) == ()


def test_unknown_trained_features_are_refused() -> None:
    """A bundle with a feature that this release cannot compute is refused, not silently zero."""
    with pytest.raises(DataError, match="moon_sin"):
        validate_calendar(("moon_sin",))


def test_every_series_reads_its_own_rows_of_the_shared_table() -> None:
    """Overlapping series share rows, distant ones and those between the steps have blocks of their own, and all are right."""
    frequency, features = parse_frequency("h"), ("hour_of_day_sin", "hour_of_day_cos", "day_of_week_sin")
    starts = stamps("2020-01-01T05:00", "2020-01-01T03:00", "1960-05-05T00:00", "2020-01-02T00:30", "2020-01-01T07:00")
    lengths = np.array([20, 10, 30, 5, 2])
    table, first = build_calendar(features, frequency, starts, lengths, 7, None)
    for start, length, row in zip(starts, lengths, first, strict=True):
        expected = encode_calendar(features, frequency.range(int(start), 0, int(length) + 7), None)
        np.testing.assert_array_equal(table[row : row + length + 7], expected)
    assert len(table) < (lengths + 7).sum()


def test_distant_series_do_not_span_the_time_between_them() -> None:
    """Two short series a century apart need a short table."""
    frame = pd.DataFrame(
        {
            "unique_id": ["a"] * 30 + ["b"] * 30,
            "ds": [*pd.date_range("1900", periods=30, freq="h"), *pd.date_range("2000", periods=30, freq="h")],
            "y": 1.0,
        }
    )
    panel = build_panel(frame, DataConfig(), horizon=4)
    assert len(panel.calendar) == 68


def test_extended_panel_has_calendar_rows_for_a_longer_horizon() -> None:
    """A panel built before the horizon was known is extended, with the same rows first."""
    frame = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2020", periods=60, freq="h"), "y": 1.0})
    panel = build_panel(frame, DataConfig())
    longer = panel.extended(12)
    assert len(longer.calendar) == len(panel.calendar) + 12
    np.testing.assert_array_equal(longer.calendar[:60], panel.calendar)
    assert longer.extended(5) is longer
