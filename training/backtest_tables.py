"""A backtest as arrow tables, for files and frames. Built whole, never window by window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Integer

from training import metrics

if TYPE_CHECKING:
    from training.backtest import BacktestResult


def forecast_table(result: BacktestResult) -> pa.Table:
    """One row per window and step: `unique_id, ds, cutoff, y, mean`, a column per level, a column per baseline."""
    origins, horizon = result.origins, result.origins.horizon
    ds, cutoff = _timestamps(result)
    columns: dict[str, Any] = {
        "unique_id": _ids(result, np.repeat(origins.series, horizon)),
        "ds": ds,
        "cutoff": cutoff,
        "y": pa.array(result.y.reshape(-1), mask=~result.observed.reshape(-1)),
        "mean": result.point.reshape(-1),
    }
    columns |= {f"{level:g}": result.quantiles[..., k].reshape(-1) for k, level in enumerate(result.quantile_levels)}
    columns |= {name: forecast.reshape(-1) for name, forecast in result.baseline_forecasts.items()}
    return pa.table(columns)


def per_series_table(result: BacktestResult) -> pa.Table:
    """One row per forecast series: its windows, its real targets and its scores; NaN where a score is undefined."""
    y, mask, series = result.y, result.observed, result.origins.series
    num_series = len(result.panel.ids)
    error = np.where(mask, np.subtract(y, result.point, dtype=np.float64), 0.0)
    smape_terms, _ = metrics.smape_terms(y, result.point, mask)
    loss = sum(
        metrics.pinball_terms(y, result.quantiles[..., k], level, mask)[0]
        for k, level in enumerate(result.quantile_levels)
    )
    absolute = metrics.average_per_series(np.abs(error), mask, series, num_series)
    size = metrics.average_per_series(np.abs(y, dtype=np.float64), mask, series, num_series)
    loss_mean = metrics.average_per_series(np.asarray(loss), mask, series, num_series) / len(result.quantile_levels)
    scores = {
        "num_windows": np.bincount(series, minlength=num_series),
        "num_targets": np.bincount(series, mask.sum(axis=1), minlength=num_series).astype(np.int64),
        "mae": absolute,
        "rmse": np.sqrt(metrics.average_per_series(error**2, mask, series, num_series)),
        "smape": metrics.average_per_series(smape_terms, mask, series, num_series),
        "mase": metrics.mase_per_series(y, result.point, series, result.scale, mask),
        "rmsse": metrics.rmsse_per_series(y, result.point, series, result.scale, mask),
        "wql": np.divide(2.0 * loss_mean, size, out=np.full(num_series, np.nan), where=size > 0.0),
    }
    shown = np.unique(series)
    return pa.table({"unique_id": _ids(result, shown)} | {name: values[shown] for name, values in scores.items()})


def per_horizon_table(result: BacktestResult) -> pa.Table:
    """One row per step ahead: its real targets, scores, coverage per interval, and the MAE of every baseline."""
    columns: dict[str, list[float]] = {}
    for step in range(result.origins.horizon):
        part = slice(step, step + 1)
        y, mask, point, quantiles = (
            result.y[:, part], result.observed[:, part], result.point[:, part], result.quantiles[:, part],
        )  # fmt: skip
        scores = {
            "num_targets": int(mask.sum()),
            "mae": metrics.mae(y, point, mask),
            "rmse": metrics.rmse(y, point, mask),
            "mase": metrics.mase(y, point, result.origins.series, result.scale, mask),
            "wql": metrics.wql(y, quantiles, result.quantile_levels, mask),
        }
        for percent, (low, high) in metrics.central_intervals(result.quantile_levels).items():
            scores[f"coverage_{percent}"] = metrics.coverage(y, quantiles[..., low], quantiles[..., high], mask)
        for name, forecast in result.baseline_forecasts.items():
            scores[f"{name}_mae"] = metrics.mae(y, forecast[:, part], mask)
        for name, value in scores.items():
            columns.setdefault(name, []).append(value)
    return pa.table({"step": np.arange(1, result.origins.horizon + 1)} | columns)


def _ids(result: BacktestResult, series: Integer[np.ndarray, " rows"]) -> pa.Array:
    return pa.array(result.panel.ids, pa.string()).take(pa.array(series))


def _timestamps(result: BacktestResult) -> tuple[pa.Array, pa.Array]:
    """Timestamp of every forecast row and of its cutoff, from one run of the clock per distinct series start."""
    panel, origins = result.panel, result.origins
    starts, example, clock = np.unique(panel.starts[origins.series], return_index=True, return_inverse=True)
    first = np.full(len(starts), np.iinfo(np.int64).max)
    last = np.zeros(len(starts), dtype=np.int64)
    np.minimum.at(first, clock, origins.cutoff - 1)
    np.maximum.at(last, clock, origins.cutoff + origins.horizon)
    shift = np.concatenate([[0], np.cumsum(last - first)[:-1]]) - first
    pieces: list[Any] = [
        panel.timestamps(int(series), int(begin), int(end))
        for series, begin, end in zip(origins.series[example], first, last, strict=True)
    ]
    timeline = pieces[0].append(pieces[1:]) if hasattr(pieces[0], "append") else np.concatenate(pieces)
    row = (shift[clock] + origins.cutoff)[:, None] + np.arange(origins.horizon)
    last_known = np.repeat(shift[clock] + origins.cutoff - 1, origins.horizon)
    return _arrow_times(timeline[row.reshape(-1)]), _arrow_times(timeline[last_known])


def _arrow_times(times: Any) -> pa.Array:
    """Timestamps or integers as arrow; a time zone is carried over instead of being dropped."""
    if getattr(times, "tz", None) is None:
        return pa.array(times)
    utc = pa.array(times.tz_convert(None).to_numpy())
    return utc.cast(pa.timestamp(utc.type.unit, tz=pa.lib.tzinfo_to_string(times.tz)))
