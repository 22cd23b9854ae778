"""Rolling-origin evaluation of any forecaster, always beside naive, seasonal naive and linear on the same windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
from training.backtest_tables import forecast_table, per_horizon_table, per_series_table
from training.baselines import BASELINES, naive, seasonal_naive
from training.data.panel import Panel
from training.data.splits import Splits
from training.data.windows import WindowStore
from training.diebold_mariano import DieboldMariano, diebold_mariano, origin_losses
from training.errors import DataError, Problem
from training.intermittent import Demand, intermittent_scores, measure_demand
from training.interval_metrics import interval_scores
from training.linear_baseline import LinearBaseline, fit_linear
from training.metrics import SeasonalScale
from training.origins import Origins, target_rows

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

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
        demand: How intermittent every series of the panel is, measured on training rows.
        baseline_quantiles: Forecast quantiles of the baselines that have some, at the same levels.
    """

    panel: Panel
    origins: Origins
    quantile_levels: tuple[float, ...]
    y: Float[np.ndarray, "W H"]
    observed: Bool[np.ndarray, "W H"]
    quantiles: Float[np.ndarray, "W H Q"]
    baseline_forecasts: dict[str, Float[np.ndarray, "W H"]]
    scale: SeasonalScale = field(repr=False)
    demand: Demand = field(repr=False)
    baseline_quantiles: dict[str, Float[np.ndarray, "W H Q"]] = field(default_factory=dict)

    @cached_property
    def point(self) -> Float[np.ndarray, "W H"]:
        """The point forecast: the median, between the two nearest levels where 0.5 itself was not forecast."""
        return median_of(self.quantiles, self.quantile_levels)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Scores of the network: mae, rmse, smape, mase, rmsse, wql, crps; coverage, width and msis per interval.

        Where a forecast series is intermittent, its own scores too. `mae`, `rmse`, `crps` and widths have the unit of y,
        `smape` is 0 to 200, coverages are shares; NaN where undefined.
        """
        return self._scores(self.point, self.quantiles)

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores per baseline. One without quantiles stands for all of them: wql is sum|e| / sum|y|, crps the MAE."""
        return {
            name: self._scores(forecast, self.baseline_quantiles.get(name))
            for name, forecast in self.baseline_forecasts.items()
        }

    @cached_property
    def tests(self) -> dict[str, DieboldMariano]:
        """Per baseline, whether the network's absolute errors differ from its own by more than chance."""
        scale = self.scale.absolute[self.origins.series][:, None]
        # Series without a scale cannot be averaged with others; where none has one, errors count as they are.
        usable = np.isfinite(scale) if np.isfinite(scale).any() else np.ones_like(scale, dtype=np.bool_)
        unit = np.where(np.isfinite(scale), scale, 1.0)
        mask = self.observed & usable

        def losses(forecast: Float[np.ndarray, "W H"]) -> Float[np.ndarray, " n"]:
            terms = np.where(mask, np.abs(np.subtract(self.y, forecast, dtype=np.float64)) / unit, 0.0)
            return origin_losses(terms, mask, self.origins.num_later)

        own = losses(self.point)
        return {
            name: diebold_mariano(own - losses(forecast), self.origins.overlap)
            for name, forecast in self.baseline_forecasts.items()
        }

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

    def _scores(
        self, point: Float[np.ndarray, "W H"], quantiles: Float[np.ndarray, "W H Q"] | None
    ) -> dict[str, float]:
        y, mask, levels, series = self.y, self.observed, self.quantile_levels, self.origins.series
        scores = self.point_scores(point)
        if quantiles is None:
            size = metrics.absolute_mean(y, mask)
            scores["wql"] = scores["mae"] / size if size > 0.0 else float("nan")
            scores["crps"] = scores["mae"]
        else:
            scores["wql"] = metrics.wql(y, quantiles, levels, mask)
            scores["crps"] = metrics.crps(y, quantiles, levels, mask)
            scores |= interval_scores(y, quantiles, levels, series, self.scale, mask)
        every = np.repeat(point[..., None], len(levels), axis=-1) if quantiles is None else quantiles
        return scores | intermittent_scores(y, point, every, levels, series, self.demand, mask)

    def per_series_metrics(self) -> pd.DataFrame:
        """Scores of every series: `unique_id, num_windows, num_targets, mae, rmse, smape, mase, rmsse, wql`."""
        frame: pd.DataFrame = per_series_table(self).to_pandas()
        return frame

    def per_horizon_metrics(self) -> pd.DataFrame:
        """Scores of every step ahead: `step, num_targets, mae, rmse, mase, wql`, coverages, and MAE per baseline."""
        frame: pd.DataFrame = per_horizon_table(self).to_pandas()
        return frame

    def to_table(self) -> pa.Table:
        """Every forecast step as one row: `unique_id, ds, cutoff, y, mean`, a column per level, one per baseline."""
        return forecast_table(self)

    def to_frame(self) -> pd.DataFrame:
        """`to_table` as a DataFrame; `mean` is the point forecast, `cutoff` the last known timestamp."""
        frame: pd.DataFrame = self.to_table().to_pandas()
        return frame

    def write_parquet(self, path: Path) -> None:
        """Write the forecasts, and beside them the scores per series and per step ahead.

        Args:
            path: File of the forecasts, such as `test.parquet`; the others are `test_per_series.parquet` and
                `test_per_horizon.parquet`. Each appears whole or not at all; their folder is created.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = {"": self.to_table(), "_per_series": per_series_table(self), "_per_horizon": per_horizon_table(self)}
        for ending, table in tables.items():
            target = path.with_name(f"{path.stem}{ending}{path.suffix}")
            partial = target.with_name(f".{target.name}.partial")
            parquet.write_table(table, partial, compression="zstd")
            partial.replace(target)


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
        demand=measure_demand(panel.values, panel.observed, panel.offsets, splits.train_end),
    )


def join_backtests(results: Sequence[BacktestResult]) -> BacktestResult:
    """One result of several that forecast different origins of the same series, oldest origins first.

    Scales and demand are those of the first: rows that it did not know move no denominator.
    """
    first = results[0]
    series, cutoff, num_later = (
        np.concatenate([getattr(result.origins, name) for result in results])
        for name in ("series", "cutoff", "num_later")
    )
    order = np.lexsort((cutoff, series))

    def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)[order]

    return replace(
        first,
        origins=replace(first.origins, series=series[order], cutoff=cutoff[order], num_later=num_later[order]),
        y=joined([result.y for result in results]),
        observed=joined([result.observed for result in results]),
        quantiles=joined([result.quantiles for result in results]),
        baseline_forecasts={
            name: joined([result.baseline_forecasts[name] for result in results]) for name in first.baseline_forecasts
        },
        baseline_quantiles={
            name: joined([result.baseline_quantiles[name] for result in results]) for name in first.baseline_quantiles
        },
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
