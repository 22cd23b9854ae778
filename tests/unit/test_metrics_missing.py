"""What metrics do with missing targets, broken forecasts and series without a scale."""

from __future__ import annotations

import numpy as np
import pytest

from training import metrics

Y = np.array([[1.0, np.nan, 3.0]])
F = np.array([[2.0, 50.0, 5.0]])


def test_a_nan_target_counts_as_missing():
    """A missing target adds neither error nor weight, with or without a mask."""
    assert metrics.mae(Y, F) == 1.5
    assert metrics.mae(Y, F, np.array([[True, True, False]])) == 1.0


def test_a_masked_target_is_ignored_whatever_its_value():
    """The store holds 0 where nothing was observed; that 0 must never be scored."""
    y = np.array([[10.0, 0.0]])
    mask = np.array([[True, False]])
    assert metrics.mae(y, np.array([[11.0, 99.0]]), mask) == 1.0
    assert metrics.wql(y, np.array([[[11.0], [99.0]]]), [0.5], mask) == pytest.approx(0.1)
    assert metrics.coverage(y, np.array([[9.0, 50.0]]), np.array([[12.0, 60.0]]), mask) == 1.0


@pytest.mark.parametrize("metric", [metrics.mae, metrics.rmse, metrics.smape])
def test_a_forecast_that_is_not_a_number_is_never_skipped(metric):
    """NaN in the forecast makes the score NaN instead of a better score."""
    assert np.isnan(metric(np.array([[1.0, 2.0]]), np.array([[1.0, np.nan]])))


def test_a_nan_forecast_shows_in_the_scaled_scores_too():
    """A series with a NaN forecast is not taken for a series without targets."""
    scale = metrics.SeasonalScale(np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    y, forecast = np.array([[1.0], [1.0]]), np.array([[np.nan], [1.0]])
    assert np.isnan(metrics.mase(y, forecast, np.array([0, 1]), scale))
    assert np.isnan(metrics.rmsse(y, forecast, np.array([0, 1]), scale))


def test_a_nan_interval_does_not_count_as_a_miss():
    """Coverage of an interval that is not a number is not a number."""
    assert np.isnan(metrics.coverage(np.array([[1.0]]), np.array([[np.nan]]), np.array([[2.0]])))


def test_no_target_at_all_is_nan_not_zero():
    """An empty score must not look perfect."""
    y, forecast = np.full((1, 2), np.nan), np.zeros((1, 2))
    scale = metrics.SeasonalScale(np.array([1.0]), np.array([1.0]))
    assert np.isnan([metrics.mae(y, forecast), metrics.mase(y, forecast, np.array([0]), scale)]).all()


def test_a_series_without_scale_is_left_out_and_the_rest_still_counts():
    """The constant series has no MASE; the mean is over the other one."""
    scale = metrics.SeasonalScale(np.array([np.nan, 2.0]), np.array([np.nan, 4.0]))
    y, forecast, series = np.array([[0.0], [0.0]]), np.array([[100.0], [3.0]]), np.array([0, 1])
    assert metrics.mase(y, forecast, series, scale) == 1.5
    assert metrics.scored_series(y, series, scale).tolist() == [False, True]


def test_a_scale_of_mere_rounding_is_undefined():
    """A series that differs from constant by float32 rounding alone must not give a MASE of a million."""
    values = np.float32(1e6) + np.float32(0.0625) * (np.arange(40) % 7 == 0).astype(np.float32)
    scale = metrics.seasonal_scale(values, np.ones(40, dtype=bool), np.array([0, 40]), np.array([40]), 5)
    assert np.isnan(scale.absolute[0])


def test_only_pairs_of_real_values_make_the_scale():
    """A gap removes both pairs it is part of, and the 0 stored in it is never read."""
    values, observed = np.array([1.0, 0.0, 4.0, 9.0], dtype=np.float32), np.array([True, False, True, True])
    scale = metrics.seasonal_scale(values, observed, np.array([0, 4]), np.array([4]), 1)
    assert scale.absolute[0] == 5.0


def test_wql_of_targets_that_are_all_zero_is_undefined():
    """There is nothing to weigh the loss with."""
    assert np.isnan(metrics.wql(np.zeros((1, 2)), np.ones((1, 2, 1)), [0.5]))


def test_sums_are_made_in_float64():
    """A million errors of 0.1 in float32 still have a mean of 0.1 to seven digits."""
    y = np.zeros((1000, 1000), dtype=np.float32)
    assert metrics.mae(y, np.full_like(y, 0.1)) == pytest.approx(float(np.float32(0.1)), rel=1e-12)
