"""Rolling origins with refits: each fit sees the rows before its origins and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training.config import build_config
from training.pipeline import build_fit
from training.preparation import prepare
from training.progress import SILENT_PROGRESS
from training.rolling import RollingPlan, reserve_test, roll, train_and_roll
from training.run_directory import RunDirectory
from training.tracking.tracker import NOOP_TRACKER

HORIZON, STEP = 6, 4


def configuration(path: Path, **data: object):
    return build_config(
        {
            "data": {"path": str(path), "freq": "h", "season_length": 24, "test_size": HORIZON + 3 * STEP, **data},
            "model": {"horizon": HORIZON, "context_length": 24, "hidden_size": 4, "initialization": "torch"},
            "optimizer": {"schedule": "constant", "learning_rate": 0.01},
            "fit": {"max_steps": 6, "batch_size": 8, "val_check_steps": 3},
            "gradients": {"preset": "off", "need_steps": 24},
        }
    )


def write_waves(path: Path, spoilt_from: int | None = None) -> Path:
    """200 hours of a daily wave with noise; rows from `spoilt_from` on hold something else altogether."""
    hours = np.arange(200)
    y = 10 + np.sin(2 * np.pi * hours / 24) + np.random.default_rng(1).normal(0, 0.2, 200)
    if spoilt_from is not None:
        y[spoilt_from:] = 1000.0 + hours[spoilt_from:] ** 1.5
    ds = pd.date_range("2024-01-01", periods=200, freq="h")
    pd.DataFrame({"unique_id": "s", "ds": ds, "y": y}).to_csv(path, index=False)
    return path


def rolled(path: Path, mode: str, directory: Path):
    config = configuration(path)
    prepared = prepare(config)
    run = RunDirectory.create(prepared.config, directory)
    build_fit(prepared, run, NOOP_TRACKER, SILENT_PROGRESS)[0].run()
    return roll(prepared, run, RollingPlan(step_size=STEP, refit=mode, steps=4))


@pytest.mark.parametrize("mode", ["never", "scratch", "warm"])
def test_nothing_after_an_origin_is_seen_by_the_fit_that_forecasts_it(tmp_path, mode):
    """Rows from the third of four origins on are replaced: what the first three forecast stays the same to the last bit."""
    third = 200 - HORIZON - STEP
    plain = rolled(write_waves(tmp_path / "a.csv"), mode, tmp_path / "one")
    spoilt = rolled(write_waves(tmp_path / "b.csv", third), mode, tmp_path / "two")
    assert plain.origins.cutoff.tolist() == [182, 186, 190, 194]
    np.testing.assert_array_equal(plain.quantiles[:3], spoilt.quantiles[:3])
    np.testing.assert_array_equal(plain.baseline_forecasts["linear"][:3], spoilt.baseline_forecasts["linear"][:3])
    assert (plain.quantiles[3] != spoilt.quantiles[3]).all()
    np.testing.assert_array_equal(plain.scale.absolute, spoilt.scale.absolute)


def test_a_refit_forecasts_other_than_the_first_fit_and_only_from_its_origin_on(tmp_path):
    """Without refits and with them the first origin is forecast alike, every later one is not."""
    path = write_waves(tmp_path / "a.csv")
    never, warm = (rolled(path, mode, tmp_path / mode) for mode in ("never", "warm"))
    scratch = rolled(path, "scratch", tmp_path / "scratch")
    for refitted in (warm, scratch):
        np.testing.assert_array_equal(never.quantiles[0], refitted.quantiles[0])
        assert all((never.quantiles[k] != refitted.quantiles[k]).any() for k in (1, 2, 3))
    assert (warm.quantiles[1] != scratch.quantiles[1]).any()


def test_a_warm_fit_never_ends_worse_than_it_began(tmp_path):
    """At a rate that wrecks the network, the weights it started from are what it ends with."""
    config = configuration(write_waves(tmp_path / "a.csv"))
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"learning_rate": 50.0})})
    prepared = prepare(config)
    before = {name: tensor.clone() for name, tensor in prepared.forecaster.state_dict().items()}
    run = RunDirectory.create(config, tmp_path / "run")
    state = build_fit(prepared, run, NOOP_TRACKER, SILENT_PROGRESS, keep_start=True)[0].run()
    assert state.best_step == 0
    assert all((before[name] == tensor).all() for name, tensor in prepared.forecaster.state_dict().items())


def test_test_steps_are_set_aside_before_training(tmp_path):
    """Without data.test_size, a plan of 3 origins 4 steps apart reserves 6 + 2 * 4 steps; given ones stay."""
    path = write_waves(tmp_path / "a.csv")
    config = configuration(path, test_size=0)
    assert reserve_test(config, RollingPlan(n_windows=3, step_size=STEP)).data.test_size == 14
    assert reserve_test(config, RollingPlan()).data.test_size == 6 * 6  # a fifth of 200 rows holds six of six steps
    assert reserve_test(configuration(path, test_size=50), RollingPlan(n_windows=3)).data.test_size == 50


def test_files_of_a_rolling_backtest_lie_in_the_run(tmp_path, monkeypatch):
    """Forecasts, scores per series and per step are written, say the same as the result, and no refit is left behind."""
    monkeypatch.chdir(tmp_path)
    config = configuration(write_waves(tmp_path / "a.csv"))
    plan = RollingPlan(step_size=STEP, refit="warm", every=2, steps=2)
    trained, result = train_and_roll(config, plan, output=tmp_path / "run")
    folder = tmp_path / "run" / "backtest"
    forecasts = pd.read_parquet(folder / "rolling.parquet")
    steps = pd.read_parquet(folder / "rolling_per_horizon.parquet")
    series = pd.read_parquet(folder / "rolling_per_series.parquet")
    assert len(forecasts) == 4 * HORIZON
    error = (forecasts["y"] - forecasts["mean"]).abs()
    expected = error.groupby(forecasts.groupby("cutoff").cumcount() + 1).mean()
    np.testing.assert_allclose(steps["mae"], expected, rtol=1e-5)
    naive = (forecasts["y"] - forecasts["naive"]).abs().groupby(forecasts.groupby("cutoff").cumcount()).mean()
    np.testing.assert_allclose(steps["naive_mae"], naive, rtol=1e-5)
    assert series["mae"].item() == pytest.approx(result.metrics["mae"])
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "run" / "refits").exists()
    assert trained.model is None

