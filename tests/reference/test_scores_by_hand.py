"""Interval scores, errors of intermittent demand and the Diebold-Mariano test against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.diebold_mariano import describe_test, diebold_mariano, origin_losses
from training.intermittent import cumulated_error, intermittent_scores, measure_demand, periods_in_stock
from training.interval_metrics import interval_scores, interval_width, msis
from training.metrics import SeasonalScale

Y = np.array([[10.0, 20.0], [0.0, 4.0]])
LOWER, UPPER = np.array([[9.0, 21.0], [-1.0, 0.0]]), np.array([[12.0, 25.0], [1.0, 2.0]])
SERIES = np.array([0, 1])
SCALE = SeasonalScale(absolute=np.array([2.0, 4.0]), squared=np.array([4.0, 2.0]))
EVERY = np.ones((2, 2), dtype=bool)


def test_width_by_hand():
    """Intervals 3, 4, 2 and 2 wide are 2.75 wide on average; a missing target takes its interval out: (3+4+2)/3."""
    assert interval_width(Y, LOWER, UPPER) == 2.75
    assert interval_width(Y, LOWER, UPPER, np.array([[True, True], [True, False]])) == 3.0


def test_msis_by_hand():
    """At 80 %, a unit outside costs 10: series 0 scores (3 + 4+10*1)/2 over 2, series 1 (2 + 2+10*2)/2 over 4."""
    expected = ((3 + 14) / 2 / 2 + (2 + 22) / 2 / 4) / 2
    assert msis(Y, LOWER, UPPER, 0.8, SERIES, SCALE) == pytest.approx(expected)


def test_a_miss_above_costs_as_much_as_one_below():
    """The interval [0, 1] scores the same at -2 and at 3."""
    scores = [
        msis(np.array([[y]]), np.zeros((1, 1)), np.ones((1, 1)), 0.9, np.array([0]), SCALE) for y in (-2.0, 3.0)
    ]
    assert scores[0] == pytest.approx(scores[1]) == pytest.approx((1 + 20 * 2) / 2)


def test_every_central_interval_is_scored_by_its_own_level():
    """Levels 0.1, 0.25, 0.75, 0.9 hold intervals of 80 % and 50 %, each with coverage, width and MSIS."""
    quantiles = np.stack([LOWER, LOWER + 0.5, UPPER - 0.5, UPPER], axis=-1)
    scores = interval_scores(Y, quantiles, (0.1, 0.25, 0.75, 0.9), SERIES, SCALE, EVERY)
    assert list(scores) == [f"{name}_{level}" for level in ("80", "50") for name in ("coverage", "width", "msis")]
    assert (scores["coverage_80"], scores["width_50"]) == (0.5, 1.75)
    assert scores["msis_50"] == pytest.approx(msis(Y, LOWER + 0.5, UPPER - 0.5, 0.5, SERIES, SCALE))


def test_cumulated_error_and_periods_in_stock_by_hand():
    """Demand 0 3 0 2 forecast as 1 1 1 1: errors -1 2 -1 1 cumulate to -1 1 0 1, so 1 is lacking and the stock was -1."""
    y, forecast = np.array([[0.0, 3.0, 0.0, 2.0]]), np.ones((1, 4))
    mask = np.ones((1, 4), dtype=bool)
    assert cumulated_error(y, forecast, mask).item() == 1.0
    assert periods_in_stock(y, forecast, mask).item() == -1.0


def test_too_much_forecast_is_positive_stock_and_negative_cumulated_error():
    """Forecasting 2 for four steps of demand 0 puts 2+4+6+8 unit-steps into stock, and cumulates to -8."""
    y, mask = np.zeros((1, 4)), np.ones((1, 4), dtype=bool)
    assert periods_in_stock(y, np.full((1, 4), 2.0), mask).item() == 20.0
    assert cumulated_error(y, np.full((1, 4), 2.0), mask).item() == -8.0


def intermittent_panel():
    """Demand 0 0 4 0 0 2 (interval 3, mean 1) and a smooth series; the last two rows of each are no training rows."""
    values = np.array([0, 0, 4, 0, 0, 2, 9, 9, 5, 6, 5, 6, 9, 9], dtype=np.float32)
    return values, np.ones(14, dtype=bool), np.array([0, 8, 14]), np.array([6, 4])


def test_demand_is_classified_by_hand():
    """Two demands in six steps are 3 steps apart and vary by 1/9; a series that never rests is not intermittent."""
    demand = measure_demand(*intermittent_panel())
    assert demand.interval.tolist() == [3.0, 1.0]
    assert demand.variation[0] == pytest.approx(1 / 9)
    assert demand.mean.tolist() == [1.0, 5.5]
    assert demand.step_scale[0] == pytest.approx((0 + 4 + 4 + 0 + 2) / 5)
    assert (demand.is_intermittent.tolist(), demand.is_lumpy.tolist()) == ([True, False], [False, False])


def test_a_series_below_zero_is_never_intermittent():
    """Zeros between positive and negative values are no demand."""
    values = np.array([0, 0, -4, 0, 0, 2], dtype=np.float32)
    demand = measure_demand(values, np.ones(6, dtype=bool), np.array([0, 6]), np.array([6]))
    assert not demand.is_intermittent.any()


def test_intermittent_scores_by_hand():
    """Of the intermittent series alone: pinball over the mean step of 2, errors in mean demands of 1."""
    demand = measure_demand(*intermittent_panel())
    y, point = np.array([[0.0, 3.0], [5.0, 6.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    quantiles = np.stack([point, point], axis=-1)
    scores = intermittent_scores(y, point, quantiles, (0.25, 0.75), SERIES, demand, EVERY)
    # Errors -1 and 2: pinball at 0.25 is 0.75 and 0.5, at 0.75 it is 0.25 and 1.5.
    assert scores["spl"] == pytest.approx((0.75 + 0.5 + 0.25 + 1.5) / 4 / 2)
    assert (scores["scfe"], scores["spis"], scores["sapis"]) == (1.0, 0.0, 0.0)
    assert intermittent_scores(y[1:], point[1:], quantiles[1:], (0.25, 0.75), SERIES[1:], demand, EVERY[1:]) == {}


def test_diebold_mariano_by_hand():
    """Differences 1 2 3 4 with an overlap of 2: variance (1.25 + 2*0.3125)/4, corrected by sqrt(1.5/4), is sqrt(5).

    With three degrees of freedom the distribution is 1/2 + (x/(1+x^2) + atan x)/pi at x = t/sqrt(3).
    """
    test = diebold_mariano(np.array([1.0, 2.0, 3.0, 4.0]), overlap=2)
    x = math.sqrt(5 / 3)
    assert test.statistic == pytest.approx(math.sqrt(5))
    assert test.p_value == pytest.approx(2 * (0.5 - (x / (1 + x**2) + math.atan(x)) / math.pi))
    assert test.p_value == pytest.approx(0.111368, abs=1e-6)


def test_without_overlap_it_is_the_t_test_of_the_mean():
    """With an overlap of 1 the corrected statistic is mean / (standard deviation / sqrt(n)) with n - 1 in the deviation."""
    difference = np.array([0.3, -0.1, 0.4, 0.2, 0.9, -0.2])
    expected = difference.mean() / (difference.std(ddof=1) / math.sqrt(6))
    assert diebold_mariano(difference).statistic == pytest.approx(expected)


def test_a_negative_variance_falls_back_on_bartlett_weights():
    """Differences that alternate have a first autocovariance that outweighs the variance; Bartlett's weight halves it."""
    difference = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]) + 0.25
    test = diebold_mariano(difference, overlap=2)
    variance = 1.0 + 2 * 0.5 * (-5 / 6)
    correction = math.sqrt((6 + 1 - 4 + 2 / 6) / 6)
    assert test.statistic == pytest.approx(0.25 / math.sqrt(variance / 6) * correction)


