"""Networks that update their state with every step of the context: rnn, gru, lstm, minimal and dilated ones."""

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
from models.skip import LinearSkip

# Channels of the decoder's output; the head reads them.
NUM_FEATURES = 64


@final
class StepwiseForecaster(RecurrentForecaster):
    """Encoder over the context, direct decoder from the final state, head; if wanted, a linear skip to the decoder.

    Args:
        config: An `rnn`, `gru` or `lstm` description.
    """

    config: StepwiseConfig

    def __init__(self, config: StepwiseConfig) -> None:
        super().__init__(config)
        self.encoder = RecurrentEncoder(config, config.num_step_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.skip = LinearSkip(config.context_length, config.horizon) if config.skip == "linear" else None
        num_channels = config.num_horizon_channels + (self.skip is not None)
        self.decoder = DirectDecoder(config.hidden_size, config.horizon, num_channels, NUM_FEATURES)
        self.head = Head(NUM_FEATURES, self.output)

    def predict_scaled(self, inputs: ForecastInputs, truncation_steps: int | None) -> Float[Tensor, "B H K"]:
        """Encode the context and decode the horizon from the final state."""
        encoded = self.encoder(self.encoder_inputs(inputs), truncation_steps=truncation_steps)
        state = self.dropout(encoded.states[-1][0][-1])
        static = inputs.static_covariates[:, None].expand(-1, self.config.horizon, -1)
        channels: tuple[Tensor, ...] = (inputs.future_covariates, static)
        if self.skip is not None:
            channels += (self.skip(inputs.context, inputs.observed_mask)[..., None],)
        prediction: Tensor = self.head(self.decoder(state, torch.cat(channels, dim=-1)))
        return prediction

    def encoder_inputs(self, inputs: ForecastInputs) -> Float[Tensor, "B L C"]:
        """The channels of every step."""
        return step_channels(inputs)

    def layers(self) -> dict[str, nn.Module]:
        """`lstm.0`, `lstm.1`, ..., `decoder`, `head`, and `skip` where there is one."""
        after: dict[str, nn.Module] = {"decoder": self.decoder, "head": self.head}
        return self.recurrent_layers() | after | ({} if self.skip is None else {"skip": self.skip})

    def relu_layers(self) -> dict[str, tuple[nn.Module, ...]]:
        """Those of the decoder that the past must pass through; with a skip it need not pass through the first."""
        first = () if self.skip is not None else (self.decoder.step_projection,)
        return {"decoder": (*first, self.decoder.mixer)}
