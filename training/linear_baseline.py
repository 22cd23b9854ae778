"""The linear baseline: one ridge regression from scaled context and known-future covariates to the whole horizon.

Closed form, global over all series, a second or two: the floor that every recurrent network must beat. It reads the
same windows as the network, through the same store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor
from torch.nn.functional import avg_pool1d

from models.forecaster import ForecastInputs
from training.data.panel import Panel
from training.data.rows import series_blocks
from training.data.splits import Splits
from training.data.windows import TrainingWindows, WindowStore, covariate_statistics
from training.errors import DataError, Problem
from training.ridge import MAX_CONTEXT_COLUMNS, NormalEquations, Rows, affordable_rows, row_weight

MAX_WINDOWS = 20_000
MAX_COVARIATE_COLUMNS = 1_000
VALUES_PER_BATCH = 1 << 23
TAIL_SHARE = 0.15
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DEFAULT_RIDGE = 1e-2
MIN_ROWS_TO_CHOOSE = 64
SCALE_FLOOR = 0.1


class _Windows(NamedTuple):
    """Regression rows in the scaled space of their windows, and the way back."""

    rows: Rows
    loc: Float64[Tensor, "W 1"]
    scale: Float64[Tensor, "W 1"]
    is_known: Bool[Tensor, " W"]


@dataclass(frozen=True)
class _Reader:
    """Turns windows into regression rows: context oldest first, covariates step by step, then a one."""

    store: WindowStore
    spread: Float64[Tensor, " N"]
    covariate_loc: Float[Tensor, " F"]
    covariate_scale: Float[Tensor, " F"]

    def read(self, series: Int64[Tensor, " W"], cutoff: Int64[Tensor, " W"]) -> _Windows:
        """Read all windows, a batch at a time."""
        length = self.store.context_length + self.store.horizon
        batch_size = max(1, VALUES_PER_BATCH // (length * (1 + len(self.covariate_loc))))
        parts = zip(series.split(batch_size), cutoff.split(batch_size), strict=True)
        batches = [self._read_batch(s, c) for s, c in parts]
        rows, *others = zip(*batches, strict=True)
        return _Windows(Rows.joined(list(rows)), *(torch.cat(part) for part in others))

    def _read_batch(self, series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"]) -> _Windows:
        window = self.store.gather(series, cutoff)
        inputs = ForecastInputs(*(part.to("cpu") for part in window.inputs))
        spread = self.spread[series][:, None]
        loc, scale = _window_scale(inputs.context.double(), inputs.observed_mask, spread)
        context = torch.where(inputs.observed_mask, (inputs.context.double() - loc) / scale, 0.0)
        mask = window.target_mask.to("cpu")
        rows = Rows(
            features=torch.cat(
                [
                    context[:, -MAX_CONTEXT_COLUMNS:].float(),
                    _pool((inputs.future_covariates - self.covariate_loc) / self.covariate_scale),
                    torch.ones(len(series), 1),
                ],
                dim=1,
            ),
            target=torch.where(mask, (window.target.to("cpu").double() - loc) / scale, 0.0).float(),
            target_mask=mask,
            weight=row_weight(scale, spread).float(),
        )
        return _Windows(rows, loc, scale, inputs.observed_mask.any(dim=1))


@dataclass(frozen=True)
class LinearBaseline:
    """A fitted linear baseline.

    Attributes:
        reader: Makes regression rows of windows.
        weights: From features to the horizon, in scaled space.
        ridge: The penalty that was chosen, per unit of row weight.
        num_windows: Training windows it was fitted on.
    """

    reader: _Reader
    weights: Float64[Tensor, "K H"]
    ridge: float
    num_windows: int

    def predict(self, series: Integer[np.ndarray, " W"], cutoff: Integer[np.ndarray, " W"]) -> Float[np.ndarray, "W H"]:
        """Forecast windows, in the unit of y; NaN where nothing of the context was observed."""
        windows = self.reader.read(torch.from_numpy(series), torch.from_numpy(cutoff))
        forecast = windows.loc + windows.scale * (windows.rows.features.double() @ self.weights)
        return torch.where(windows.is_known[:, None], forecast, torch.nan).float().numpy()


def fit_linear(
    panel: Panel, store: WindowStore, splits: Splits, num_windows: int = MAX_WINDOWS, seed: int = 0
) -> LinearBaseline:
    """Fit the ridge regression on windows whose targets lie in the training rows.

    Every window is centred on the mean of its context and divided by its standard deviation (floored at a tenth of the
    series' spread); missing context is 0 there, the mean. Rows are weighted so that the squared error is in units of
    the spread of the series, the currency of MASE. Missing targets do not count: their cells are filled with the
    regression's own forecast a few times over (expectation maximisation). The penalty is chosen by mean absolute
    error on the last 15 % of each series' training rows, then everything is refitted. Long covariate blocks are
    averaged over neighbouring steps.

    Args:
        panel: The series.
        store: Windows over the panel.
        splits: Where the training rows end.
        num_windows: Training windows sampled at most; fewer where the regression is wide.
        seed: Of the sampling.

    Returns:
        The fitted baseline.

    Raises:
        DataError: If there is no training window with an observed context and target.
    """
    statistics = covariate_statistics(panel, splits)
    num_covariates = len(panel.columns.future_features)
    reader = _Reader(
        store,
        spread=torch.from_numpy(_training_spread(panel, splits.train_end)),
        covariate_loc=statistics.past_loc[:num_covariates].float(),
        covariate_scale=statistics.past_scale[:num_covariates].float(),
    )
    columns = min(store.horizon * num_covariates, MAX_COVARIATE_COLUMNS) + min(store.context_length, MAX_CONTEXT_COLUMNS)
    series, cutoff = TrainingWindows(store, splits).spread(affordable_rows(columns, num_windows), seed)
    rows, _, _, is_known = reader.read(series, cutoff)
    usable = is_known & rows.target_mask.any(dim=1)
    if not usable.any():
        problem = Problem("no_training_windows", "linear baseline", "has no training window with observed values.")
        raise DataError([problem])
    rows, series, cutoff = rows.select(usable), series[usable], cutoff[usable]
    is_fit, is_tail = _split_tail(series, cutoff, torch.from_numpy(splits.train_end), store.horizon)
    equations = NormalEquations.of(rows.select(is_fit))
    ridge = _choose_ridge(equations, rows.select(is_tail))
    equations = equations.with_rows_of(NormalEquations.of(rows.select(~is_fit)))
    return LinearBaseline(reader, equations.solve(ridge), ridge, equations.num_rows)


def _choose_ridge(equations: NormalEquations, tail: Rows) -> float:
    if min(equations.num_rows, len(tail.target)) < MIN_ROWS_TO_CHOOSE:
        return DEFAULT_RIDGE

    def loss(ridge: float) -> float:
        error = (tail.target - tail.features @ equations.solve(ridge).float()).abs() * tail.weight
        return float(error[tail.target_mask].mean())

    return min(RIDGES, key=loss)


def _split_tail(
    series: Int64[Tensor, " W"], cutoff: Int64[Tensor, " W"], train_end: Int64[Tensor, " N"], horizon: int
) -> tuple[Bool[Tensor, " W"], Bool[Tensor, " W"]]:
    """Windows whose targets end before the tail of their series' training rows, and those whose targets lie in it."""
    end = train_end[series]
    tail_start = end - (TAIL_SHARE * end).long().clamp(min=horizon)
    return cutoff + horizon <= tail_start, cutoff >= tail_start


def _window_scale(
    context: Float64[Tensor, "B L"], mask: Bool[Tensor, "B L"], spread: Float64[Tensor, "B 1"]
) -> tuple[Float64[Tensor, "B 1"], Float64[Tensor, "B 1"]]:
    """Mean and floored standard deviation of the observed context."""
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    loc = torch.where(mask, context, 0.0).sum(dim=1, keepdim=True) / count
    deviation = torch.where(mask, context - loc, 0.0).square().sum(dim=1, keepdim=True).div(count).sqrt()
    return loc, deviation.maximum(SCALE_FLOOR * spread).maximum(1e-6 * loc.abs() + 1e-12)


def _pool(covariates: Float[Tensor, "B H F"]) -> Float[Tensor, "B columns"]:
    """All steps side by side, averaged over the shortest blocks of steps that keep the columns affordable."""
    block = max(1, -(-covariates.shape[1] * covariates.shape[2] // MAX_COVARIATE_COLUMNS))
    if block == 1 or covariates.shape[2] == 0:
        return covariates.flatten(1)
    return avg_pool1d(covariates.transpose(1, 2), min(block, covariates.shape[1]), ceil_mode=True).flatten(1)


def _training_spread(panel: Panel, train_end: Integer[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Standard deviation of the observed training rows of every series; 0 where there are none."""
    blocks = series_blocks(panel.offsets)
    return np.concatenate([_block_spread(panel, train_end[first:stop], first, stop) for first, stop in blocks])


def _block_spread(
    panel: Panel, train_end: Integer[np.ndarray, " n"], first: int, stop: int
) -> Float64[np.ndarray, " n"]:
    num_series, begin, end = stop - first, panel.offsets[first], panel.offsets[stop]
    owner = np.repeat(np.arange(num_series), panel.lengths[first:stop])
    trained = panel.offsets[first:stop] - begin + train_end
    is_used = panel.observed[begin:end] & (np.arange(len(owner)) < trained[owner])
    owner, values = owner[is_used], panel.values[begin:end][is_used].astype(np.float64)
    count = np.maximum(np.bincount(owner, minlength=num_series), 1)
    mean = np.bincount(owner, values, minlength=num_series) / count
    return np.sqrt(np.bincount(owner, (values - mean[owner]) ** 2, minlength=num_series) / count)
