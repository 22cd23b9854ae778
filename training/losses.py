"""What training minimises, averaged over the observed targets only.

Absolute errors count in units of their window's scale, squared ones and Fourier coefficients in units of their series' spread: by
the square of a window's scale the quietest windows would count thousands of times as much as the rest (ETTh1, horizon 96: test
error 0.392 so, 0.374 in the unit of the series).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.config import DISTRIBUTION_NAMES, HeadName
from models.distributions import Distribution, build_distribution
from models.forecaster import ScaledForecast
from training.config import LossName

HUBER_DELTA = 1.0
# Smallest scale that a window's errors are measured in, as a share of its series' standard deviation over the training rows.
SCALE_FLOOR_SHARE = 0.01
# Share of the errors' Fourier coefficients in the loss `frequency`; the rest is Huber's.
FREQUENCY_SHARE = 0.8
IN_SPREAD: tuple[LossName, ...] = ("mse", "huber", "frequency")
# Loss of every forecast value from prediction and target, both without unit.
PointwiseLoss = Callable[[Float[Tensor, "B H Q"], Float[Tensor, "B H 1"]], Float[Tensor, "B H Q"]]
# Loss of every step from the forecast, finite targets in the unit of `y`, where these are real, and the unit that errors are
# measured in.
StepLoss = Callable[
    [ScaledForecast, Float[Tensor, "B H"], Bool[Tensor, "B H"], Float[Tensor, "B 1"]], Float[Tensor, "B H"]
]


class ForecastLoss(NamedTuple):
    """A loss that compares a scaled forecast with targets in the unit of `y`.

    Training and validation use the same one, so that their curves can be read against each other.

    Attributes:
        name: Its name in the configuration.
        per_step: Loss of every step.
        unit: What errors are measured in: the scale of their window, or the spread of their series.
    """

    name: LossName
    per_step: StepLoss
    unit: Literal["window", "series"] = "window"

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
            scale_floor: Smallest scale that errors are measured in, `SCALE_FLOOR_SHARE` of the series' spread, in the unit
                of `y`: a nearly constant window in a lively series must not count a thousandfold.

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
        # A missing target takes the level, so that it stays finite; its loss is masked away.
        known = torch.where(target_mask, target, forecast.loc)
        per_step = self.per_step(forecast, known, target_mask, self._unit(forecast.scale, scale_floor))
        mask = target_mask.to(per_step.dtype)
        return (per_step * mask).sum(dim=1), mask.sum(dim=1)

    def _unit(self, scale: Float[Tensor, "B 1"], scale_floor: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """What errors are measured in; without a floor, of a series that does not vary or is not to be scaled, as they are."""
        if self.unit == "series":
            return torch.where(scale_floor > 0, scale_floor / SCALE_FLOOR_SHARE, scale)
        return torch.maximum(scale, scale_floor)


def error_loss(pointwise: PointwiseLoss) -> StepLoss:
    """Mean over the forecast values of a step of a loss of their errors, measured in the unit."""

    def per_step(
        forecast: ScaledForecast, target: Float[Tensor, "B H"], _mask: Bool[Tensor, "B H"], unit: Float[Tensor, "B 1"]
    ) -> Float[Tensor, "B H"]:
        scaled_target = ((target - forecast.loc) / unit)[..., None]
        scaled_prediction = forecast.prediction * (forecast.scale / unit)[..., None]
        return pointwise(scaled_prediction, scaled_target).mean(dim=-1)

    return per_step


def frequency_loss(pointwise: PointwiseLoss) -> StepLoss:
    """A loss of single errors, and the size of the Fourier coefficients of all errors of a window (Wang et al. 2024, 2402.02399).

    Steps of a season err together, which a loss step by step does not see; their coefficients hardly do. An unknown target
    counts as hit.
    """
    error_at_a_step = error_loss(pointwise)

    def per_step(
        forecast: ScaledForecast, target: Float[Tensor, "B H"], mask: Bool[Tensor, "B H"], unit: Float[Tensor, "B 1"]
    ) -> Float[Tensor, "B H"]:
        values = forecast.prediction[..., 0].to(target.dtype)  # half precision has no Fourier transform
        error = (values * forecast.scale + forecast.loc - target) / unit * mask
        size = torch.fft.rfft(error, norm="ortho").abs().mean(dim=1, keepdim=True)
        return torch.lerp(error_at_a_step(forecast, target, mask, unit), size.expand_as(error), FREQUENCY_SHARE)

    return per_step


def likelihood_loss(distribution: Distribution) -> StepLoss:
    """Negative log likelihood of the target without unit; for counts of the target itself.

    A nearly constant window in a lively series would count by the square of its error over its own tiny scale; weighted
    by the squared share of that scale in the unit it counts by the square of its error over the unit, as in `mse`.
    """

    def per_step(
        forecast: ScaledForecast, target: Float[Tensor, "B H"], _mask: Bool[Tensor, "B H"], unit: Float[Tensor, "B 1"]
    ) -> Float[Tensor, "B H"]:
        parameters = forecast.prediction.to(target.dtype)  # half precision has too few digits for a likelihood
        scaled_target = (target - forecast.loc) / forecast.scale
        loss = distribution.negative_log_likelihood(parameters, scaled_target, forecast.scale)
        return loss if distribution.is_count else loss * (forecast.scale / unit).square()

    return per_step


def quantile_loss(levels: tuple[float, ...]) -> PointwiseLoss:
    """Twice the pinball loss (Koenker & Bassett 1978), so that the median's loss is the absolute error."""

    def pointwise(prediction: Float[Tensor, "B H Q"], target: Float[Tensor, "B H 1"]) -> Float[Tensor, "B H Q"]:
        level = prediction.new_tensor(levels)
        error = target - prediction
        return 2.0 * torch.maximum(level * error, (level - 1.0) * error)

    return pointwise


def build_loss(name: LossName, levels: tuple[float, ...], head: HeadName) -> ForecastLoss:
    """The loss of that name; `auto` is quantile for the quantile head, mae for the point head, nll for distributions."""
    if name == "auto":
        name = "nll" if head in DISTRIBUTION_NAMES else ("quantile" if head == "quantile" else "mae")
    if head in DISTRIBUTION_NAMES:
        return ForecastLoss(name, likelihood_loss(build_distribution(head)))
    pointwise: dict[LossName, PointwiseLoss] = {
        "quantile": quantile_loss(levels),
        "mae": lambda prediction, target: (prediction - target).abs(),
        "mse": lambda prediction, target: (prediction - target).square(),
        "huber": lambda prediction, target: functional.huber_loss(
            prediction, target.expand_as(prediction), reduction="none", delta=HUBER_DELTA
        ),
    }
    unit: Literal["window", "series"] = "series" if name in IN_SPREAD else "window"
    if name == "frequency":
        return ForecastLoss(name, frequency_loss(pointwise["huber"]), unit)
    return ForecastLoss(name, error_loss(pointwise[name]), unit)
