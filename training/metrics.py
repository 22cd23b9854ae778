"""Forecast accuracy in plain numpy, float64 inside, aware of missing targets.

Every function takes `mask`, True where the target was really observed; a NaN target counts as missing too. A forecast
that is not a number is never skipped: it makes the result NaN. A metric without a single real target is NaN.

| metric | definition | unit | from |
|---|---|---|---|
| mae, rmse | mean of abs(e), root of the mean of e^2, over all points | of y | |
| smape | mean of 200 abs(e) / (abs(y) + abs(f)), 0 where both are 0; 0 to 200 | percent | Makridakis et al. 2020 (M4) |
| mase | per series mean abs(e) / in-sample MAE of seasonal naive, mean over series | 1 | Hyndman & Koehler 2006 |
| rmsse | per series root of (mean e^2 / in-sample MSE of it), mean over series | 1 | M5, Makridakis et al. 2022 |
| pinball | mean of max(q (y - f), (q - 1)(y - f)) per level q | of y | Koenker & Bassett 1978 |
| wql | mean over levels of 2 sum(pinball) / sum(abs(y)) | 1 | gluonts, GIFT-Eval: mean_weighted_sum_quantile_loss |
| crps | 2 x integral of pinball over the levels | of y | Gneiting & Raftery 2007 |
| coverage | share of y inside a central interval, borders included | 1 | |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

Values = Float[np.ndarray, "W H"]
Mask = Bool[np.ndarray, "W H"]
Quantiles = Float[np.ndarray, "W H Q"]
Series = Integer[np.ndarray, " W"]

ROWS_PER_CHUNK = 1 << 20
FLOAT32_RESOLUTION = float(np.finfo(np.float32).eps)


class SeasonalScale(NamedTuple):
    """In-sample error of seasonal naive per series; NaN where undefined, zero, or mere float32 rounding.

    Attributes:
        absolute: Mean absolute seasonal difference, the denominator of MASE, in the unit of y.
        squared: Mean squared seasonal difference, the denominator of RMSSE, in the squared unit of y.
    """

    absolute: Float[np.ndarray, " N"]
    squared: Float[np.ndarray, " N"]


def seasonal_scale(
    values: Float[np.ndarray, " T"],
    observed: Bool[np.ndarray, " T"],
    offsets: Integer[np.ndarray, " N_plus_1"],
    train_end: Integer[np.ndarray, " N"],
    season_length: int,
) -> SeasonalScale:
    """Measure seasonal naive on the training rows of every series, real values only.

    A pair counts when the row and the row `season_length` earlier are both observed and both lie before `train_end`.

    Args:
        values: All series one after the other, in the unit of y.
        observed: True where `values` is real.
        offsets: Where each series starts in `values`; the last entry is T.
        train_end: Rows per series, counted from its start, that may be looked at.
        season_length: Steps per season.

    Returns:
        One scale per series. A scale below float32 resolution of the series' mean size is NaN: dividing by it would
        measure rounding.
    """
    starts, stops = offsets[:-1].astype(np.int64), offsets[:-1].astype(np.int64) + train_end
    count, absolute, squared, size, real = (np.zeros(len(starts)) for _ in range(5))
    for begin in range(0, len(values), ROWS_PER_CHUNK):
        rows = np.arange(begin, min(begin + ROWS_PER_CHUNK, len(values)))
        owner = np.searchsorted(offsets, rows, side="right") - 1
        keep = observed[rows] & (rows < stops[owner])
        rows, owner = rows[keep], owner[keep]
        size += np.bincount(owner, np.abs(values[rows], dtype=np.float64), minlength=len(starts))
        real += np.bincount(owner, minlength=len(starts))
        earlier = rows - season_length
        paired = (earlier >= starts[owner]) & observed[np.maximum(earlier, 0)]
        rows, earlier, owner = rows[paired], earlier[paired], owner[paired]
        difference = values[rows].astype(np.float64) - values[earlier]
        count += np.bincount(owner, minlength=len(starts))
        absolute += np.bincount(owner, np.abs(difference), minlength=len(starts))
        squared += np.bincount(owner, difference**2, minlength=len(starts))
    with np.errstate(invalid="ignore", divide="ignore"):
        absolute, squared = absolute / count, squared / count
        usable = absolute > FLOAT32_RESOLUTION * size / real
    return SeasonalScale(np.where(usable, absolute, np.nan), np.where(usable, squared, np.nan))


def mae(y: Values, forecast: Values, mask: Mask | None = None) -> float:
    """Mean absolute error over all real targets, in the unit of y."""
    error, real = _errors(y, forecast, mask)
    return _mean(np.abs(error), real)


def rmse(y: Values, forecast: Values, mask: Mask | None = None) -> float:
    """Root of the mean squared error over all real targets, in the unit of y."""
    error, real = _errors(y, forecast, mask)
    return float(np.sqrt(_mean(error**2, real)))


def smape(y: Values, forecast: Values, mask: Mask | None = None) -> float:
    """Symmetric mean absolute percentage error as in M4, 0 to 200; a perfect forecast of zero costs nothing."""
    terms, real = smape_terms(y, forecast, mask)
    return _mean(terms, real)


def smape_terms(y: Values, forecast: Values, mask: Mask | None = None) -> tuple[Values, Mask]:
    """Terms of sMAPE per point, in percent (0 where missing), and where targets are real."""
    error, real = _errors(y, forecast, mask)
    size = np.where(real, np.abs(y, dtype=np.float64), 0.0) + np.abs(forecast, dtype=np.float64)
    return np.divide(200.0 * np.abs(error), size, out=np.zeros_like(error), where=(size > 0.0) | np.isnan(size)), real


def mase(y: Values, forecast: Values, series: Series, scale: SeasonalScale, mask: Mask | None = None) -> float:
    """Mean absolute scaled error: mean over the series whose scale is defined.

    Args:
        y: Targets.
        forecast: Point forecasts.
        series: Which series each window belongs to.
        scale: Of every series, from `seasonal_scale`.
        mask: True where the target is real.

    Returns:
        Mean over series; 1 is what seasonal naive does one season ahead in sample.
    """
    return mean_over_series(mase_per_series(y, forecast, series, scale, mask), scored_series(y, series, scale, mask))


def mase_per_series(
    y: Values, forecast: Values, series: Series, scale: SeasonalScale, mask: Mask | None = None
) -> Float[np.ndarray, " N"]:
    """MASE of every series; NaN without a scale or without a real target."""
    error, real = _errors(y, forecast, mask)
    return np.asarray(average_per_series(np.abs(error), real, series, len(scale.absolute)) / scale.absolute)


def rmsse(y: Values, forecast: Values, series: Series, scale: SeasonalScale, mask: Mask | None = None) -> float:
    """Root mean squared scaled error, mean over the series whose scale is defined; M5's with the season as its lag."""
    return mean_over_series(rmsse_per_series(y, forecast, series, scale, mask), scored_series(y, series, scale, mask))