def test_the_test_holds_its_size_and_finds_a_difference():
    """Of 2,000 series of noise about 5 % are called significant; shifted by a deviation, nearly all are."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2000, 20))
    assert np.mean([diebold_mariano(row).p_value < 0.05 for row in noise]) == pytest.approx(0.05, abs=0.015)
    assert np.mean([diebold_mariano(row + 1.0).p_value < 0.05 for row in noise[:200]]) > 0.95


def test_losses_are_averaged_over_series_at_each_origin_oldest_first():
    """Windows with two, two and one later origins: 1 and 3 average to 2, then 5; an origin without target is left out."""
    terms, mask = np.array([[1.0], [3.0], [5.0], [0.0]]), np.array([[True], [True], [True], [False]])
    assert origin_losses(terms, mask, np.array([2, 2, 1, 0])).tolist() == [2.0, 5.0]


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ([-1.0, -1.1, -0.9, -1.05], "net forecasts better than naive"),
        ([1.0, 1.1, 0.9, 1.05], "net forecasts worse than naive"),
        ([1.0, -1.1, 0.9, -1.05], "no difference can be told from chance"),
        ([1.0, 2.0], "2 rolling origins are too few"),
        ([0.0, 0.0, 0.0], "the difference does not vary"),
    ],
)
def test_the_answer_is_said_in_words(difference, words):
    """Better, worse, not to be told, too few origins, and forecasts that are equal."""
    assert words in describe_test(diebold_mariano(np.array(difference)), "net", "naive")
