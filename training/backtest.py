"""Rolling-origin evaluation of any forecaster, always beside naive, seasonal naive and linear on the same windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from pyarrow import parquet
from torch import Tensor

from models.errors import GradcastError
from training import metrics
from training.backtest_tables import forecast_table, format_backtest, per_series_table
from training.baselines import BASELINES, naive, seasonal_naive
from training.data.panel import Panel
from training.data.splits import Splits
from training.data.windows import WindowStore
from training.errors import DataError, Problem
from training.linear_baseline import LinearBaseline, fit_linear
from training.metrics import SeasonalScale
from training.origins import Origins, target_rows

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["BacktestError", "BacktestResult", "format_backtest", "median_of", "run_backtest"]
WINDOWS_PER_BATCH = 512
Predict = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BacktestResult:
    """Forecasts of every window beside what happened, and the scores of both network and baselines.

    Attributes:
        panel: The series that were forecast.
        origins: The windows, along W.
        quantile_levels: Levels along Q.
        y: Targets in their own unit; 0 where not observed.
        observed: True where the target is real.
        quantiles: Forecast quantiles in the unit of y.
        baseline_forecasts: Point forecasts per baseline.
        scale: Denominators of MASE and RMSSE per series of the panel, measured on training rows.
    """

    panel: Panel
    origins: Origins
    quantile_levels: tuple[float, ...]
    y: Float[np.ndarray, "W H"]
    observed: Bool[np.ndarray, "W H"]
    quantiles: Float[np.ndarray, "W H Q"]
    baseline_forecasts: dict[str, Float[np.ndarray, "W H"]]
    scale: SeasonalScale = field(repr=False)

    @cached_property
    def point(self) -> Float[np.ndarray, "W H"]:
        """The point forecast: the median, between the two nearest levels where 0.5 itself was not forecast."""
        return median_of(self.quantiles, self.quantile_levels)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Scores of the network: mae, rmse, smape, mase, rmsse, wql, crps and one coverage per central interval.

        `mae`, `rmse`, `crps` have the unit of y, `smape` is 0 to 200, coverages are shares; NaN where undefined.
        """
        scores = self.point_scores(self.point)
        scores["wql"] = metrics.wql(self.y, self.quantiles, self.quantile_levels, self.observed)
        scores["crps"] = metrics.crps(self.y, self.quantiles, self.quantile_levels, self.observed)
        for percent, (lower, upper) in metrics.central_intervals(self.quantile_levels).items():
            inside = metrics.coverage(self.y, self.quantiles[..., lower], self.quantiles[..., upper], self.observed)
            scores[f"coverage_{percent}"] = inside
        return scores

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores per baseline. Its one forecast stands for every quantile: wql is sum|e| / sum|y|, crps the MAE."""
        size = metrics.absolute_mean(self.y, self.observed)
        scored = {name: self.point_scores(forecast) for name, forecast in self.baseline_forecasts.items()}
        for scores in scored.values():
            scores["wql"] = scores["mae"] / size if size > 0.0 else float("nan")
            scores["crps"] = scores["mae"]
        return scored

    @property
    def num_scored_series(self) -> int:
        """Series that count in MASE and RMSSE."""
        return int(metrics.scored_series(self.y, self.origins.series, self.scale, self.observed).sum())

    @property
    def num_skipped_series(self) -> int:
        """Forecast series left out of MASE and RMSSE: no usable scale in their training rows, or no real target."""
        return len(np.unique(self.origins.series)) - self.num_scored_series

    def point_scores(self, forecast: Float[np.ndarray, "W H"]) -> dict[str, float]:
        """mae, rmse, smape, mase and rmsse of any point forecast of the same windows."""
        y, mask, series = self.y, self.observed, self.origins.series
        return {
            "mae": metrics.mae(y, forecast, mask),
            "rmse": metrics.rmse(y, forecast, mask),
            "smape": metrics.smape(y, forecast, mask),
            "mase": metrics.mase(y, forecast, series, self.scale, mask),
            "rmsse": metrics.rmsse(y, forecast, series, self.scale, mask),
        }

    def per_series_metrics(self) -> pd.DataFrame:
        """Scores of every series: `unique_id, num_windows, num_targets, mae, rmse, smape, mase, rmsse, wql`."""
        frame: pd.DataFrame = per_series_table(self).to_pandas()
        return frame

    def to_table(self) -> pa.Table:
        """Every forecast step as one row: `unique_id, ds, cutoff, y, mean`, a column per level, one per baseline."""
        return forecast_table(self)

    def to_frame(self) -> pd.DataFrame:
        """`to_table` as a DataFrame; `mean` is the point forecast, `cutoff` the last known timestamp."""
        frame: pd.DataFrame = self.to_table().to_pandas()
        return frame

    def write_parquet(self, path: Path) -> None:
        """Write `to_table` to a parquet file, whole or not at all.

        Args:
            path: File to create or replace; its folder is created.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        parquet.write_table(self.to_table(), partial, compression="zstd")
        partial.replace(path)


