"""Networks that update their state with every step of the context: rnn, gru, lstm."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import StepwiseConfig
from models.decoders import DirectDecoder
from models.forecaster import ForecastInputs, RecurrentForecaster, step_channels
from models.heads import Head
from models.recurrent import RecurrentEncoder

# Channels of the decoder's output; the head reads them.
NUM_FEATURES = 64


@final
class StepwiseForecaster(RecurrentForecaster):
    """Encoder over the context, direct decoder from the final state, head.

    Args:
        config: An `rnn`, `gru` or `lstm` description.
    """

    config: StepwiseConfig

    def __init__(self, config: StepwiseConfig) -> None:
        super().__init__(config)
        # Per step: scaled y, whether it was observed, the covariates.
        input_size = 2 + config.num_past_covariates + config.num_static_covariates
        self.encoder = RecurrentEncoder(config, input_size)
        self.dropout = nn.Dropout(config.dropout)
        num_covariates = config.num_future_covariates + config.num_static_covariates
        self.decoder = DirectDecoder(config.hidden_size, config.horizon, num_covariates, NUM_FEATURES)
        self.head = Head(NUM_FEATURES, self.output)

    def predict_scaled(self, inputs: ForecastInputs, truncation_steps: int | None) -> Float[Tensor, "B H K"]:
        """Encode the context and decode the horizon from the final state."""
        encoded = self.encoder(self.encoder_inputs(inputs), truncation_steps=truncation_steps)
        state = self.dropout(encoded.states[-1][0][-1])
        static = inputs.static_covariates[:, None].expand(-1, self.config.horizon, -1)
        features = self.decoder(state, torch.cat((inputs.future_covariates, static), dim=-1))
        prediction: Tensor = self.head(features)
        return prediction

    def encoder_inputs(self, inputs: ForecastInputs) -> Float[Tensor, "B L C"]:
        """The channels of every step."""
        return step_channels(inputs)

    def layers(self) -> dict[str, nn.Module]:
        """`lstm.0`, `lstm.1`, ..., `decoder`, `head`."""
        return self.recurrent_layers() | {"decoder": self.decoder, "head": self.head}

    def relu_layers(self) -> dict[str, tuple[nn.Module, ...]]:
        """Both of the decoder's."""
        return {"decoder": (self.decoder.step_projection, self.decoder.mixer)}
