"""The linear model, trained by gradient descent like the others: the floor every recurrent network must beat."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import LinearConfig
from models.forecaster import Forecaster, ForecastInputs


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
            static = inputs.static_covariates[:, None].expand(-1, self.config.horizon, -1)
            raw = raw + self.covariates(torch.cat((inputs.future_covariates, static), dim=-1))
        return self.output.constrain(raw)

    def layers(self) -> dict[str, nn.Module]:
        """`decoder`, and `covariates` if there are any."""
        parts: dict[str, nn.Module] = {"decoder": self.decoder}
        return parts if self.covariates is None else parts | {"covariates": self.covariates}
