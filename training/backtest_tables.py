"""A backtest as tables: arrow for files and frames, text for a terminal. Built whole, never window by window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Integer

from training import metrics

if TYPE_CHECKING:
    from training.backtest import BacktestResult

UNITS = {"smape": "0-200", "mase": "1", "rmsse": "1", "wql": "1"}


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


def format_backtest(result: BacktestResult, digits: int = 3, model_name: str = "model") -> str:
    """The scores as a text table: the network beside the baselines, the best of each column starred, units named.

    Args:
        result: What to show.
        digits: Decimals of the dimensionless scores; columns of large numbers get fewer.
        model_name: What to call the network.

    Returns:
        Lines without a trailing newline. The last line says how the network compares with the best baseline.
    """
    scores = {model_name: result.metrics} | result.baselines
    names = list(result.metrics)
    best = {name: _best(scores, name) for name in names}
    decimals = {name: _decimals(scores, name, digits) for name in names}
    cells = [["", *names], ["", *(_unit(name) for name in names)]]
    for row, values in scores.items():
        cells.append([row, *(_cell(values.get(name), row in best[name], decimals[name]) for name in names)])
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]
    rule = "-" * len(lines[0])
    return "\n".join(
        line.rstrip()
        for line in [
            _headline(result),
            "",
            *lines[:2],
            rule,
            *lines[2:],
            rule,
            _legend(result),
            _verdict(result, model_name),
        ]
    )


def _best(scores: Mapping[str, Mapping[str, float]], metric: str) -> set[str]:
    """Rows with the lowest value; no winner where only the network is scored or nobody has a number."""
    values = {row: value[metric] for row, value in scores.items() if np.isfinite(value.get(metric, np.nan))}
    if len(values) < 2 or metric.startswith("coverage_"):
        return set()
    return {row for row, value in values.items() if value == min(values.values())}


def _unit(metric: str) -> str:
    if metric.startswith("coverage_"):
        return f"want {float(metric.removeprefix('coverage_')) / 100.0:g}"
    return UNITS.get(metric, "unit of y")


def _decimals(scores: Mapping[str, Mapping[str, float]], metric: str, digits: int) -> int:
    """Decimals of a column: all of them below 10, fewer as the numbers grow."""
    largest = max((abs(v[metric]) for v in scores.values() if np.isfinite(v.get(metric, np.nan))), default=0.0)
    return digits if largest < 10.0 else max(digits + 2 - len(str(int(largest))), 0)


def _cell(value: float | None, is_best: bool, decimals: int) -> str:
    if value is None or not np.isfinite(value):
        return ("-" if value is None else "undefined") + " "
    return f"{value:,.{decimals}f}" + ("*" if is_best else " ")


def _headline(result: BacktestResult) -> str:
    origins = result.origins
    series = len(np.unique(origins.series))
    return (
        f"{origins.part}: {_count(len(origins), 'window')} of {series:,} series, horizon {origins.horizon} steps of "
        f"{result.panel.freq}, every {origins.step_size} steps; {int(result.observed.sum()):,} targets scored, "
        f"{int((~result.observed).sum()):,} missing; y = {result.panel.target}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _legend(result: BacktestResult) -> str:
    season = result.panel.season_length
    text = f"* best of its column; mase, rmsse: 1 = seasonal naive of {season} steps in the training rows"
    skipped = result.num_skipped_series
    return text + (f"; {skipped:,} series without a scale skipped there" if skipped else "")


def _verdict(result: BacktestResult, model_name: str) -> str:
    metric = "mase" if np.isfinite(result.metrics["mase"]) else "mae"
    rivals = {name: scores[metric] for name, scores in result.baselines.items() if scores[metric] > 0.0}
    own = result.metrics[metric]
    if not rivals or not np.isfinite(own):
        return f"{model_name}: {metric} {own:.3f}, nothing to compare with"
    rival = min(rivals, key=rivals.__getitem__)
    change = 100.0 * (own / rivals[rival] - 1.0)
    word = "below" if change < 0 else "above"
    return (
        f"{model_name}: {metric} {own:.3f}, {abs(change):.1f} % {word} the best baseline ({rival} {rivals[rival]:.3f})"
    )
