"""What training minimises, in units of each window's scale, averaged over the observed targets only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.forecaster import ScaledForecast
from training.config import LossName

HUBER_DELTA = 1.0
# Loss of every forecast value from prediction and target, both without unit.
PointwiseLoss = Callable[[Float[Tensor, "B H Q"], Float[Tensor, "B H 1"]], Float[Tensor, "B H Q"]]


class ForecastLoss(NamedTuple):
    """A loss that compares a scaled forecast with targets in the unit of `y`.

    Training and validation use the same one, so that their curves can be read against each other.

    Attributes:
        name: Its name in the configuration.
        pointwise: Loss of every single value.
    """

    name: LossName
    pointwise: PointwiseLoss

    def __call__(
        self,
        forecast: ScaledForecast,
        target: Float[Tensor, "B H"],
        target_mask: Bool[Tensor, "B H"],
        scale_floor: Float[Tensor, "B 1"],
    ) -> Float[Tensor, ""]:
        """Mean loss over the observed targets.

        Args:
            forecast: The network's output.
            target: Future values in the unit of `y`.
            target_mask: True where the target was observed.
            scale_floor: Smallest scale that errors are measured in, in the unit of `y`: a nearly constant window in a
                lively series must not count a thousandfold.

        Returns:
            The loss, dimensionless; 0 if nothing was observed.
        """
        total, count = self.window_sums(forecast, target, target_mask, scale_floor)
        return total.sum() / count.sum().clamp(min=1.0)

    def window_sums(
        self,
        forecast: ScaledForecast,
        target: Float[Tensor, "B H"],
        target_mask: Bool[Tensor, "B H"],
        scale_floor: Float[Tensor, "B 1"],
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Summed loss and number of observed targets of every window, to average over several batches exactly."""
        prediction, loc, scale = forecast
        unit = torch.maximum(scale, scale_floor)
        # A missing target takes the level, so that it stays finite; its loss is masked away.
        known = torch.where(target_mask, target, loc)
        scaled_target = ((known - loc) / unit)[..., None]
        scaled_prediction = prediction * (scale / unit)[..., None]
        per_step = self.pointwise(scaled_prediction, scaled_target).mean(dim=-1)
        mask = target_mask.to(per_step.dtype)
        return (per_step * mask).sum(dim=1), mask.sum(dim=1)


def quantile_loss(levels: tuple[float, ...]) -> PointwiseLoss:
    """Twice the pinball loss (Koenker & Bassett 1978), so that the median's loss is the absolute error."""

    def pointwise(prediction: Float[Tensor, "B H Q"], target: Float[Tensor, "B H 1"]) -> Float[Tensor, "B H Q"]:
        level = prediction.new_tensor(levels)
        error = target - prediction
        return 2.0 * torch.maximum(level * error, (level - 1.0) * error)

    return pointwise


def build_loss(name: LossName, levels: tuple[float, ...], head: str) -> ForecastLoss:
    """The loss of that name; `auto` is quantile for the quantile head and mae for the point head."""
    if name == "auto":
        name = "quantile" if head == "quantile" else "mae"
    pointwise: dict[LossName, PointwiseLoss] = {
        "quantile": quantile_loss(levels),
        "mae": lambda prediction, target: (prediction - target).abs(),
        "mse": lambda prediction, target: (prediction - target).square(),
        "huber": lambda prediction, target: functional.huber_loss(
            prediction, target.expand_as(prediction), reduction="none", delta=HUBER_DELTA
        ),
    }
    return ForecastLoss(name, pointwise[name])
