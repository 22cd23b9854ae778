"""The linear model, trained by gradient descent like the others: the floor every recurrent network must beat."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import LinearConfig
from models.forecaster import Forecaster, ForecastInputs


class LinearReading(NamedTuple):
    """What a linear map reads of windows, and what its forecasts count in.

    Attributes:
        context: Without unit, 0 where not observed.
        loc: Level that a forecast of 0 stands for, in the unit of `y`.
        scale: What a forecast of 1 is above it.
        covariates: Channels of every horizon step, standardised.
    """

    context: Float[Tensor, "B L"]
    loc: Float[Tensor, "B 1"]
    scale: Float[Tensor, "B 1"]
    covariates: Float[Tensor, "B H E"]


class LinearStart(NamedTuple):
    """A linear forecast of the center, without unit.

    Attributes:
        weight: From the newest steps of the context; older ones count for nothing.
        bias: Of every horizon step.
        covariates: Effect of every channel, the same for all steps.
        errors: Target less forecast, NaN where not known: what is around the center.
    """

    weight: Float[Tensor, "H J"]
    bias: Float[Tensor, " H"]
    covariates: Float[Tensor, " E"]
    errors: Float[Tensor, "W H"]


@final
class LinearForecaster(Forecaster):
    """One linear map from the scaled context, and one from the covariates of each step, to the output.

    Zeng et al. 2023 (2205.13504) showed how far this goes.

    Args:
        config: Sizes, scaler and head.
    """

    config: LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        num_channels = self.output.num_channels
        self.decoder = nn.Linear(config.context_length, config.horizon * num_channels)
        # Like the mean of the window, so that training starts from a sensible forecast.
        nn.init.constant_(self.decoder.weight, 1.0 / config.context_length)
        nn.init.zeros_(self.decoder.bias)
        num_covariates = config.num_horizon_channels
        self.covariates = nn.Linear(num_covariates, num_channels, bias=False) if num_covariates else None

    def predict_scaled(self, inputs: ForecastInputs, truncation_steps: int | None) -> Float[Tensor, "B H K"]:
        """Linear map of the window, plus linear map of each step's covariates."""
        raw = self.decoder(inputs.context).view(-1, self.config.horizon, self.output.num_channels)
        if self.covariates is not None:
            raw = raw + self.covariates(horizon_covariates(inputs))
        return self.output.constrain(raw)

    def read_linear(self, inputs: ForecastInputs) -> LinearReading:
        """The scaled windows."""
        standardised, window = self.standardise(inputs)
        return LinearReading(standardised.context, window.loc, window.scale, horizon_covariates(standardised))

    @torch.no_grad()
    def start_at(self, start: LinearStart) -> None:
        """Begin with a linear forecast of the center; only with an output that has a `center_channel`."""
        channel, shape = self.output.center_channel, (self.config.horizon, self.output.num_channels)
        assert channel is not None
        of_channels = self.decoder.weight.view(*shape, -1)
        of_channels.zero_()
        of_channels[:, channel, -start.weight.shape[1] :] = start.weight
        biases = self.output.start_around(start.errors)
        biases[:, channel] += start.bias
        self.decoder.bias.copy_(biases.reshape(-1))
        if self.covariates is not None:
            self.covariates.weight.zero_()
            self.covariates.weight[channel] = start.covariates

    def layers(self) -> dict[str, nn.Module]:
        """`decoder`, and `covariates` if there are any."""
        parts: dict[str, nn.Module] = {"decoder": self.decoder}
        return parts if self.covariates is None else parts | {"covariates": self.covariates}


def horizon_covariates(inputs: ForecastInputs) -> Float[Tensor, "B H E"]:
    """Future and static channels of every horizon step."""
    static = inputs.static_covariates[:, None].expand(-1, inputs.future_covariates.shape[1], -1)
    return torch.cat((inputs.future_covariates, static), dim=-1)
