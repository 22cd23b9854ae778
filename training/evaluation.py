"""Rolling-origin backtests of a trained network, and their metrics by the names of the dashboard."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.forecaster import Forecaster
from training.backtest import BacktestResult, run_backtest
from training.data.windows import WindowStore
from training.gradients.evidence import Outcome
from training.linear_baseline import LinearBaseline, fit_linear
from training.origins import Part, build_origins
from training.preparation import Prepared

MAX_BACKTEST_WINDOWS = 5000


class Evaluation:
    """Rolling-origin backtests of one network; the linear baseline is fitted once for all of them.

    Args:
        prepared: Data and network.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared

    @cached_property
    def linear(self) -> LinearBaseline:
        """Fitted on the training rows."""
        return fit_linear(self.prepared.panel, self.prepared.store, self.prepared.splits)

    def run(self, part: Part, max_windows: int = MAX_BACKTEST_WINDOWS) -> BacktestResult:
        """Backtest the network as it is now, with the baselines on the same windows.

        Args:
            part: `val` or `test`.
            max_windows: Fewer origins are taken, evenly, where there are more windows.

        Returns:
            Forecasts and scores.
        """
        prepared = self.prepared
        panel, splits, store = prepared.panel, prepared.splits, prepared.store
        origins = build_origins(panel, splits, part, prepared.horizon, max_windows=max_windows)
        return run_backtest(
            predictor(prepared.forecaster, store), panel, store, splits, origins,
            prepared.forecaster.config.output_levels, linear=self.linear,
        )  # fmt: skip

    def run_all(self) -> dict[str, BacktestResult]:
        """Validation and, if there is one, test."""
        parts: tuple[Part, ...] = ("val", "test") if self.prepared.config.data.test_size else ("val",)
        return {part: self.run(part) for part in parts}


def measure_outcome(result: BacktestResult, prepared: Prepared, step: int) -> Outcome:
    """Skill beside every forecast that learns nothing, the window's mean and the series' median among them.

    Args:
        result: Backtest on validation.
        prepared: Where its windows are.
        step: Update after which it was made.

    Returns:
        Errors as MASE, or as MAE where no series has a scale.
    """
    scores = {name: dict(values) for name, values in result.baselines.items()}
    scores["mean"] = result.point_scores(_window_means(result, prepared.store))
    scores["median"] = result.point_scores(_training_medians(result, prepared))
    metric: Literal["mase", "mae"] = "mase" if math.isfinite(result.metrics["mase"]) else "mae"
    errors = {name: values[metric] for name, values in scores.items() if math.isfinite(values[metric])}
    return Outcome(metric=metric, val_error=result.metrics[metric], baseline_error=errors, step=step)


def _window_means(result: BacktestResult, store: WindowStore) -> Float[np.ndarray, "W H"]:
    series, cutoff = (torch.from_numpy(np.asarray(part)) for part in (result.origins.series, result.origins.cutoff))
    inputs = store.gather(series, cutoff).inputs
    count = inputs.observed_mask.sum(dim=1).clamp(min=1)
    means = torch.where(inputs.observed_mask, inputs.context, 0.0).double().sum(dim=1) / count
    return np.repeat(means.cpu().numpy()[:, None], result.y.shape[1], axis=1)


def _training_medians(result: BacktestResult, prepared: Prepared) -> Float[np.ndarray, "W H"]:
    """The forecast with the smallest absolute error among those that know nothing but the series."""
    panel, ends = prepared.panel, prepared.splits.train_end
    medians = np.full(len(ends), np.nan)
    for series in np.unique(np.asarray(result.origins.series)):
        rows = slice(int(panel.offsets[series]), int(panel.offsets[series] + ends[series]))
        values = np.asarray(panel.values[rows])[np.asarray(panel.observed[rows])]
        medians[series] = np.median(values) if len(values) else np.nan
    return np.repeat(medians[np.asarray(result.origins.series)][:, None], result.y.shape[1], axis=1)


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
