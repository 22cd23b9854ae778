"""Intervals that learn along the rolling origins: adaptive conformal inference (Gibbs & Candes 2021).

Split conformal calibration promises its coverage as long as errors stay alike. Where they drift, every level is moved after
each origin whose targets have become known, `t <- t + rate * (level - share of the truth at or below the quantile)`, and the
shift is the quantile of the calibration errors at `t` instead of at the level.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from models.forecaster import Forecaster
from models.heads import center_index
from training.backtest import BacktestResult
from training.conformal import Errors, lending_neighbours, pool_errors
from training.data.windows import WindowStore
from training.errors import DataError, Problem

# Of the paper's 0.005 per observation this is what ten of them do; an origin brings a whole horizon.
DEFAULT_RATE = 0.05


def adapt_intervals(
    result: BacktestResult, scale: Float[np.ndarray, " W"], errors: Errors, rate: float = DEFAULT_RATE
) -> BacktestResult:
    """The same backtest with quantiles that adapt from origin to origin; the median stays.

    An origin is learned from once its whole horizon lies before the next forecast: with overlapping horizons some origins later.

    Args:
        result: Forecasts of every origin.
        scale: Spread of every window's context, in the unit of `y`.
        errors: Of windows before the first origin, from `measure_errors` with the same network.
        rate: How fast levels move; 0 is split conformal.

    Raises:
        DataError: If there are too few calibration errors for the outermost level.
    """
    levels, origins = result.quantile_levels, result.origins
    neighbours = lending_neighbours(errors, levels)
    if neighbours is None:
        message = "hold too few targets to calibrate the outermost level."
        raise DataError([Problem("calibration_too_short", "validation rows", message, "Raise data.val_size.")])
    pools = [np.sort(pool_errors(errors, step, neighbours), axis=0) for step in range(origins.horizon)]
    wanted = np.array(levels)
    moved = wanted.copy()
    quantiles = np.array(result.quantiles, dtype=np.float32)
    rounds = [np.flatnonzero(origins.num_later == later) for later in np.unique(origins.num_later)[::-1]]
    for number, windows in enumerate(rounds):
        if number >= origins.overlap:
            moved = moved + rate * (wanted - _share_below(result, quantiles, rounds[number - origins.overlap], moved))
        shift = np.stack([_shift(pool, moved, wanted) for pool in pools])
        shifted = result.quantiles[windows] + shift * scale[windows][:, None, None]
        quantiles[windows] = _in_order(shifted, center_index(levels))
    return replace(result, quantiles=quantiles)


@torch.no_grad()
def window_scales(forecaster: Forecaster, store: WindowStore, result: BacktestResult) -> Float[np.ndarray, " W"]:
    """Spread of every window's context as the network measures it, in the unit of `y`."""
    series, cutoff = (torch.from_numpy(part) for part in (result.origins.series, result.origins.cutoff))
    inputs = store.gather(series, cutoff).inputs
    return forecaster.scaler(inputs.context, inputs.observed_mask).scale[:, 0].float().cpu().numpy()


def _share_below(
    result: BacktestResult,
    quantiles: Float[np.ndarray, "W H Q"],
    windows: np.ndarray,
    otherwise: Float[np.ndarray, " Q"],
) -> Float[np.ndarray, " Q"]:
    """Share of the real targets at or below each quantile; `otherwise` where a round has no target."""
    mask = result.observed[windows]
    if not mask.any():
        return otherwise
    below = result.y[windows][..., None] <= quantiles[windows]
    return np.asarray(below[mask].mean(axis=0))


def _shift(pool: Float[np.ndarray, "n Q"], moved: Float[np.ndarray, " Q"], wanted: Float[np.ndarray, " Q"]) -> np.ndarray:
    """Errors at the moved levels; beyond the outermost error nothing is known, and it stands in."""
    position = (len(pool) + 1) * moved
    rank = np.where(wanted > 0.5, np.ceil(position.round(9)), np.floor(position.round(9))).astype(np.int64)
    found = pool[np.clip(rank, 1, len(pool)) - 1, np.arange(pool.shape[1])]
    return np.where(wanted == 0.5, 0.0, found)


def _in_order(quantiles: Float[np.ndarray, "W H Q"], center: int) -> Float[np.ndarray, "W H Q"]:
    above = np.maximum.accumulate(quantiles[..., center:], axis=-1)
    below = np.minimum.accumulate(quantiles[..., center::-1], axis=-1)[..., ::-1]
    return np.concatenate([below[..., :-1], above], axis=-1)
