"""Central intervals: how often they hold the truth, how wide they are, and both in one number.

| metric | definition | unit | from |
|---|---|---|---|
| width | mean of upper - lower | of y | |
| msis | interval score / in-sample MAE of seasonal naive, per series, mean over series | 1 | M4, Makridakis et al. 2020 |

The interval score is upper - lower, plus 2/a for every unit by which the truth lies outside, a = 1 - level (Gneiting &
Raftery 2007).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from training.metrics import (
    Mask,
    Quantiles,
    SeasonalScale,
    Series,
    Values,
    average_per_series,
    central_intervals,
    coverage,
    mean_over_series,
    real_targets,
    scored_series,
)


def interval_scores(
    y: Values, quantiles: Quantiles, levels: Sequence[float], series: Series, scale: SeasonalScale, mask: Mask
) -> dict[str, float]:
    """`coverage_80`, `width_80` and `msis_80` for every central interval that the levels hold, widest first."""
    scores: dict[str, float] = {}
    for percent, (low, high) in central_intervals(levels).items():
        lower, upper = quantiles[..., low], quantiles[..., high]
        scores[f"coverage_{percent}"] = coverage(y, lower, upper, mask)
        scores[f"width_{percent}"] = interval_width(y, lower, upper, mask)
        scores[f"msis_{percent}"] = msis(y, lower, upper, levels[high] - levels[low], series, scale, mask)
    return scores


def interval_width(y: Values, lower: Values, upper: Values, mask: Mask | None = None) -> float:
    """Mean width of an interval where the target is real, in the unit of y."""
    real = real_targets(y, mask)
    count = np.count_nonzero(real)
    width = np.where(real, np.subtract(upper, lower, dtype=np.float64), 0.0)
    return float(width.sum() / count) if count else float("nan")


def msis(
    y: Values,
    lower: Values,
    upper: Values,
    share: float,
    series: Series,
    scale: SeasonalScale,
    mask: Mask | None = None,
) -> float:
    """Mean scaled interval score: mean over the series whose scale is defined; smaller is better.

    Args:
        y: Targets.
        lower: Lower end of the interval.
        upper: Upper end.
        share: What the interval is meant to hold, in (0, 1); M4 used 0.95.
        series: Which series each window belongs to.
        scale: Of every series, from `seasonal_scale`.
        mask: True where the target is real.
    """
    per_series = msis_per_series(y, lower, upper, share, series, scale, mask)
    return mean_over_series(per_series, scored_series(y, series, scale, mask))


def msis_per_series(
    y: Values,
    lower: Values,
    upper: Values,
    share: float,
    series: Series,
    scale: SeasonalScale,
    mask: Mask | None = None,
) -> Float[np.ndarray, " N"]:
    """Scaled interval score of every series; NaN without a scale or without a real target."""
    real = real_targets(y, mask)
    low, high, value = (np.asarray(part, dtype=np.float64) for part in (lower, upper, y))
    missed = np.maximum(low - value, 0.0) + np.maximum(value - high, 0.0)
    terms = np.where(real, high - low + 2.0 / (1.0 - share) * missed, 0.0)
    return np.asarray(average_per_series(terms, real, series, len(scale.absolute)) / scale.absolute)
