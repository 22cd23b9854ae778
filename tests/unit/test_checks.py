"""Checks find what was planted, and stay silent where nothing is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from training.backtest import run_backtest
from training.checks import (
    CHECKS,
    check_covariates,
    check_demand,
    check_flat_forecast,
    check_shift,
    check_trained_rows,
    run_checks,
)
from training.config import DataConfig
from training.data.panel import build_panel
from training.data.splits import build_splits
from training.data.windows import WindowStore
from training.origins import build_origins

LENGTH, HORIZON = 400, 6


def waves(seed=0):
    rng = np.random.default_rng(seed)
    return 50 + 8 * np.sin(2 * np.pi * np.arange(LENGTH) / 24) + rng.normal(0, 1, LENGTH)


def panel_of(y, **covariates):
    frame = pd.DataFrame({"unique_id": "s", "ds": pd.date_range("2024-01-01", periods=len(y), freq="h"), "y": y})
    for name, values in covariates.items():
        frame[name] = values
    roles = {"futr_exog": [n for n in covariates if n[0] == "f"], "hist_exog": [n for n in covariates if n[0] == "h"]}
    config = DataConfig.model_validate({"freq": "h", "season_length": 24, "calendar": "none", "target_col": "load"} | roles)
    panel = build_panel(frame, config, horizon=HORIZON)
    return panel, build_splits(panel, HORIZON, 24, 24)


def backtest(panel, splits, move):
    store = WindowStore(panel, 24, HORIZON)

    def predict(series, cutoff):
        yesterday = store.gather(series, cutoff).inputs.context[:, :HORIZON]
        forecast = yesterday.mean(dim=1, keepdim=True) + move * (yesterday - yesterday.mean(dim=1, keepdim=True))
        return forecast[..., None].expand(-1, -1, 3)

    origins = build_origins(panel, splits, "test", HORIZON)
    return run_backtest(predict, panel, store, splits, origins, (0.1, 0.5, 0.9), ["naive", "seasonal_naive"])


@pytest.mark.parametrize(("move", "codes"), [(0.0, ["flat_forecast"]), (0.05, ["flat_forecast"]), (1.0, [])])
def test_a_flat_forecast_of_moving_data_is_found(move, codes):
    """A forecast that follows a twentieth of the wave is flat, one that follows it is not."""
    found = list(check_flat_forecast(backtest(*panel_of(waves()), move), "test"))
    assert [check.code for check in found] == codes
    assert all(check.severity == "warning" and "baselines that move do better" in check.message for check in found)


def test_flat_may_be_right_for_a_random_walk():
    """Where the naive forecast is the best baseline, a flat forecast is worth a remark, not a warning."""
    walk = 100 + np.random.default_rng(2).normal(0, 1, LENGTH).cumsum()
    (found,) = check_flat_forecast(backtest(*panel_of(walk), 0.0), "test")
    assert found.severity == "info"


def shifted(y, steps):
    """The series `steps` later (negative: earlier) than it is."""
    return pd.Series(y).shift(-steps).bfill().ffill().to_numpy()


@pytest.mark.parametrize(
    ("name", "lead", "words"),
    [("f", 0, "at the same time"), ("f", 2, "2 steps later"), ("f", -3, "3 steps earlier"), ("h", 1, "1 step later")],
)
def test_a_covariate_that_knows_the_answer_is_found_with_its_lead(name, lead, words):
    """Scaled and moved by an offset, the target itself is found as covariate, whatever its lead."""
    y = waves()
    (found,) = check_covariates(*panel_of(y, **{name: 3.0 * shifted(y, lead) - 7.0}))
    assert (found.code, found.where) == ("covariate_leak", name)
    assert words in found.message


def test_what_is_known_in_time_is_no_leak():
    """The present value for the past only, a lag of a whole horizon for the future, and a noisy relative are fair."""
    y = waves()
    noisy = y + np.random.default_rng(9).normal(0, 1, LENGTH)
    assert list(check_covariates(*panel_of(y, h=y, f=shifted(y, -HORIZON), f2=noisy))) == []


def test_a_slow_series_is_not_taken_for_its_own_lead():
    """Neighbours of a smooth series correlate at 0.9999; its present value is still no lead of it."""
    slow = np.random.default_rng(3).normal(0, 1, LENGTH).cumsum() + 1e3
    assert list(check_covariates(*panel_of(slow, h=slow))) == []


def test_shifts_of_level_and_spread_are_found_and_seasons_and_trends_are_none():
    """Test rows ten deviations up, or five times as wild, are found; a season and a trend go on as before."""
    y = waves()
    trend = y + 0.3 * np.arange(LENGTH)
    for calm in (y, trend):
        assert list(check_shift(*panel_of(calm), "test")) == []
    up, wild = y.copy(), y.copy()
    up[-24:] += 80
    wild[-24:] = y[:-24].mean() + 5 * (y[-24:] - y[-24:].mean())
    assert [check.code for check in check_shift(*panel_of(up), "test")] == ["level_shift"]
    assert [check.code for check in check_shift(*panel_of(wild), "test")] == ["spread_shift"]
    assert list(check_shift(*panel_of(up), "val")) == []


def test_origins_in_the_training_rows_are_counted():
    """Of four windows, two begin at or before the last timestamp that the model was trained on."""
    panel, splits = panel_of(waves())
    result = backtest(panel, splits, 1.0)
    second = panel.timestamps(0, int(result.origins.cutoff[1]), int(result.origins.cutoff[1]) + 1)[0]
    (found,) = check_trained_rows(result, str(second))
    assert "2 of 4 windows" in found.message
    assert list(check_trained_rows(result, str(panel.timestamps(0, 0, 1)[0]))) == []


def test_series_that_rest_are_told_what_suits_them():
    """Demands in a third of the steps as rows of 0, the same with those rows absent; a wave is told nothing."""
    demand = np.where(np.arange(LENGTH) % 3 == 0, 4.0, 0.0)
    rest, sparse = panel_of(demand), panel_of(np.where(demand > 0, demand, np.nan))
    (zeros,) = check_demand(rest[0], backtest(*rest, 1.0))
    (absent,) = check_demand(sparse[0], backtest(*sparse, 1.0))
    assert (zeros.severity, "model.scaler=mean_abs" in zeros.message) == ("info", True)
    assert (absent.severity, "data.fill=zero" in absent.message) == ("warning", True)
    wave = panel_of(waves())
    assert list(check_demand(wave[0], backtest(*wave, 1.0))) == []


def test_every_code_is_listed():
    """What `run_checks` reports stands in the reference."""
    y = waves()
    y[-24:] += 80
    panel, splits = panel_of(y, f=y)
    found = run_checks(panel, splits, {"test": backtest(panel, splits, 0.0)})
    assert {check.code for check in found} == {"flat_forecast", "covariate_leak", "level_shift"}
    assert {check.code for check in found} <= set(CHECKS)
