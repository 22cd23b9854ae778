"""Intervals that learn along the rolling origins: adaptive conformal inference (Gibbs & Candes 2021).

Split conformal calibration promises its coverage as long as errors stay alike. Where they drift, two things follow them, once an
origin's targets have become known. Its errors join those of the calibration, and older ones count less, a constant factor per
origin (Barber, Candes, Ramdas & Tibshirani 2023). And every level is moved, `t <- t + rate * (level - share of the truth at or
below the quantile)`; the shift is the weighted quantile of the errors at `t` instead of at the level.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from models.forecaster import Forecaster
from models.heads import center_index
from training.backtest import BacktestResult
from training.conformal import WANTED_ERRORS, Errors, lending_neighbours, pool_errors
from training.data.windows import WindowStore
from training.errors import DataError, Problem

# Of the paper's 0.005 per observation this is what twenty of them do; an origin brings a whole horizon.
DEFAULT_RATE = 0.1
# Origins whose errors count as if they were all that is remembered, if they hold enough of them.
MEMORY_ORIGINS = 5


def forgetting(windows_per_origin: int, horizon: int) -> float:
    """What an error's weight is multiplied with at every origin: the fewer errors an origin brings, the longer they count.

    Args:
        windows_per_origin: Series that are forecast from an origin.
        horizon: Steps of each.
    """
    return 1.0 - 1.0 / max(MEMORY_ORIGINS, math.ceil(WANTED_ERRORS / (windows_per_origin * horizon)))


def adapt_intervals(
    result: BacktestResult, scale: Float[np.ndarray, " W"], errors: Errors, rate: float = DEFAULT_RATE
) -> BacktestResult:
    """The same backtest with quantiles that adapt from origin to origin; the median stays.

    An origin is learned from once its whole horizon lies before the next forecast: with overlapping horizons some origins later.

    Args:
        result: Forecasts of every origin.
        scale: Spread of every window's context, in the unit of `y`.
        errors: Of windows before the first origin, from `measure_errors` with the same network.
        rate: How fast levels move; 0 is split conformal, which learns nothing.

    Raises:
        DataError: If there are too few calibration errors for the outermost level.
    """
    levels, origins = result.quantile_levels, result.origins
    neighbours = lending_neighbours(errors, levels)
    if neighbours is None:
        message = "hold too few targets to calibrate the outermost level."
        raise DataError([Problem("calibration_too_short", "validation rows", message, "Raise data.val_size.")])
    rounds = [np.flatnonzero(origins.num_later == later) for later in np.unique(origins.num_later)[::-1]]
    keep = forgetting(max(len(part) for part in rounds), origins.horizon)
    wanted = np.array(levels)
    moved = wanted.copy()
    quantiles = np.array(result.quantiles, dtype=np.float32)
    known, weights = errors, np.ones(len(errors.mask))
    for number, windows in enumerate(rounds):
        if number >= origins.overlap and rate:
            learned = rounds[number - origins.overlap]
            moved = moved + rate * (wanted - _share_below(result, quantiles, learned, moved))
            known = Errors(*map(np.concatenate, zip(known, _errors_of(result, scale, learned), strict=True)))
            weights = np.concatenate([weights * keep, np.ones(len(learned))])
        shift = np.stack([_shift(known, weights, step, neighbours, moved, wanted) for step in range(origins.horizon)])
        shifted = result.quantiles[windows] + shift * scale[windows][:, None, None]
        quantiles[windows] = _in_order(shifted, center_index(levels))
    return replace(result, quantiles=quantiles)


@torch.no_grad()
def window_scales(forecaster: Forecaster, store: WindowStore, result: BacktestResult) -> Float[np.ndarray, " W"]:
    """Spread of every window's context as the network measures it, in the unit of `y`."""
    series, cutoff = (torch.from_numpy(part) for part in (result.origins.series, result.origins.cutoff))
    inputs = store.gather(series, cutoff).inputs
    return forecaster.scale_window(inputs).scale[:, 0].float().cpu().numpy()


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


def _errors_of(result: BacktestResult, scale: Float[np.ndarray, " W"], windows: np.ndarray) -> Errors:
    """Errors of the unshifted quantiles, in units of each window's scale."""
    mask = result.observed[windows] & (scale[windows] > 0)[:, None]
    error = result.y[windows][..., None] - result.quantiles[windows]
    values = np.divide(error, scale[windows][:, None, None], out=np.zeros_like(error), where=mask[..., None])
    return Errors(values, mask)


def _shift(
    errors: Errors,
    weights: Float[np.ndarray, " n"],
    step: int,
    neighbours: int,
    moved: Float[np.ndarray, " Q"],
    wanted: Float[np.ndarray, " Q"],
) -> Float[np.ndarray, " Q"]:
    """Weighted quantiles of the errors at the moved levels; beyond the outermost error nothing is known, and it stands in.

    With equal weights the error of rank `ceil((n + 1) * level)` in the upper half, and its mirror in the lower.
    """
    pool = pool_errors(errors, step, neighbours)
    part = errors.mask[:, max(0, step - neighbours) : step + neighbours + 1]
    weight = np.broadcast_to(weights[:, None], part.shape)[part]
    found = np.zeros(len(wanted))
    for k, level in enumerate(wanted):
        if level == 0.5:
            continue
        order = np.argsort(pool[:, k], kind="stable")
        below = np.cumsum(weight[order])
        position = (below[-1] + 1.0) * moved[k]
        upper = np.searchsorted(below, position - 1e-9)
        rank = upper if level > 0.5 else np.searchsorted(below, position + 1e-9, side="right") - 1
        found[k] = pool[order[min(max(int(rank), 0), len(order) - 1)], k]
    return found


def _in_order(quantiles: Float[np.ndarray, "W H Q"], center: int) -> Float[np.ndarray, "W H Q"]:
    above = np.maximum.accumulate(quantiles[..., center:], axis=-1)
    below = np.minimum.accumulate(quantiles[..., center::-1], axis=-1)[..., ::-1]
    return np.concatenate([below[..., :-1], above], axis=-1)
