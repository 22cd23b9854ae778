"""Use of the past, from the outcome side: exchange everything older than a lag between windows and watch the loss.

A permutation test (Breiman 2001, for variables; here for stretches of time). It says what the network uses, whatever
its gradient looks like: a loss that does not move means that nothing older than the lag enters the forecast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from models.forecaster import ForecastInputs, RecurrentForecaster
from training.errors import DataError, Problem
from training.gradients.lags import log_spaced_lags
from training.gradients.reach import Objective
from training.gradients.trace import dropout_off

# A rise of the loss by less than this share counts as none.
USED_SHARE = 0.01
REPEATS = 3


@dataclass(frozen=True)
class PastUse:
    """How the loss answers when the past beyond a lag belongs to another window.

    Attributes:
        lags: Steps before the forecast that stay the window's own, increasing.
        loss: With the true past.
        permuted_loss: With everything older than each lag exchanged, mean over repeats.
        used_steps: Largest lag beyond which exchanging still raises the loss by 1 % or more; 0 if none does.
    """

    lags: tuple[int, ...]
    loss: float
    permuted_loss: tuple[float, ...]
    used_steps: int

    @property
    def increase(self) -> tuple[float, ...]:
        """Relative rise of the loss at each lag, 0.31 = 31 %."""
        return tuple(loss / self.loss - 1.0 if self.loss > 0 else math.nan for loss in self.permuted_loss)


@torch.no_grad()
def measure_past_use(
    forecaster: RecurrentForecaster,
    inputs: ForecastInputs,
    objective: Objective,
    lags: Sequence[int] | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> PastUse:
    """Exchange the encoder's input older than each lag between windows, by a random cycle through all of them.

    It is exchanged after scaling, so that level and scale of a window, which the scaler takes from its whole context,
    stay its own: what moves the loss is what the recurrence carries.

    Args:
        forecaster: The network.
        inputs: At least two windows, best of different times.
        objective: Validation loss of their forecast.
        lags: To test; None = `log_spaced_lags` of the context without its end, where nothing is older.
        repeats: Random cycles per lag.
        seed: Of the cycles; the run's own generator is not touched.

    Returns:
        Losses per lag.

    Raises:
        DataError: If there are fewer than two windows to exchange between.
    """
    count, length = inputs.context.shape
    if count < 2:
        message = f"exchanging the past between windows must have at least 2 windows, but has {count} instead."
        raise DataError([Problem("too_few_windows", "validation windows", message, "Validate on more windows.")])
    lags = tuple(lag for lag in sorted(lags or log_spaced_lags(length)) if lag < length)
    generator = torch.Generator().manual_seed(seed)
    orders = [_random_cycle(count, generator).to(inputs.context.device) for _ in range(repeats)]
    with dropout_off(forecaster):
        losses = [objective(forecaster.forward_scaled(inputs))]
        losses += [_permuted_loss(forecaster, inputs, objective, lag, order) for lag in lags for order in orders]
    true_loss, *rest = torch.stack(losses).double().tolist()
    permuted = tuple(sum(rest[i * repeats : (i + 1) * repeats]) / repeats for i in range(len(lags)))
    used = [lag for lag, loss in zip(lags, permuted, strict=True) if loss > true_loss * (1 + USED_SHARE)]
    return PastUse(lags, true_loss, permuted, max(used, default=0))


def _permuted_loss(
    forecaster: RecurrentForecaster, inputs: ForecastInputs, objective: Objective, lag: int, order: Int64[Tensor, " B"]
) -> Float[Tensor, ""]:
    def exchange(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        steps = arguments[0]
        old = steps.shape[1] - -(-lag // forecaster.config.steps_per_update)
        return (torch.cat((steps[order, :old], steps[:, old:]), dim=1), *arguments[1:])

    handle = forecaster.encoder.register_forward_pre_hook(exchange)
    try:
        return objective(forecaster.forward_scaled(inputs))
    finally:
        handle.remove()


def _random_cycle(count: int, generator: torch.Generator) -> Int64[Tensor, " B"]:
    """A permutation that leaves no window in its place."""
    order = torch.randperm(count, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner
