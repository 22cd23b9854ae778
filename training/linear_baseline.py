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

MAX_WINDOWS = 20_000
MAX_CONTEXT_COLUMNS = 2_000
MAX_COVARIATE_COLUMNS = 1_000
MULTIPLY_ADDS = 30_000_000_000  # of the normal equations: about a second on one core
VALUES_PER_BATCH = 1 << 23
ROWS_PER_PRODUCT = 4_096
TAIL_SHARE = 0.15
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DEFAULT_RIDGE = 1e-2
MIN_ROWS_TO_CHOOSE = 64
SCALE_FLOOR = 0.1
MAX_ROW_WEIGHT = 10.0
FILL_ROUNDS = 5


class _Rows(NamedTuple):
    """Regression rows in the scaled space of their windows; `weight` turns an error into spreads of the series."""

    features: Float[Tensor, "W K"]
    target: Float[Tensor, "W H"]
    target_mask: Bool[Tensor, "W H"]
    loc: Float64[Tensor, "W 1"]
    scale: Float64[Tensor, "W 1"]
    weight: Float[Tensor, "W 1"]
    is_known: Bool[Tensor, " W"]

    def select(self, chosen: Bool[Tensor, " W"]) -> _Rows:
        return _Rows(*(part[chosen] for part in self))


@dataclass(frozen=True)
class _Reader:
    """Turns windows into regression rows: context oldest first, covariates step by step, then a one."""

    store: WindowStore
    spread: Float64[Tensor, " N"]
    covariate_loc: Float[Tensor, " F"]
    covariate_scale: Float[Tensor, " F"]

    def read(self, series: Int64[Tensor, " W"], cutoff: Int64[Tensor, " W"]) -> _Rows:
        """Read all windows, a batch at a time."""
        length = self.store.context_length + self.store.horizon
        batch_size = max(1, VALUES_PER_BATCH // (length * (1 + len(self.covariate_loc))))
        parts = zip(series.split(batch_size), cutoff.split(batch_size), strict=True)
        batches = [self._read_batch(s, c) for s, c in parts]
        return _Rows(*(torch.cat(part) for part in zip(*batches, strict=True)))

    def _read_batch(self, series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"]) -> _Rows:
        window = self.store.gather(series, cutoff)
        inputs = ForecastInputs(*(part.to("cpu") for part in window.inputs))
        spread = self.spread[series][:, None]
        loc, scale = _window_scale(inputs.context.double(), inputs.observed_mask, spread)
        context = torch.where(inputs.observed_mask, (inputs.context.double() - loc) / scale, 0.0)
        mask = window.target_mask.to("cpu")
        weight = torch.where(spread > 0.0, scale / spread, 1.0).clamp(max=MAX_ROW_WEIGHT)
        return _Rows(
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
            loc=loc,
            scale=scale,
            weight=weight.float(),
            is_known=inputs.observed_mask.any(dim=1),
        )


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
        rows = self.reader.read(torch.from_numpy(series), torch.from_numpy(cutoff))
        forecast = rows.loc + rows.scale * (rows.features.double() @ self.weights)
        return torch.where(rows.is_known[:, None], forecast, torch.nan).float().numpy()


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
    num_wanted = _num_affordable(store, num_covariates, num_windows)
    series, cutoff = _sample(TrainingWindows(store, splits), num_wanted, seed)
    rows = reader.read(series, cutoff)
    usable = rows.is_known & rows.target_mask.any(dim=1)
    if not usable.any():
        problem = Problem("no_training_windows", "linear baseline", "has no training window with observed values.")
        raise DataError([problem])
    rows, series, cutoff = rows.select(usable), series[usable], cutoff[usable]
    is_fit, is_tail = _split_tail(series, cutoff, torch.from_numpy(splits.train_end), store.horizon)
    equations = _NormalEquations.of(rows.select(is_fit))
    ridge = _choose_ridge(equations, rows.select(is_tail))
    equations = equations.with_rows_of(_NormalEquations.of(rows.select(~is_fit)))
    return LinearBaseline(reader, equations.solve(ridge), ridge, equations.num_rows)


@dataclass(frozen=True)
class _NormalEquations:
    """Weighted least squares with a ridge; products in float32 by chunks, sums and solutions in float64."""

    gram: Float64[Tensor, "K K"]
    cross: Float64[Tensor, "K H"]
    unit: float
    num_rows: int
    gaps: _Rows

    @classmethod
    def of(cls, rows: _Rows) -> _NormalEquations:
        weighted = rows.features * rows.weight
        return cls(
            gram=_product(weighted, weighted),
            cross=_product(weighted, rows.target * rows.weight),
            unit=float((rows.weight.double() ** 2).sum()),
            num_rows=len(rows.target),
            gaps=rows.select(~rows.target_mask.all(dim=1)),
        )

    def with_rows_of(self, other: _NormalEquations) -> _NormalEquations:
        """The equations of the rows of both."""
        gaps = _Rows(*(torch.cat(parts) for parts in zip(self.gaps, other.gaps, strict=True)))
        return _NormalEquations(
            gram=self.gram + other.gram,
            cross=self.cross + other.cross,
            unit=self.unit + other.unit,
            num_rows=self.num_rows + other.num_rows,
            gaps=gaps,
        )

    def solve(self, ridge: float) -> Float64[Tensor, "K H"]:
        penalty = torch.full((len(self.gram),), ridge * self.unit, dtype=torch.float64)
        penalty[-1] = 1e-8 * self.unit  # the intercept is free; this keeps the matrix positive
        factor = torch.linalg.cholesky(self.gram + torch.diag(penalty))
        weights = torch.cholesky_solve(self.cross, factor)
        for _ in range(FILL_ROUNDS if len(self.gaps.target) else 0):
            guess = torch.where(self.gaps.target_mask, 0.0, self.gaps.features @ weights.float())
            filled = _product(self.gaps.features, guess * self.gaps.weight**2)
            weights = torch.cholesky_solve(self.cross + filled, factor)
        return weights


def _product(left: Float[Tensor, "W K"], right: Float[Tensor, "W J"]) -> Float64[Tensor, "K J"]:
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64)
    for a, b in zip(left.split(ROWS_PER_PRODUCT), right.split(ROWS_PER_PRODUCT), strict=True):
        total += (a.T @ b).double()
    return total


def _choose_ridge(equations: _NormalEquations, tail: _Rows) -> float:
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


def _num_affordable(store: WindowStore, num_covariates: int, wanted: int) -> int:
    """Windows for which the normal equations stay quick, but at least twice as many as columns."""
    columns = min(store.horizon * num_covariates, MAX_COVARIATE_COLUMNS)
    columns += min(store.context_length, MAX_CONTEXT_COLUMNS)
    return min(wanted, max(2 * columns, MULTIPLY_ADDS // columns**2))


def _sample(windows: TrainingWindows, num_wanted: int, seed: int) -> tuple[Int64[Tensor, " W"], Int64[Tensor, " W"]]:
    """Training windows, one drawn from each of `num_wanted` equal stretches; all of them where they are few."""
    if windows.num_windows <= num_wanted:
        return windows.locate(torch.arange(windows.num_windows))
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(num_wanted) + torch.rand(num_wanted, generator=generator, dtype=torch.float64)
    return windows.locate((place * (windows.num_windows / num_wanted)).long().clamp(max=windows.num_windows - 1))


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
