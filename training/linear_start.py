"""Where the linear map of a network starts: at a ridge regression over the training windows, in closed form.

Gradient descent comes to it slowly where a context is long, for neighbouring steps say nearly the same: on half-hourly load
with 672 steps the loss on held-out rows was 0.193 after 2,000 steps, and 0.045 after 500 from here. What the regression
cannot minimise, the losses of quantiles, is left to training.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from models.forecaster import Forecaster, ForecastInputs
from models.linear import LinearForecaster, LinearReading, LinearStart
from models.segment import SegmentForecaster
from training.data.panel import Panel
from training.data.splits import Splits
from training.data.windows import TrainingWindows, WindowStore
from training.ridge import MAX_CONTEXT_COLUMNS, NormalEquations, Rows, affordable_rows, row_weight
from training.scale_floor import series_spread

# Penalty per unit of row weight, features of size 1; between 0.03 and 0.2 it hardly changes what training makes of the start.
RIDGE = 0.1
MAX_WINDOWS = 20_000
SMALLEST_SIZE = 1e-12
VALUES_PER_BATCH = 1 << 23
# Windows whose errors tell what covariates do, and how far quantiles start from the center.
MAX_ERRORS = 4_096


@torch.no_grad()
def start_linear(forecaster: Forecaster, panel: Panel, store: WindowStore, splits: Splits) -> None:
    """Start the linear map of a network, if it has one that forecasts the center, at what fits the training windows best.

    Args:
        forecaster: On the CPU, at its initialisation.
        panel: The series.
        store: Their windows.
        splits: Whose training rows count.
    """
    if isinstance(forecaster, LinearForecaster):
        linear = forecaster
    elif isinstance(forecaster, SegmentForecaster) and forecaster.linear is not None:
        linear = forecaster.linear
    else:
        return
    if linear.output.center_channel is None:
        return
    steps = min(linear.config.context_length, MAX_CONTEXT_COLUMNS)
    windows = TrainingWindows(store, splits).spread(affordable_rows(steps, MAX_WINDOWS))
    spread = series_spread(panel, splits)
    batch_size = max(1, VALUES_PER_BATCH // (store.context_length + store.horizon))
    parts = zip(*(part.split(batch_size) for part in windows), strict=True)
    rows = Rows.joined([_rows(_read(forecaster, store, *part), spread, steps) for part in parts])
    # The penalty must weigh as much where the scaler leaves the unit of y.
    size = rows.features[:, :-1].square().mean().sqrt().clamp(min=SMALLEST_SIZE)
    rows.features[:, :-1] /= size
    weights = NormalEquations.of(rows).solve(RIDGE).float()
    weight, bias = weights[:-1].T / size, weights[-1]
    few = _some(windows, MAX_ERRORS, batch_size // (1 + linear.config.num_horizon_channels))
    reading, target, mask, _ = _read(forecaster, store, *few)
    errors = torch.where(mask, target - reading.context[:, -steps:] @ weight.T - bias, torch.nan)
    covariates = _effects(reading.covariates[mask], errors[mask])
    linear.start_at(LinearStart(weight, bias, covariates, errors - reading.covariates @ covariates))


class _Windows(NamedTuple):
    reading: LinearReading
    target: Float[Tensor, "B H"]
    mask: Bool[Tensor, "B H"]
    series: Int64[Tensor, " B"]


def _read(
    forecaster: LinearForecaster | SegmentForecaster, store: WindowStore, series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"]
) -> _Windows:
    batch = store.gather(series, cutoff)
    reading = forecaster.read_linear(ForecastInputs(*(part.cpu() for part in batch.inputs)))
    mask = batch.target_mask.cpu()
    target = torch.where(mask, (batch.target.cpu() - reading.loc) / reading.scale, 0.0)
    return _Windows(reading, target, mask, series.cpu())


def _rows(windows: _Windows, spread: Float64[Tensor, " N"], steps: int) -> Rows:
    reading, target, mask, series = windows
    return Rows(
        features=torch.cat((reading.context[:, -steps:], torch.ones(len(series), 1)), dim=1),
        target=target,
        target_mask=mask,
        weight=row_weight(reading.scale, spread[series][:, None].float()),
    )


def _some(windows: tuple[Tensor, Tensor], *most: int) -> tuple[Tensor, Tensor]:
    """Windows spread over all of them, no more than any of these numbers, but one."""
    series, cutoff = windows
    chosen = torch.linspace(0, len(series) - 1, max(1, min(len(series), *most))).round().long()
    return series[chosen], cutoff[chosen]


def _effects(covariates: Float[Tensor, "T E"], errors: Float[Tensor, " T"]) -> Float[Tensor, " E"]:
    """What is left of the errors, by a regression on the covariates; nothing where nothing is known."""
    known = covariates.double()
    gram = known.T @ known
    penalty = RIDGE * max(len(errors), 1) * torch.eye(len(gram), dtype=torch.float64)
    effects: Tensor = torch.linalg.solve(gram + penalty, known.T @ errors.double())
    return effects.float()
