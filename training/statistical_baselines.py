"""Statistical baselines through statsforecast, fitted anew at every origin: what a network has to beat to be worth its price.

They are those of the M competitions: the theta method (Assimakopoulos & Nikolopoulos 2000; the best of its four variants),
exponential smoothing (Hyndman et al. 2008; chosen by AICc), the mean of the last seasons, and Croston's method with the
correction of Syntetos & Boylan (2005) for intermittent demand.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from training.backtest import BacktestError, BacktestResult
from training.baselines import naive
from training.extras import require_extra

STATISTICAL_BASELINES = ("theta", "ets", "seasonal_mean", "croston")
# Of these the past is not asked for intervals: their authors give none.
WITHOUT_INTERVALS = ("seasonal_mean", "croston")
# A fit reads this many seasons, and at least so many rows; more changes it little and costs in proportion.
MAX_SEASONS = 8
MIN_ROWS = 500
SEASONS_AVERAGED = 4
DEFAULT_SECONDS = 60.0

Say = Callable[[str], None]


def validate_baselines(names: Sequence[str]) -> None:
    """Refuse unknown names, and known ones whose package is missing.

    Raises:
        BacktestError: If a name is unknown.
        ConfigurationError: If statsforecast is not installed.
    """
    unknown = [name for name in names if name not in STATISTICAL_BASELINES]
    if unknown:
        raise BacktestError("--baselines", f"out of {', '.join(STATISTICAL_BASELINES)}", repr(unknown[0]))
    if names:
        require_extra("statsforecast", "baselines", "--baselines")


def with_statistical_baselines(
    result: BacktestResult, names: Sequence[str], seconds: float = DEFAULT_SECONDS, say: Say = lambda _sentence: None
) -> BacktestResult:
    """The same backtest beside more baselines, each fitted at every origin to what was known there.

    Args:
        result: Any backtest.
        names: Out of `STATISTICAL_BASELINES`.
        seconds: For each baseline; one that is not done by then is left out.
        say: Told what was left out, and where a fit failed.

    Raises:
        BacktestError: If a name is unknown.
        ConfigurationError: If statsforecast is not installed.
    """
    validate_baselines(names)
    points, quantiles = dict(result.baseline_forecasts), dict(result.baseline_quantiles)
    for name in names:
        found = _forecast_all(name, result, seconds, say)
        if found is None:
            continue
        points[name] = _median(found, result.quantile_levels)
        if name not in WITHOUT_INTERVALS:
            quantiles[name] = found[..., 1:]
    return replace(result, baseline_forecasts=points, baseline_quantiles=quantiles)


def _median(found: Float[np.ndarray, "W H Q1"], levels: Sequence[float]) -> Float[np.ndarray, "W H"]:
    return np.ascontiguousarray(found[..., 1 + levels.index(0.5)] if 0.5 in levels else found[..., 0])


def _forecast_all(
    name: str, result: BacktestResult, seconds: float, say: Say
) -> Float[np.ndarray, "W H Q1"] | None:
    """The mean and every level of every window; None if the time is up first."""
    origins, horizon, levels = result.origins, result.origins.horizon, result.quantile_levels
    model = _build_model(name, result.panel.season_length)
    forecasts = np.empty((len(origins), horizon, 1 + len(levels)), dtype=np.float32)
    num_failed, started = 0, time.monotonic()
    for window in range(len(origins)):
        if time.monotonic() - started > seconds:
            say(f"{name} left out: {window:,} of {len(origins):,} windows done in {seconds:g} seconds; "
                "give --baseline-seconds more, or ask for fewer windows")  # fmt: skip
            return None
        known = known_values(result, window)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                forecast = _read(model, name, known, horizon, levels)
        except (ValueError, ArithmeticError, IndexError, RuntimeError, np.linalg.LinAlgError):
            forecast = np.full_like(forecasts[window], np.nan)
        if not np.isfinite(forecast).all():
            num_failed += 1
            place = slice(window, window + 1)
            last = naive(result.panel, origins.series[place], origins.cutoff[place], horizon)
            forecast = np.repeat(last[0][:, None], 1 + len(levels), axis=1)
        forecasts[window] = forecast
    if num_failed:
        say(f"{name}: {num_failed:,} of {len(origins):,} windows could not be fitted and have the naive forecast")
    return forecasts


def known_values(result: BacktestResult, window: int) -> Float[np.ndarray, " T"]:
    """What a statistical model reads at one origin: the newest rows before it, gaps interpolated between real values."""
    panel, origins = result.panel, result.origins
    first, cutoff = int(panel.offsets[origins.series[window]]), int(origins.cutoff[window])
    rows = slice(first + max(0, cutoff - max(MIN_ROWS, MAX_SEASONS * panel.season_length)), first + cutoff)
    values, observed = np.asarray(panel.values[rows], dtype=np.float64), np.asarray(panel.observed[rows])
    real = np.flatnonzero(observed)
    if not len(real):
        return np.zeros(0)
    # Rows after the last real value repeat it: what comes next is not known.
    return np.interp(np.arange(real[0], len(values)), real, values[real])


def _build_model(name: str, season_length: int) -> Any:
    from statsforecast.models import AutoETS, AutoTheta, CrostonSBA, SeasonalWindowAverage

    if name == "theta":
        return AutoTheta(season_length=season_length)
    if name == "ets":
        return AutoETS(season_length=season_length)
    if name == "seasonal_mean":
        return SeasonalWindowAverage(season_length=season_length, window_size=SEASONS_AVERAGED)
    return CrostonSBA()


def _read(
    model: Any, name: str, known: Float[np.ndarray, " T"], horizon: int, levels: Sequence[float]
) -> Float[np.ndarray, "H Q1"]:
    if name in WITHOUT_INTERVALS:
        mean = np.asarray(model.forecast(y=known, h=horizon)["mean"])
        return np.repeat(mean[:, None], 1 + len(levels), axis=1)
    percents = sorted({_percent(level) for level in levels if level != 0.5})
    answer: Mapping[str, Any] = model.forecast(y=known, h=horizon, level=percents or None)
    columns = [np.asarray(answer["mean"])]
    for level in levels:
        side = "lo" if level < 0.5 else "hi"
        columns.append(np.asarray(answer["mean" if level == 0.5 else f"{side}-{_percent(level)}"]))
    return np.stack(columns, axis=1)


def _percent(level: float) -> float:
    """The central interval that a quantile bounds; whole where it is, because statsforecast names columns by it."""
    percent = round(100.0 * abs(1.0 - 2.0 * level), 6)
    return int(percent) if percent == int(percent) else percent
