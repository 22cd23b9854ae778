"""What a backtest report draws, as one JSON document: evenly chosen series and origins within a budget of numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from jaxtyping import Integer

from training import metrics
from training.backtest import BacktestResult
from training.backtest_tables import per_horizon_table

MAX_SERIES, MAX_WINDOWS = 40, 24
MAX_NUMBERS = 250_000
HISTORY_HORIZONS = 3
MIN_HISTORY = 24
DIGITS = 5


def chart_document(result: BacktestResult, model_name: str) -> dict[str, Any]:
    """Series with their rows, windows with their forecasts, and errors by step ahead.

    Args:
        result: The backtest.
        model_name: What to call the network.

    Returns:
        Numbers with five significant digits, None where missing. `bands` pairs the positions of lower and upper
        quantiles, widest first.
    """
    chosen = choose_windows(result)
    series = [
        _series(result, int(index), chosen[result.origins.series[chosen] == index])
        for index in np.unique(result.origins.series[chosen])
    ]
    steps = per_horizon_table(result).to_pydict()
    errors = {model_name: steps["mae"]} | {name: steps[f"{name}_mae"] for name in result.baseline_forecasts}
    return {
        "model": model_name,
        "target": result.panel.target,
        "freq": result.panel.freq,
        "bands": [
            {"percent": percent, "low": low, "high": high}
            for percent, (low, high) in metrics.central_intervals(result.quantile_levels).items()
        ],
        "baselines": list(result.baseline_forecasts),
        "series": series,
        "steps": {name: _numbers(values) for name, values in errors.items()},
    }


def to_script(document: dict[str, Any]) -> str:
    """A data block for the page; a text in it cannot end the block."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return f'<script type="application/json" id="backtest">{text.replace("<", chr(92) + "u003c")}</script>'


def choose_windows(result: BacktestResult) -> Integer[np.ndarray, " K"]:
    """Windows that the report holds: evenly spread series, and of each evenly spread origins, first and last included."""
    owner = result.origins.series
    series = np.unique(owner)
    width = result.origins.horizon * (1 + len(result.quantile_levels) + len(result.baseline_forecasts))
    num_windows = min(MAX_WINDOWS, int(np.bincount(owner).max()))
    num_series = min(MAX_SERIES, len(series))
    while num_series * num_windows * width > MAX_NUMBERS and (num_series > 1 or num_windows > 1):
        if num_windows > 6 or num_series == 1:
            num_windows = max(1, num_windows - 1)
        else:
            num_series -= 1
    kept = series[np.unique(np.linspace(0, len(series) - 1, num_series).round().astype(int))]
    return np.concatenate([_spread(np.flatnonzero(owner == index), num_windows) for index in kept])


def _spread(windows: Integer[np.ndarray, " W"], count: int) -> Integer[np.ndarray, " K"]:
    if count == 1:
        return windows[-1:]
    return windows[np.unique(np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int))]


def _series(result: BacktestResult, index: int, windows: Integer[np.ndarray, " K"]) -> dict[str, Any]:
    panel, origins = result.panel, result.origins
    history = max(HISTORY_HORIZONS * origins.horizon, MIN_HISTORY)
    first = max(0, int(origins.cutoff[windows].min()) - history)
    stop = int(origins.cutoff[windows].max()) + origins.horizon
    start = int(panel.offsets[index])
    rows = np.arange(first, min(stop, int(panel.lengths[index]))) + start
    y = np.where(panel.observed[rows], panel.values[rows].astype(np.float64), np.nan)
    return {
        "id": panel.ids[index],
        "history": history,
        "times": _labels(panel.timestamps(index, first, stop)),
        "y": _numbers(np.concatenate([y, np.full(stop - first - len(y), np.nan)])),
        "windows": [_window(result, int(window), first) for window in windows],
    }


def _window(result: BacktestResult, window: int, first: int) -> dict[str, Any]:
    baselines = {name: _numbers(forecast[window]) for name, forecast in result.baseline_forecasts.items()}
    return {
        "cutoff": int(result.origins.cutoff[window]) - first,
        "point": _numbers(result.point[window]),
        "quantiles": [_numbers(result.quantiles[window, :, k]) for k in range(len(result.quantile_levels))],
        "baselines": baselines,
    }


def _labels(timestamps: Any) -> list[str]:
    texts = [str(stamp) for stamp in timestamps]
    for ending in (" 00:00:00", ":00"):
        if all(text.endswith(ending) for text in texts):
            return [text.removesuffix(ending) for text in texts]
    return texts


def _numbers(values: Any) -> list[float | None]:
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in np.asarray(values, np.float64)]
