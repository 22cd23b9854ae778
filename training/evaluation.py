"""Rolling-origin backtests of a trained network, and their metrics by the names of the dashboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from models.forecaster import Forecaster
from training.backtest import BacktestResult, run_backtest
from training.data.windows import WindowStore
from training.linear_baseline import fit_linear
from training.origins import build_origins
from training.preparation import Prepared

MAX_BACKTEST_WINDOWS = 5000


def evaluate(prepared: Prepared) -> dict[str, BacktestResult]:
    """Rolling-origin backtests on validation and, if there is one, on test, with the baselines on the same windows."""
    panel, splits, store, horizon = prepared.panel, prepared.splits, prepared.store, prepared.horizon
    linear = fit_linear(panel, store, splits)
    results = {}
    for part in ("val", "test") if prepared.config.data.test_size else ("val",):
        origins = build_origins(panel, splits, part, horizon, max_windows=MAX_BACKTEST_WINDOWS)
        results[part] = run_backtest(
            predictor(prepared.forecaster, store), panel, store, splits, origins,
            prepared.forecaster.config.output_levels, linear=linear,
        )  # fmt: skip
    return results


def predictor(forecaster: Forecaster, store: WindowStore) -> Callable[[Tensor, Tensor], Tensor]:
    """Forecast windows by series and cutoff, in the unit of `y`, on the CPU."""

    @torch.inference_mode()
    def predict(series: Tensor, cutoff: Tensor) -> Tensor:
        forecast: Tensor = forecaster(store.gather(series, cutoff).inputs)
        return forecast.float().cpu()

    return predict


def finite_metrics(backtests: Mapping[str, BacktestResult]) -> dict[str, float | None]:
    """`val/mae` and so on; None where a metric is not defined."""
    return _finite(
        {f"{part}/{name}": value for part, result in backtests.items() for name, value in result.metrics.items()}
    )


def baseline_metrics(backtests: Mapping[str, BacktestResult]) -> dict[str, dict[str, float | None]]:
    """The same for every baseline."""
    table: dict[str, dict[str, float]] = {}
    for part, result in backtests.items():
        for name, scores in result.baselines.items():
            table.setdefault(name, {}).update({f"{part}/{metric}": value for metric, value in scores.items()})
    return {name: _finite(scores) for name, scores in table.items()}


def _finite(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    return {key: float(value) if value is not None and math.isfinite(value) else None for key, value in scores.items()}