def rmsse_per_series(
    y: Values, forecast: Values, series: Series, scale: SeasonalScale, mask: Mask | None = None
) -> Float[np.ndarray, " N"]:
    """RMSSE of every series; NaN without a scale or without a real target."""
    error, real = _errors(y, forecast, mask)
    return np.asarray(np.sqrt(average_per_series(error**2, real, series, len(scale.squared)) / scale.squared))


def pinball(
    y: Values, quantiles: Quantiles, levels: Sequence[float], mask: Mask | None = None
) -> Float[np.ndarray, " Q"]:
    """Mean quantile loss per level, in the unit of y: `q` per unit too low, `1 - q` per unit too high."""
    return np.array([_mean(*pinball_terms(y, quantiles[..., k], level, mask)) for k, level in enumerate(levels)])


def pinball_terms(y: Values, forecast: Values, level: float, mask: Mask | None = None) -> tuple[Values, Mask]:
    """Quantile loss of every point (0 where missing), and where targets are real."""
    error, real = _errors(y, forecast, mask)
    return np.maximum(level * error, (level - 1.0) * error), real


def wql(y: Values, quantiles: Quantiles, levels: Sequence[float], mask: Mask | None = None) -> float:
    """Weighted quantile loss, `mean_weighted_sum_quantile_loss` of gluonts and GIFT-Eval; NaN where all targets are 0.

    A point forecast taken as every quantile, at levels that are symmetric about a half, has WQL = sum|e| / sum|y|.
    """
    size = absolute_mean(y, mask)
    return float(np.mean(2.0 * pinball(y, quantiles, levels, mask)) / size) if size > 0.0 else float("nan")


