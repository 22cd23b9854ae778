"""Naive forecasts that every network is shown beside; the third floor, linear, has its own module.

All read the same store and the same origins as the network and never a row at or after the cutoff.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer

from training.data.panel import Panel

BASELINES = ("naive", "seasonal_naive", "linear")


def naive(
    panel: Panel, series: Integer[np.ndarray, " W"], cutoff: Integer[np.ndarray, " W"], horizon: int
) -> Float[np.ndarray, "W H"]:
    """Repeat the last observed value before the cutoff.

    Args:
        panel: The series.
        series: Each window's series.
        cutoff: Rows of that series that are known.
        horizon: Steps to forecast.

    Returns:
        Forecasts in the unit of y; NaN where nothing was observed before the cutoff.
    """
    start = panel.offsets[series][:, None]
    row, found = _walk_back(panel.observed, start + cutoff[:, None] - 1, start, 1)
    return np.repeat(np.where(found, panel.values[row], np.float32(np.nan)), horizon, axis=1)


def seasonal_naive(
    panel: Panel,
    series: Integer[np.ndarray, " W"],
    cutoff: Integer[np.ndarray, " W"],
    horizon: int,
    season_length: int | None = None,
) -> Float[np.ndarray, "W H"]:
    """Repeat the last observed value of the same season, walking back season by season past missing ones.

    Args:
        panel: The series.
        series: Each window's series.
        cutoff: Rows of that series that are known.
        horizon: Steps to forecast.
        season_length: Steps per season; None is the panel's.

    Returns:
        Forecasts in the unit of y; where no earlier season was observed, the naive forecast.
    """
    season = panel.season_length if season_length is None else season_length
    start = np.broadcast_to(panel.offsets[series][:, None], (len(series), horizon))
    last_season = start + cutoff[:, None] - season + np.arange(horizon) % season
    row, found = _walk_back(panel.observed, last_season, start, season)
    return np.where(found, panel.values[row], naive(panel, series, cutoff, horizon))


def _walk_back(
    observed: Bool[np.ndarray, " T"], row: Integer[np.ndarray, "W H"], start: Integer[np.ndarray, "W H"], stride: int
) -> tuple[Integer[np.ndarray, "W H"], Bool[np.ndarray, "W H"]]:
    """Step back by `stride` until an observed row; False (and row 0) where the start of the series comes first."""
    row, first = row.reshape(-1).copy(), start.reshape(-1)
    pending = np.arange(len(row))
    while len(pending):
        pending = pending[row[pending] >= first[pending]]
        pending = pending[~observed[row[pending]]]
        row[pending] -= stride
    found = row >= first
    return np.where(found, row, 0).reshape(start.shape), found.reshape(start.shape)
