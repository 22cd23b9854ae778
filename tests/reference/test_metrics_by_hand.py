"""Every metric against numbers worked by hand and against a slow implementation that shares no code with it."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from training import metrics

Y = np.array([[10.0, 20.0], [0.0, 4.0]])
F = np.array([[12.0, 17.0], [0.0, 0.0]])
SERIES = np.array([0, 1])
SCALE = metrics.SeasonalScale(absolute=np.array([2.0, 4.0]), squared=np.array([4.0, 2.0]))


def test_mae_by_hand():
    """Errors of 2, 3, 0 and 4 have a mean size of 2.25."""
    assert metrics.mae(Y, F) == 2.25


def test_rmse_by_hand():
    """Squares of 4, 9, 0 and 16 have a mean of 7.25."""
    assert metrics.rmse(Y, F) == math.sqrt(7.25)


def test_smape_by_hand_follows_m4():
    """200*2/22, 200*3/37, 0 where both are zero, and 200 where only the forecast is: M4's definition, 0 to 200."""
    assert metrics.smape(Y, F) == pytest.approx((400 / 22 + 600 / 37 + 0 + 200) / 4)


def test_smape_punishes_a_low_forecast_more_than_a_high_one():
    """100 forecast as 50 costs 66.7, 100 forecast as 150 costs 40: sMAPE is not symmetric, whatever its name."""
    low = metrics.smape(np.array([[100.0]]), np.array([[50.0]]))
    high = metrics.smape(np.array([[100.0]]), np.array([[150.0]]))
    assert (low, high) == (pytest.approx(200 / 3), pytest.approx(40.0))


def test_mase_by_hand_averages_series_not_points():
    """Series errors of 2.5 and 2 over scales of 2 and 4 are 1.25 and 0.5, on average 0.875."""
    assert metrics.mase(Y, F, SERIES, SCALE) == 0.875


def test_rmsse_by_hand():
    """Mean squares of 6.5 and 8 over squared scales of 4 and 2 have the roots 1.2748 and 2."""
    assert metrics.rmsse(Y, F, SERIES, SCALE) == pytest.approx((math.sqrt(6.5 / 4) + 2.0) / 2)


def test_pinball_by_hand_is_asymmetric():
    """At level 0.9, 10 too low costs 9 and 10 too high costs 1."""
    too_low = metrics.pinball(np.array([[110.0]]), np.array([[[100.0]]]), [0.9])
    too_high = metrics.pinball(np.array([[90.0]]), np.array([[[100.0]]]), [0.9])
    assert (too_low[0], too_high[0]) == (pytest.approx(9.0), pytest.approx(1.0))


def test_wql_by_hand_matches_gluonts_definition():
    """Levels 0.1 and 0.9 around y=10 and y=30: 2 * (0.2+0.2) / 40 and 2 * (0.5+9.0) / 40, on average 0.2475."""
    y = np.array([[10.0, 30.0]])
    quantiles = np.array([[[8.0, 15.0], [28.0, 20.0]]])
    assert metrics.wql(y, quantiles, [0.1, 0.9]) == pytest.approx((2 * 0.4 / 40 + 2 * 9.5 / 40) / 2)


def test_wql_of_a_point_forecast_is_its_normalised_deviation():
    """With the same number as every quantile at levels symmetric about a half, WQL is sum|e| / sum|y|: 9 / 34."""
    quantiles = np.repeat(F[..., None], 5, axis=-1)
    assert metrics.wql(Y, quantiles, [0.1, 0.25, 0.5, 0.75, 0.9]) == pytest.approx(9 / 34)


def test_coverage_by_hand_counts_the_borders():
    """Of 1, 2, 3 and 4, the interval [2, 3] holds exactly the two on its borders."""
    y = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert metrics.coverage(y, np.full_like(y, 2.0), np.full_like(y, 3.0)) == 0.5


def test_crps_of_a_dense_normal_forecast_approaches_the_closed_form():
    """CRPS of N(0,1) at y is y(2F(y)-1) + 2f(y) - 1/sqrt(pi) (Gneiting & Raftery 2007, eq. 21)."""
    normal, levels = NormalDist(), [(k + 0.5) / 400 for k in range(400)]
    quantiles = np.array([[[normal.inv_cdf(level) for level in levels]]])
    for y in (-1.3, 0.0, 2.0):
        exact = y * (2 * normal.cdf(y) - 1) + 2 * normal.pdf(y) - 1 / math.sqrt(math.pi)
        assert metrics.crps(np.array([[y]]), quantiles, levels) == pytest.approx(exact, rel=5e-3)


def test_crps_of_a_point_forecast_is_its_mae():
    """A distribution of one point scores its absolute error, at unevenly spaced symmetric levels too."""
    quantiles = np.repeat(F[..., None], 5, axis=-1)
    assert metrics.crps(Y, quantiles, [0.1, 0.25, 0.5, 0.75, 0.9]) == pytest.approx(metrics.mae(Y, F))


