"""What the last channels of a horizon step mean: a point, quantiles that never cross, or a distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.config import DISTRIBUTION_NAMES, DistributionName, NetworkConfig
from models.distributions import build_distribution
from models.scaling import WindowScaler, inverse

# Quantiles start at least this far apart, in units of scale: where softplus is flat there is hardly a gradient.
SMALLEST_START = 1e-2


class Output(ABC):
    """Turns the raw channels of a step into a prediction without unit, and a prediction into quantiles of `y`.

    Attributes:
        num_channels: Raw channels per step, and channels of the prediction (K).
        levels: Quantile levels of the forecast, increasing.
        center_channel: Raw channel that is the center of the prediction as it is; None where no channel is.
    """

    num_channels: int
    levels: tuple[float, ...]
    center_channel: int | None = None

    @abstractmethod
    def constrain(self, raw: Float[Tensor, "B H K"]) -> Float[Tensor, "B H K"]:
        """What the loss compares with the target, in units of `scale` around `loc`."""

    @abstractmethod
    def center(self, prediction: Float[Tensor, "B H K"]) -> Float[Tensor, "B H"]:
        """One value per step: what a recursive decoder reads as the next step's past."""

    def start_around(self, errors: Float[Tensor, "W H"]) -> Float[Tensor, "H K"]:
        """Raw channels of every step for what is around a center of 0, from errors of a forecast (NaN where not known)."""
        return errors.new_zeros(errors.shape[1], self.num_channels)

    def undo_learned(self, prediction: Float[Tensor, "B H K"], scaler: WindowScaler) -> Float[Tensor, "B H K"]:
        """Undo what a scaler with parameters has learned."""
        return scaler.undo_learned(prediction)

    def quantiles(
        self, prediction: Float[Tensor, "B H K"], loc: Float[Tensor, "B 1"], scale: Float[Tensor, "B 1"]
    ) -> Float[Tensor, "B H Q"]:
        """Quantiles of `y` in its own unit, non-decreasing along Q, in the order of `levels`."""
        return inverse(prediction, loc, scale)


@final
class PointOutput(Output):
    """One value per step."""

    num_channels = 1
    levels = (0.5,)
    center_channel = 0

    def constrain(self, raw: Float[Tensor, "B H 1"]) -> Float[Tensor, "B H 1"]:
        """As it is."""
        return raw

    def center(self, prediction: Float[Tensor, "B H 1"]) -> Float[Tensor, "B H"]:
        """The value."""
        return prediction[..., 0]


@final
class QuantileOutput(Output):
    """One value per level and step, non-decreasing along the levels by construction.

    Args:
        levels: Increasing quantile levels.
    """

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels = levels
        self.num_channels = len(levels)
        self.center_channel = self.center_index = center_index(levels)

    def start_around(self, errors: Float[Tensor, "W H"]) -> Float[Tensor, "H Q"]:
        """Such that `constrain` gives the errors' own quantiles; a center where errors are not known at all."""
        quantiles = torch.nanquantile(errors, errors.new_tensor(self.levels), dim=0).nan_to_num()
        gaps = quantiles.diff(dim=0).clamp(min=SMALLEST_START).expm1().log().T
        center = quantiles[self.center_index, :, None]
        return torch.cat((gaps[:, : self.center_index], center, gaps[:, self.center_index :]), dim=1)

    def constrain(self, raw: Float[Tensor, "B H Q"]) -> Float[Tensor, "B H Q"]:
        """Quantiles, without unit."""
        return non_crossing(raw, self.center_index)

    def center(self, prediction: Float[Tensor, "B H Q"]) -> Float[Tensor, "B H"]:
        """The level closest to the median."""
        return prediction[..., self.center_index]


@final
class DistributionOutput(Output):
    """Parameters of a distribution per step; its quantiles are computed when a forecast is asked for, not in training.

    Args:
        name: The family.
        levels: Increasing quantile levels of the forecast.
    """

    def __init__(self, name: DistributionName, levels: tuple[float, ...]) -> None:
        self.levels = levels
        self.distribution = build_distribution(name)
        self.num_channels = self.distribution.num_parameters

    def constrain(self, raw: Float[Tensor, "B H K"]) -> Float[Tensor, "B H K"]:
        """Parameters, without unit."""
        return self.distribution.constrain(raw)

    def center(self, prediction: Float[Tensor, "B H K"]) -> Float[Tensor, "B H"]:
        """The mean of the distribution."""
        return self.distribution.mean(prediction)

    def undo_learned(self, prediction: Float[Tensor, "B H K"], scaler: WindowScaler) -> Float[Tensor, "B H K"]:
        """Location and spread are undone in their own ways; counts are never scaled by a learned map."""
        if self.distribution.is_count:
            return prediction
        return self.distribution.undo_affine(prediction, scaler.undo_learned, scaler.undo_learned_spread)

    def quantiles(
        self, prediction: Float[Tensor, "B H K"], loc: Float[Tensor, "B 1"], scale: Float[Tensor, "B 1"]
    ) -> Float[Tensor, "B H Q"]:
        """The distribution's quantiles at the levels; whole numbers for counts."""
        levels = prediction.new_tensor(self.levels)
        scaled = self.distribution.inverse_cdf(prediction[..., None, :], levels, scale[..., None])
        values = inverse(scaled, loc, scale)
        return values.round() if self.distribution.is_count else values


@final
class Head(nn.Module):
    """A linear map from features to the raw channels of an output.

    Args:
        num_features: Channels from the decoder.
        output: What the channels mean.
    """

    def __init__(self, num_features: int, output: Output) -> None:
        super().__init__()
        self.projection = nn.Linear(num_features, output.num_channels)
        self.output = output

    def forward(self, features: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape K"]:
        """Prediction of every step, without unit."""
        return self.output.constrain(self.projection(features))


def center_index(levels: tuple[float, ...]) -> int:
    """Position of the level closest to the median."""
    return min(range(len(levels)), key=lambda index: abs(levels[index] - 0.5))


def non_crossing(raw: Float[Tensor, "B H Q"], center: int) -> Float[Tensor, "B H Q"]:
    """The center as it is; its neighbours at growing distances, each a softplus away from the last.

    Args:
        raw: Unconstrained outputs.
        center: Position that stays untouched.

    Returns:
        Values non-decreasing along Q.
    """
    middle = raw[..., center : center + 1]
    below = functional.softplus(raw[..., :center])
    above = functional.softplus(raw[..., center + 1 :])
    down = middle - below.flip(-1).cumsum(-1).flip(-1)
    up = middle + above.cumsum(-1)
    return torch.cat((down, middle, up), dim=-1)


def build_output(config: NetworkConfig) -> Output:
    """What the configuration's head means."""
    if config.head in DISTRIBUTION_NAMES:
        return DistributionOutput(config.head, config.quantile_levels)
    return QuantileOutput(config.quantile_levels) if config.head == "quantile" else PointOutput()
