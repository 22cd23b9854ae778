"""The linear baseline against laws it must learn exactly and against least squares done slowly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from training import linear_baseline
from training.config import DataConfig
from training.data.panel import build_panel
from training.data.splits import build_splits
from training.data.windows import WindowStore
from training.linear_baseline import fit_linear
from training.ridge import NormalEquations, Rows

CONTEXT, HORIZON, TEST = 12, 4, 24


def prepare(*series, covariate=None, scale=1.0, shift=0.0, season_length=5):
    """Panel, store and splits over integer time; NaN is missing."""
    frames = [
        pd.DataFrame({"unique_id": f"s{k}", "ds": np.arange(len(y)), "y": scale * np.asarray(y, dtype=float) + shift})
        for k, y in enumerate(series)
    ]
    exog = ()
    if covariate is not None:
        frames = [frame.assign(x=covariate[: len(frame)]) for frame in frames]
        exog = ("x",)
    config = DataConfig(freq="1", season_length=season_length, calendar="none", futr_exog=exog)
    panel = build_panel(pd.concat(frames, ignore_index=True), config, horizon=HORIZON)
    return panel, WindowStore(panel, CONTEXT, HORIZON), build_splits(panel, HORIZON, 8, TEST)


def windows_of_test_part(splits):
    cutoff = np.arange(int(splits.val_end[0]), int(splits.val_end[0]) + TEST - HORIZON)
    return np.zeros(len(cutoff), dtype=np.int64), cutoff


def targets(panel, cutoff):
    return np.stack([panel.values[c : c + HORIZON] for c in cutoff])


def waves(length=400):
    t = np.arange(length)
    return 50 + 10 * np.sin(2 * np.pi * t / 7.3) + 4 * np.sin(2 * np.pi * t / 3.1 + 1)


def test_learns_a_linear_recurrence():
    """Two sine waves obey a linear recurrence: the forecast is right to a few percent of their amplitude."""
    panel, store, splits = prepare(waves())
    series, cutoff = windows_of_test_part(splits)
    error = fit_linear(panel, store, splits).predict(series, cutoff) - targets(panel, cutoff)
    assert np.abs(error).mean() < 0.2


def test_uses_known_future_covariates():
    """Where y is noise that a known-future column announces, the column more than halves the error."""
    x = np.random.default_rng(0).normal(0, 1, 400)
    panel, store, splits = prepare(3 + 2 * x, covariate=x)
    series, cutoff = windows_of_test_part(splits)
    error = fit_linear(panel, store, splits).predict(series, cutoff) - targets(panel, cutoff)
    blind_panel, blind_store, blind_splits = prepare(3 + 2 * x)
    blind = fit_linear(blind_panel, blind_store, blind_splits).predict(series, cutoff) - targets(panel, cutoff)
    assert np.abs(error).mean() < 0.45 * np.abs(blind).mean()


def test_rows_after_training_never_change_the_fit():
    """Validation and test values may be anything: the weights stay the same to the last bit."""
    y = waves()
    other = y.copy()
    other[-(TEST + 8) :] = 1e4
    fits = [fit_linear(*prepare(values)) for values in (y, other)]
    assert torch.equal(fits[0].weights, fits[1].weights)
    assert fits[0].ridge == fits[1].ridge


def test_forecast_moves_with_the_unit_of_y():
    """f(a*x + b) = a*f(x) + b: temperatures in Fahrenheit give the forecast of those in Celsius."""
    rng = np.random.default_rng(1)
    y = rng.normal(0, 1, 300).cumsum()
    panel, store, splits = prepare(y)
    series, cutoff = windows_of_test_part(splits)
    celsius = fit_linear(panel, store, splits).predict(series, cutoff)
    fahrenheit = fit_linear(*prepare(y, scale=1.8, shift=32.0)).predict(series, cutoff)
    np.testing.assert_allclose(fahrenheit, 1.8 * celsius + 32.0, rtol=1e-3, atol=1e-2)


def test_constant_series_is_forecast_as_itself():
    """A series that never moves is forecast at its level, beside one that moves a lot."""
    panel, store, splits = prepare(waves(), np.full(400, 7.0))
    forecast = fit_linear(panel, store, splits).predict(np.array([1]), splits.val_end[1:2])
    np.testing.assert_allclose(forecast, 7.0, rtol=1e-3)


def test_context_without_a_value_is_not_a_forecast():
    """Where the whole context is missing, the baseline says so instead of forecasting zero."""
    y = waves()
    y[-TEST - CONTEXT - 10 : -TEST] = np.nan
    panel, store, splits = prepare(y)
    assert np.isnan(fit_linear(panel, store, splits).predict(np.array([0]), splits.val_end)).all()


def _rows(rng, windows, mask_share):
    features = torch.from_numpy(np.c_[rng.normal(0, 1, (windows, 6)), np.ones(windows)]).float()
    target = torch.from_numpy(rng.normal(0, 1, (windows, 3))).float() + features[:, :3]
    mask = torch.from_numpy(rng.random((windows, 3)) >= mask_share)
    weight = torch.from_numpy(rng.uniform(0.2, 2, (windows, 1))).float()
    return Rows(features, torch.where(mask, target, 0.0), mask, weight)


def _slow_ridge(rows, ridge):
    """Weighted ridge by least squares on stacked rows, one horizon step at a time, observed targets only."""
    columns = []
    unit = float((rows.weight.double() ** 2).sum())
    penalty = np.sqrt(np.diag([ridge * unit] * 6 + [1e-8 * unit]))
    for step in range(3):
        real = rows.target_mask[:, step].numpy()
        weight = rows.weight.double().numpy()[real]
        left = np.r_[rows.features.double().numpy()[real] * weight, penalty]
        right = np.r_[rows.target.double().numpy()[real, step] * weight[:, 0], np.zeros(7)]
        columns.append(np.linalg.lstsq(left, right, rcond=None)[0])
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("ridge", [1e-4, 1e-1])
def test_closed_form_equals_least_squares(ridge):
    """Normal equations added up from two parts, in chunks, give the ridge solution of a least-squares solver."""
    rows = _rows(np.random.default_rng(2), 5000, mask_share=0.0)
    first = torch.arange(5000) < 1234
    parts = [NormalEquations.of(rows.select(chosen)) for chosen in (first, ~first)]
    weights = parts[0].with_rows_of(parts[1]).solve(ridge).numpy()
    np.testing.assert_allclose(weights, _slow_ridge(rows, ridge), atol=2e-5)


def test_missing_targets_do_not_pull_towards_zero():
    """With a fifth of the targets missing, the solution is that of the observed ones, not one with zeros in it."""
    rows = _rows(np.random.default_rng(3), 5000, mask_share=0.2)
    weights = NormalEquations.of(rows).solve(1e-3).numpy()
    np.testing.assert_allclose(weights, _slow_ridge(rows, 1e-3), atol=1e-3)


def test_long_covariate_blocks_are_averaged_over_steps(monkeypatch):
    """Ten steps of two channels squeezed into eight columns become means over blocks of three, the last of one."""
    monkeypatch.setattr(linear_baseline, "MAX_COVARIATE_COLUMNS", 8)
    covariates = torch.arange(10.0)[None, :, None] * torch.tensor([1.0, 10.0])
    assert linear_baseline._pool(covariates).tolist() == [[1.0, 4.0, 7.0, 9.0, 10.0, 40.0, 70.0, 90.0]]


def test_same_seed_same_fit():
    """The sample of training windows is seeded."""
    panel, store, splits = prepare(waves())
    first, second = (fit_linear(panel, store, splits, num_windows=100, seed=5) for _ in range(2))
    assert first.num_windows == 100
    assert torch.equal(first.weights, second.weights)
