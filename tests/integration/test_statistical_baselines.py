"""Statistical baselines: fitted to what was known, within their time, and missed in a sentence where they are not installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch

from training import extras
from training.backtest import BacktestError, run_backtest
from training.config import DataConfig
from training.data.panel import build_panel
from training.data.splits import build_splits
from training.data.windows import WindowStore
from training.errors import ConfigurationError
from training.origins import build_origins
from training.statistical_baselines import known_values, validate_baselines, with_statistical_baselines

HORIZON, SEASON = 3, 4
LEVELS = (0.1, 0.5, 0.9)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("statsforecast") is None, reason="needs the extra gradcast[baselines]"
)


def backtest(y, n_windows=2):
    frame = pd.DataFrame({"unique_id": "s", "ds": pd.date_range("2024-01-01", periods=len(y), freq="D"), "y": y})
    panel = build_panel(frame, DataConfig(freq="D", season_length=SEASON, calendar="none"), horizon=HORIZON)
    store, splits = WindowStore(panel, 8, HORIZON), build_splits(panel, HORIZON, 6, 6)
    origins = build_origins(panel, splits, "test", HORIZON, n_windows=n_windows)
    return run_backtest(lambda s, _: torch.zeros(len(s), HORIZON, 3), panel, store, splits, origins, LEVELS, ["naive"])


def waves(length=60):
    return 10 + 3 * np.sin(np.pi * np.arange(length) / 2) + np.random.default_rng(0).normal(0, 0.3, length)


def test_seasonal_mean_by_hand():
    """The forecast of a step is the mean of the same step of the four seasons before the origin, for every quantile."""
    y = waves()
    result = with_statistical_baselines(backtest(y), ["seasonal_mean"])
    for window, cutoff in enumerate(result.origins.cutoff):
        expected = [np.mean([y[cutoff + step - SEASON * k] for k in (1, 2, 3, 4)]) for step in range(HORIZON)]
        np.testing.assert_allclose(result.baseline_forecasts["seasonal_mean"][window], expected, rtol=1e-5)
    assert result.baselines["seasonal_mean"]["crps"] == result.baselines["seasonal_mean"]["mae"]
    assert "coverage_80" not in result.baselines["seasonal_mean"]


def test_theta_brings_quantiles_and_sees_nothing_after_the_origin():
    """Its 80 % interval lies around its mean and is scored; rows from the second origin on do not move the first."""
    y = waves()
    plain = with_statistical_baselines(backtest(y), ["theta"])
    spoilt = with_statistical_baselines(backtest(np.where(np.arange(60) >= 57, 1e4, y)), ["theta"])
    quantiles = plain.baseline_quantiles["theta"]
    assert (np.diff(quantiles, axis=-1) > 0).all()
    np.testing.assert_array_equal(quantiles[..., 1], plain.baseline_forecasts["theta"])
    np.testing.assert_array_equal(quantiles[0], spoilt.baseline_quantiles["theta"][0])
    assert 0.0 <= plain.baselines["theta"]["coverage_80"] <= 1.0
    assert plain.tests["theta"].num_origins == 2


def test_gaps_are_interpolated_between_real_values_and_carried_on_at_the_end():
    """A gap inside becomes a straight line; one before the origin repeats the last real value."""
    y = np.arange(60.0)
    y[[10, 11, 52, 53]] = np.nan
    known = known_values(backtest(y), 0)
    np.testing.assert_allclose(known, np.r_[np.arange(52), 51.0, 51.0])


def test_what_is_not_done_in_time_is_left_out_and_said():
    """With no time at all the baseline is absent from the tables, and the sentence names what would help."""
    said = []
    result = with_statistical_baselines(backtest(waves()), ["croston"], seconds=-1.0, say=said.append)
    assert list(result.baselines) == ["naive"]
    assert "0 of 2 windows done" in said[0]
    assert "--baseline-seconds" in said[0]


def test_a_misspelt_name_and_a_missing_package_are_sentences(monkeypatch):
    """Both are refused before anything is trained; the second says what to install."""
    with pytest.raises(BacktestError, match="out of theta, ets"):
        validate_baselines(["teta"])
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'gradcast\[baselines\]'"):
        validate_baselines(["theta"])