def crps(y: Values, quantiles: Quantiles, levels: Sequence[float], mask: Mask | None = None) -> float:
    """Continuous ranked probability score from quantiles, in the unit of y; exact only as the levels grow dense.

    Each level stands for the probabilities nearest to it. A point forecast at symmetric levels scores its MAE.
    """
    return float(2.0 * np.dot(level_weights(levels), pinball(y, quantiles, levels, mask)))


def level_weights(levels: Sequence[float]) -> Float[np.ndarray, " Q"]:
    """Share of the probabilities in (0, 1) that lie nearest to each level; they sum to 1."""
    middles = (np.asarray(levels[1:], dtype=np.float64) + np.asarray(levels[:-1], dtype=np.float64)) / 2.0
    return np.diff(np.concatenate([[0.0], middles, [1.0]]))


def coverage(y: Values, lower: Values, upper: Values, mask: Mask | None = None) -> float:
    """Share of the real targets with lower <= y <= upper; calibrated when it equals the nominal share."""
    real = real_targets(y, mask)
    inside = np.where(np.isnan(lower) | np.isnan(upper), np.nan, (lower <= y) & (y <= upper))
    return _mean(np.where(real, inside, 0.0), real)


def central_intervals(levels: Sequence[float]) -> dict[str, tuple[int, int]]:
    """Pairs of quantiles that mirror each other about a half, widest first.

    Args:
        levels: Increasing probabilities in (0, 1).

    Returns:
        Percent between the two, as in `coverage_80`, to the positions of its lower and upper quantile.
    """
    return {
        f"{round(100.0 * (upper - lower), 6):g}": (i, j)
        for i, lower in enumerate(levels)
        for j, upper in enumerate(levels)
        if lower < 0.5 and abs(lower + upper - 1.0) < 1e-9
    }


def average_per_series(terms: Values, real: Mask, series: Series, num_series: int) -> Float[np.ndarray, " N"]:
    """Mean of `terms` (0 where not real) over all real points of each series; NaN without one."""
    total = np.bincount(series, terms.sum(axis=1), minlength=num_series)
    count = np.bincount(series, real.sum(axis=1), minlength=num_series)
    return np.asarray(np.divide(total, count, out=np.full(num_series, np.nan), where=count > 0))


def scored_series(y: Values, series: Series, scale: SeasonalScale, mask: Mask | None = None) -> Bool[np.ndarray, " N"]:
    """True for the series that count in MASE and RMSSE: a defined scale and at least one real target."""
    targets = np.bincount(series, real_targets(y, mask).sum(axis=1), minlength=len(scale.absolute))
    return np.asarray(np.isfinite(scale.absolute) & (targets > 0))


def mean_over_series(per_series: Float[np.ndarray, " N"], scored: Bool[np.ndarray, " N"]) -> float:
    """Mean over the scored series; a forecast that is not a number stays visible as NaN."""
    return float(per_series[scored].mean()) if scored.any() else float("nan")


def real_targets(y: Values, mask: Mask | None) -> Mask:
    """True where the target is a number and the mask agrees."""
    return np.asarray(~np.isnan(y) if mask is None else mask & ~np.isnan(y))


def absolute_mean(y: Values, mask: Mask | None = None) -> float:
    """Mean size of the real targets, in the unit of y."""
    real = real_targets(y, mask)
    return _mean(np.where(real, np.abs(y, dtype=np.float64), 0.0), real)


def _errors(y: Values, forecast: Values, mask: Mask | None) -> tuple[Values, Mask]:
    real = real_targets(y, mask)
    return np.where(real, np.subtract(y, forecast, dtype=np.float64), 0.0), real


def _mean(terms: Values, real: Mask) -> float:
    count = np.count_nonzero(real)
    return float(terms.sum(dtype=np.float64) / count) if count else float("nan")
