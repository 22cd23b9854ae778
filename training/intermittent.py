"""Series that are mostly zero: which they are, and errors that do not reward forecasting nothing.

For such a series the median is often 0, and MAE and MASE praise a forecast of 0 (Kolassa 2016). The errors here add up
over the horizon what is too much or too little, as a stock does, and score every quantile.

| metric | definition | unit | from |
|---|---|---|---|
| spl | mean pinball loss over points and levels / in-sample mean abs(y_t - y_t-1) | 1 | M5 uncertainty, Makridakis et al. 2022 |
| scfe | sum over the horizon of y - f, per window / in-sample mean of y | 1 | Wallstrom & Segerstedt 2010, scaled |
| spis | periods in stock: -sum_t sum_i<=t (y_i - f_i), per window / in-sample mean of y | 1 | the same, scaled |
| sapis | the same, its size | 1 | Petropoulos & Kourentzes 2015 |

`scfe` is positive where too little is forecast, `spis` where too much is: what lies in stock, in steps of mean demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from training import metrics
from training.data.rows import series_blocks
from training.metrics import Mask, Quantiles, Series, Values

# Mean steps between demands above which a series is intermittent (Syntetos, Boylan & Croston 2005).
INTERMITTENT_INTERVAL = 1.32
# Squared coefficient of variation of the demands above which it is lumpy rather than intermittent.
LUMPY_VARIATION = 0.49
INTERMITTENT_METRICS = ("spl", "scfe", "spis", "sapis")


@dataclass(frozen=True)
class Demand:
    """What the training rows of every series say about its demand.

    Attributes:
        interval: Mean steps between values that are not 0 (average demand interval); NaN where a value is negative or
            none is above 0.
        variation: Squared coefficient of variation of the values that are not 0.
        mean: Mean of all values, in the unit of y.
        step_scale: Mean absolute difference of neighbouring values, the denominator of `spl`; NaN where there is none.
    """

    interval: Float[np.ndarray, " N"]
    variation: Float[np.ndarray, " N"]
    mean: Float[np.ndarray, " N"]
    step_scale: Float[np.ndarray, " N"]

    @property
    def is_intermittent(self) -> Bool[np.ndarray, " N"]:
        """True for series whose demands lie further apart than smooth or erratic ones."""
        return np.asarray(self.interval >= INTERMITTENT_INTERVAL)

    @property
    def is_lumpy(self) -> Bool[np.ndarray, " N"]:
        """True for intermittent series whose demands differ much in size as well."""
        return np.asarray(self.is_intermittent & (self.variation >= LUMPY_VARIATION))


def measure_demand(
    values: Float[np.ndarray, " T"],
    observed: Bool[np.ndarray, " T"],
    offsets: Integer[np.ndarray, " N_plus_1"],
    train_end: Integer[np.ndarray, " N"],
) -> Demand:
    """Measure the demand of every series on its observed training rows.

    Args:
        values: All series one after the other, in the unit of y.
        observed: True where `values` is real.
        offsets: Where each series starts in `values`; the last entry is T.
        train_end: Rows per series, counted from its start, that may be looked at.
    """
    blocks = []
    for first, stop in series_blocks(offsets):
        rows, starts = slice(offsets[first], offsets[stop]), offsets[first : stop + 1] - offsets[first]
        blocks.append(_measure_block(values[rows], observed[rows], starts, train_end[first:stop]))
    step = metrics.seasonal_scale(values, observed, offsets, train_end, season_length=1).absolute
    interval, variation, mean = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return Demand(interval, variation, mean, step)


def _measure_block(
    values: Float[np.ndarray, " t"],
    observed: Bool[np.ndarray, " t"],
    offsets: Integer[np.ndarray, " n_plus_1"],
    train_end: Integer[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Interval, variation and mean of neighbouring series."""
    count = len(offsets) - 1
    owner = np.repeat(np.arange(count), np.diff(offsets))
    used = observed & (np.arange(len(owner)) < (offsets[:-1] + train_end)[owner])
    owner, y = owner[used], values[used].astype(np.float64)
    periods, total = np.bincount(owner, minlength=count), np.bincount(owner, y, minlength=count)
    is_demand = y != 0.0
    demands = np.bincount(owner[is_demand], minlength=count)
    lowest = np.full(count, np.inf)
    np.minimum.at(lowest, owner, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        size = total / demands
        spread = np.bincount(owner[is_demand], (y - size[owner])[is_demand] ** 2, minlength=count) / demands
        interval = np.where(lowest >= 0.0, periods / demands, np.nan)
        mean, variation = total / periods, spread / size**2
    return np.where(demands > 0, interval, np.nan), variation, mean


def intermittent_scores(
    y: Values,
    point: Values,
    quantiles: Quantiles,
    levels: Sequence[float],
    series: Series,
    demand: Demand,
    mask: Mask,
) -> dict[str, float]:
    """`spl`, `scfe`, `spis` and `sapis`: mean over the intermittent series that were forecast.

    Args:
        y: Targets.
        point: Point forecasts.
        quantiles: Forecast quantiles; a point forecast stands for all of them.
        levels: Levels along Q.
        series: Which series each window belongs to.
        demand: Of every series, from `measure_demand`.
        mask: True where the target is real.

    Returns:
        Empty if no forecast series is intermittent.
    """
    shown = np.zeros(len(demand.mean), dtype=np.bool_)
    shown[np.unique(series[mask.any(axis=1)])] = True
    chosen = shown & demand.is_intermittent & np.isfinite(demand.step_scale)
    if not chosen.any():
        return {}
    cumulated, stock = cumulated_error(y, point, mask), periods_in_stock(y, point, mask)
    losses = [metrics.pinball_terms(y, quantiles[..., k], level, mask)[0] for k, level in enumerate(levels)]
    loss = metrics.average_per_series(np.mean(losses, axis=0), mask, series, len(chosen))
    mean = np.where(chosen, demand.mean, np.nan)
    per_series = {
        "spl": loss / demand.step_scale,
        "scfe": _window_mean(cumulated, series, len(chosen)) / mean,
        "spis": _window_mean(stock, series, len(chosen)) / mean,
        "sapis": _window_mean(np.abs(stock), series, len(chosen)) / mean,
    }
    return {name: metrics.mean_over_series(values, chosen) for name, values in per_series.items()}


def cumulated_error(y: Values, forecast: Values, mask: Mask) -> Float[np.ndarray, " W"]:
    """Sum over the horizon of y - f per window, in the unit of y; a missing target counts as forecast rightly."""
    return np.asarray(_errors(y, forecast, mask).sum(axis=1))


def periods_in_stock(y: Values, forecast: Values, mask: Mask) -> Float[np.ndarray, " W"]:
    """Stock that a forecast would build up, summed over the steps of a window: unit of y times steps."""
    return np.asarray(-_errors(y, forecast, mask).cumsum(axis=1).sum(axis=1))


def _errors(y: Values, forecast: Values, mask: Mask) -> Values:
    return np.where(mask, np.subtract(y, forecast, dtype=np.float64), 0.0)


def _window_mean(terms: Float[np.ndarray, " W"], series: Series, num_series: int) -> Float[np.ndarray, " N"]:
    count = np.bincount(series, minlength=num_series)
    total = np.bincount(series, terms, minlength=num_series)
    return np.asarray(np.divide(total, count, out=np.full(num_series, np.nan), where=count > 0))