def median_of(quantiles: Float[np.ndarray, "W H Q"], levels: Sequence[float]) -> Float[np.ndarray, "W H"]:
    """The median, interpolated between the levels around 0.5; the nearest level where 0.5 lies outside."""
    upper = int(np.searchsorted(levels, 0.5))
    if upper == 0 or upper == len(levels) or levels[upper] == 0.5:
        return quantiles[..., min(upper, len(levels) - 1)]
    share = (0.5 - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return np.asarray(quantiles[..., upper - 1] * (1.0 - share) + quantiles[..., upper] * share)


def run_backtest(
    predict: Predict,
    panel: Panel,
    store: WindowStore,
    splits: Splits,
    origins: Origins,
    quantile_levels: Sequence[float],
    baselines: Sequence[str] = BASELINES,
    *,
    linear: LinearBaseline | None = None,
    batch_size: int = WINDOWS_PER_BATCH,
    on_progress: Progress | None = None,
) -> BacktestResult:
    """Forecast every origin with the network and the baselines.

    Args:
        predict: Maps series and cutoffs (int64, along W) to quantiles "W H Q" in the unit of y.
        panel: The series.
        store: Windows over the panel; the linear baseline reads the same windows as the network.
        splits: Rows before `train_end` scale MASE and fit the linear baseline.
        origins: What to forecast, from `build_origins`.
        quantile_levels: Levels along Q of the forecasts.
        baselines: Names out of `BASELINES`.
        linear: A linear baseline that is fitted already; None fits one if it is asked for.
        batch_size: Windows per call of `predict`.
        on_progress: Called with windows done and windows in all after every batch.

    Returns:
        Forecasts and scores.

    Raises:
        DataError: If no target of any origin was observed.
        BacktestError: If a baseline is unknown or `predict` answers in another shape.
    """
    _check_baselines(baselines)
    rows, observed = target_rows(panel, origins.series, origins.cutoff, origins.horizon)
    if not observed.any():
        raise DataError([Problem("no_targets", f"{origins.part} windows", "have no observed value to score.")])
    shape = (len(origins), origins.horizon, len(quantile_levels))
    quantiles = _predict_all(predict, origins, shape, batch_size, on_progress)
    return BacktestResult(
        panel=panel,
        origins=origins,
        quantile_levels=tuple(quantile_levels),
        y=np.where(observed, np.take(panel.values, rows), np.float32(0.0)),
        observed=observed,
        quantiles=quantiles,
        baseline_forecasts=_baseline_forecasts(panel, store, splits, origins, baselines, linear),
        scale=metrics.seasonal_scale(
            panel.values, panel.observed, panel.offsets, splits.train_end, panel.season_length
        ),
    )


class BacktestError(GradcastError):
    """A backtest that cannot be run as asked."""

    code = "backtest_invalid"


def _check_baselines(baselines: Sequence[str]) -> None:
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise BacktestError("baselines", f"out of {', '.join(BASELINES)}", repr(unknown[0]))


def _predict_all(
    predict: Predict, origins: Origins, shape: tuple[int, int, int], batch_size: int, on_progress: Progress | None
) -> Float[np.ndarray, "W H Q"]:
    series, cutoff = torch.from_numpy(origins.series), torch.from_numpy(origins.cutoff)
    quantiles = np.empty(shape, dtype=np.float32)
    for begin in range(0, len(origins), batch_size):
        part = slice(begin, begin + batch_size)
        forecast = predict(series[part], cutoff[part]).detach().to("cpu", torch.float32).numpy()
        expected = quantiles[part].shape
        if forecast.shape != expected:
            raise BacktestError("predict", f"a function that answers with shape {expected}", f"one of {forecast.shape}")
        quantiles[part] = forecast
        if on_progress is not None:
            on_progress(min(begin + batch_size, len(origins)), len(origins))
    return quantiles


def _baseline_forecasts(
    panel: Panel,
    store: WindowStore,
    splits: Splits,
    origins: Origins,
    names: Sequence[str],
    linear: LinearBaseline | None,
) -> dict[str, Float[np.ndarray, "W H"]]:
    series, cutoff, horizon = origins.series, origins.cutoff, origins.horizon
    forecasts: dict[str, Float[np.ndarray, "W H"]] = {}
    for name in names:
        if name == "naive":
            forecasts[name] = naive(panel, series, cutoff, horizon)
        elif name == "seasonal_naive":
            forecasts[name] = seasonal_naive(panel, series, cutoff, horizon)
        else:
            fitted = fit_linear(panel, store, splits) if linear is None else linear
            forecast = fitted.predict(series, cutoff)
            forecasts[name] = np.where(np.isnan(forecast), naive(panel, series, cutoff, horizon), forecast)
    return forecasts