def test_central_intervals_are_named_in_percent():
    """Levels that mirror each other about a half make an interval; the median and unpaired levels make none."""
    assert metrics.central_intervals([0.05, 0.1, 0.25, 0.5, 0.75, 0.9]) == {"80": (1, 5), "50": (2, 4)}
    assert list(metrics.central_intervals([0.0125, 0.9875])) == ["97.5"]


def test_seasonal_scale_by_hand():
    """Season 2 over 1, 2, 4, 8 before row 4: |4-1| and |8-2| give 4.5 and 22.5; the rows after are not looked at."""
    values = np.array([1.0, 2.0, 4.0, 8.0, 1000.0, 7.0, 7.0, 7.0], dtype=np.float32)
    scale = metrics.seasonal_scale(values, np.ones(8, dtype=bool), np.array([0, 5, 8]), np.array([4, 3]), 2)
    assert (scale.absolute[0], scale.squared[0]) == (4.5, 22.5)
    assert np.isnan(scale.absolute[1])
    assert np.isnan(scale.squared[1])


def _slow_scores(y, forecast, quantiles, levels, mask, series, scale):
    """All metrics once more, point by point."""
    points = [(w, h) for w in range(y.shape[0]) for h in range(y.shape[1]) if mask[w][h]]
    error = {(w, h): float(y[w, h]) - float(forecast[w, h]) for w, h in points}
    smape = [
        200 * abs(e) / (abs(y[p]) + abs(forecast[p])) if abs(y[p]) + abs(forecast[p]) else 0.0 for p, e in error.items()
    ]
    per_series = {}
    for (w, _), e in error.items():
        per_series.setdefault(int(series[w]), []).append(e)
    counted = [s for s in per_series if not math.isnan(scale.absolute[s])]
    loss = 0.0
    for k, level in enumerate(levels):
        for w, h in points:
            d = float(y[w, h]) - float(quantiles[w, h, k])
            loss += 2 * (level * d if d >= 0 else (level - 1) * d)
    return {
        "mae": sum(map(abs, error.values())) / len(points),
        "rmse": math.sqrt(sum(e * e for e in error.values()) / len(points)),
        "smape": sum(smape) / len(points),
        "mase": sum(sum(map(abs, per_series[s])) / len(per_series[s]) / scale.absolute[s] for s in counted)
        / len(counted),
        "rmsse": sum(
            math.sqrt(sum(e * e for e in per_series[s]) / len(per_series[s]) / scale.squared[s]) for s in counted
        )
        / len(counted),
        "wql": loss / len(levels) / sum(abs(float(y[p])) for p in points),
    }


@pytest.mark.parametrize("seed", range(5))
def test_fast_metrics_equal_slow_ones(seed):
    """On random data with gaps, several windows per series and a series without scale, both ways agree."""
    rng = np.random.default_rng(seed)
    y = rng.normal(5, 20, (12, 7)).astype(np.float32)
    forecast = (y + rng.normal(0, 3, y.shape)).astype(np.float32)
    levels = (0.05, 0.3, 0.5, 0.8)
    quantiles = np.sort(rng.normal(5, 20, (12, 7, 4)), axis=-1).astype(np.float32)
    mask, series = rng.random(y.shape) > 0.3, rng.integers(0, 4, 12)
    scale = metrics.SeasonalScale(np.array([1.0, np.nan, 3.0, 0.2]), np.array([2.0, np.nan, 7.0, 0.1]))
    slow = _slow_scores(y, forecast, quantiles, levels, mask, series, scale)
    fast = {
        "mae": metrics.mae(y, forecast, mask),
        "rmse": metrics.rmse(y, forecast, mask),
        "smape": metrics.smape(y, forecast, mask),
        "mase": metrics.mase(y, forecast, series, scale, mask),
        "rmsse": metrics.rmsse(y, forecast, series, scale, mask),
        "wql": metrics.wql(y, quantiles, levels, mask),
    }
    assert fast == pytest.approx(slow, rel=1e-6)


def test_chunked_seasonal_scale_equals_a_loop_over_series(monkeypatch):
    """Chunks smaller than a season, gaps and many series change nothing about the scale."""
    monkeypatch.setattr(metrics, "ROWS_PER_CHUNK", 5)
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 40, 9)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values, observed = rng.normal(0, 1, offsets[-1]).astype(np.float32), rng.random(offsets[-1]) > 0.2
    train_end = lengths - rng.integers(0, 3, 9)
    scale = metrics.seasonal_scale(values, observed, offsets, train_end, 7)
    for i, start in enumerate(offsets[:-1]):
        rows = [t for t in range(7, train_end[i]) if observed[start + t] and observed[start + t - 7]]
        slow = [float(values[start + t]) - float(values[start + t - 7]) for t in rows]
        expected = (np.mean(np.abs(slow)), np.mean(np.square(slow))) if slow else (np.nan, np.nan)
        np.testing.assert_allclose((scale.absolute[i], scale.squared[i]), expected, rtol=1e-12)
