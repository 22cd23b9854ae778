"""Naive and seasonal naive against forecasts written down by hand and against a slow walk."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.baselines import naive, seasonal_naive
from training.data.panel import Panel

GAP = np.nan


def panel_of(*series, season_length=3):
    """The part of a panel that the naive baselines read; NaN is a gap, stored as 0."""
    values = np.concatenate([np.asarray(values, dtype=np.float32) for values in series])
    return Mock(
        spec=Panel,
        offsets=np.concatenate([[0], np.cumsum([len(values) for values in series])]).astype(np.int64),
        values=np.nan_to_num(values),
        observed=~np.isnan(values),
        season_length=season_length,
    )


def forecast(method, panel, series, cutoff, horizon):
    return method(panel, np.array([series]), np.array([cutoff]), horizon)[0].tolist()


def test_naive_repeats_the_last_observed_value():
    """A gap right before the cutoff is walked over."""
    assert forecast(naive, panel_of([1, 2, 3, GAP, GAP, 99]), 0, 5, 2) == [3.0, 3.0]


def test_naive_never_reaches_into_the_series_before():
    """Where a series starts with gaps there is nothing to repeat, even though another series lies before it."""
    assert np.isnan(forecast(naive, panel_of([1, 2, 3], [GAP, GAP, 5]), 1, 2, 1)).all()


def test_seasonal_naive_repeats_the_last_season_over_a_longer_horizon():
    """Season 3, horizon 5: the last season and its first two values again."""
    assert forecast(seasonal_naive, panel_of([9, 9, 9, 1, 2, 3, 77]), 0, 6, 5) == [1.0, 2.0, 3.0, 1.0, 2.0]


def test_seasonal_naive_walks_back_season_by_season_over_gaps():
    """The missing middle of the last season comes from the season before, not from a neighbouring step."""
    assert forecast(seasonal_naive, panel_of([4, 5, 6, 1, GAP, 3]), 0, 6, 3) == [1.0, 5.0, 3.0]


def test_seasonal_naive_without_an_earlier_season_is_naive():
    """With less than a season of history the last value is repeated where the season is unknown."""
    assert forecast(seasonal_naive, panel_of([7, 8, 50, 50]), 0, 2, 3) == [8.0, 7.0, 8.0]


def test_season_length_can_be_overridden():
    """The same panel forecast with a season of one is naive."""
    panel = panel_of([1, 2, 3, 4])
    assert seasonal_naive(panel, np.array([0]), np.array([4]), 2, season_length=1).tolist() == [[4.0, 4.0]]


@settings(max_examples=60, deadline=None)
@given(
    series=st.lists(
        st.lists(st.one_of(st.just(GAP), st.integers(-50, 50)), min_size=1, max_size=25), min_size=1, max_size=4
    ),
    season=st.integers(1, 6),
    horizon=st.integers(1, 9),
    data=st.data(),
)
def test_vectorised_forecasts_equal_a_slow_walk_and_ignore_the_future(series, season, horizon, data):
    """Whatever the gaps, both baselines equal a loop that can only see the rows before the cutoff."""
    which = data.draw(st.integers(0, len(series) - 1))
    cutoff = data.draw(st.integers(0, len(series[which])))
    known = series[which][:cutoff]
    real = [value for value in known if value == value]  # NaN is what differs from itself
    last = float(real[-1]) if real else GAP

    def slow(step):
        position = cutoff - season + step % season
        while position >= 0:
            if known[position] == known[position]:
                return float(known[position])
            position -= season
        return last

    panel = panel_of(*series, season_length=season)
    np.testing.assert_array_equal(forecast(naive, panel, which, cutoff, horizon), [last] * horizon)
    np.testing.assert_array_equal(
        forecast(seasonal_naive, panel, which, cutoff, horizon), [slow(k) for k in range(horizon)]
    )


def test_all_windows_of_all_series_are_forecast_at_once():
    """Windows of different series and cutoffs do not mix."""
    panel = panel_of([1, 2, 3, 4], [10, 20, 30, 40], season_length=2)
    result = seasonal_naive(panel, np.array([1, 0, 1]), np.array([4, 2, 2]), 2)
    assert result.tolist() == [[30.0, 40.0], [1.0, 2.0], [10.0, 20.0]]
    assert result.dtype == np.float32


@pytest.mark.parametrize("method", [naive, seasonal_naive])
def test_no_window_gives_no_forecast(method):
    """An empty selection is an empty answer of the right shape."""
    assert method(panel_of([1, 2]), np.array([], dtype=int), np.array([], dtype=int), 4).shape == (0, 4)
