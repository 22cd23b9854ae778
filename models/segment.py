"""The segment recurrent network (Lin et al. 2023, 2308.11200): fewer, larger updates, and a horizon decoded at once.

A context of 720 hours in segments of 24 is 30 updates, so its gradient has 30 steps to survive instead of 720. The
decoder takes one step of the same GRU for every segment of the horizon, each from the same final state; what tells the
segments apart is a learned embedding of their position.
"""

from __future__ import annotations

from typing import cast, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.config import LinearConfig, SegRNNConfig
from models.decoders import STEP_FEATURES
from models.forecaster import ForecastInputs, ForecastPart, RecurrentForecaster, ScaledForecast
from models.initialization import LayerWeights, RecurrentLayer, layer_weights
from models.linear import LinearForecaster, LinearReading, horizon_covariates
from models.recurrent import RecurrentEncoder
from models.skip import LinearSkip, last_observed

# Width of the network that joins what the state says about a step with the covariates known for it.
MIXED_FEATURES = 64


class SegmentDecoder(nn.Module):
    """All segments of the horizon from one state; linear to the steps of a segment, plus what covariates change.

    Args:
        config: Sizes.
        num_channels: Raw channels per step (K).
    """

    def __init__(self, config: SegRNNConfig, num_channels: int) -> None:
        super().__init__()
        self.horizon, self.segment_length = config.horizon, config.segment_length
        self.position = nn.Parameter(torch.randn(config.num_output_segments, config.hidden_size))
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Linear(config.hidden_size, config.segment_length * num_channels)
        num_covariates = config.num_horizon_channels + (config.skip == "linear")
        self.mixer = _CovariateMixer(config, num_covariates, num_channels) if num_covariates else None

    def forward(
        self, state: Float[Tensor, "B D"], cell: LayerWeights, covariates: Float[Tensor, "B H E"]
    ) -> Float[Tensor, "B H K"]:
        """Raw channels of every step of the horizon.

        Args:
            state: Final hidden state of the top layer.
            cell: That layer's weights.
            covariates: Standardised channels known for each horizon step; E may be 0.
        """
        hidden = self.dropout(step_from_one_state(cell, self.position, state))
        raw = _join_segments(self.projection(hidden), self.segment_length)[:, : self.horizon]
        return raw if self.mixer is None else raw + self.mixer(hidden, covariates)


class _CovariateMixer(nn.Module):
    def __init__(self, config: SegRNNConfig, num_covariates: int, num_channels: int) -> None:
        super().__init__()
        self.segment_length = config.segment_length
        self.step_projection = nn.Linear(config.hidden_size, config.segment_length * STEP_FEATURES)
        self.mixer = nn.Linear(STEP_FEATURES + num_covariates, MIXED_FEATURES)
        self.projection = nn.Linear(MIXED_FEATURES, num_channels, bias=False)

    def forward(self, hidden: Float[Tensor, "B M D"], covariates: Float[Tensor, "B H E"]) -> Float[Tensor, "B H K"]:
        steps = torch.relu(_join_segments(self.step_projection(hidden), self.segment_length))
        joined = torch.cat((steps[:, : covariates.shape[1]], covariates), dim=-1)
        change: Tensor = self.projection(torch.relu(self.mixer(joined)))
        return change


def step_from_one_state(
    cell: LayerWeights, inputs: Float[Tensor, "M C"], state: Float[Tensor, "B D"]
) -> Float[Tensor, "B M D"]:
    """One GRU step for every pair of an input and a state.

    A GRU adds the product of its input to the product of its state before any nonlinearity. The inputs are the same for
    all windows and the state is the same for all segments, so M + B rows are multiplied instead of M B.

    Args:
        cell: Weights of a GRU layer, gates in torch's order.
        inputs: One per segment.
        state: One per window.

    Returns:
        The new state of every window for every segment.
    """
    from_input = functional.linear(inputs, cell.weight_ih, cell.bias_ih)[None]
    from_state = functional.linear(state, cell.weight_hh, cell.bias_hh)[:, None]
    size = state.shape[-1]
    # As few passes over B M D numbers as there can be: they cost more than the products now.
    gates = (from_input[..., : 2 * size] + from_state[..., : 2 * size]).sigmoid_()
    reset, update = gates.split(size, dim=-1)
    new = torch.addcmul(from_input[..., 2 * size :], reset, from_state[..., 2 * size :]).tanh_()
    return torch.lerp(new, state[:, None], update)


def _join_segments(segments: Float[Tensor, "B M SK"], segment_length: int) -> Float[Tensor, "B MS K"]:
    batch, count, width = segments.shape
    return segments.reshape(batch, count * segment_length, width // segment_length)


@final
class SegmentForecaster(RecurrentForecaster):
    """Segments of the context through a linear map and a GRU, the horizon from its final state and, if wanted, a skip.

    The context is filled up with unobserved steps in front where it is no multiple of the segment.

    With a `linear_share` the forecast is a mean of this one and of a linear map's, which learns from its own errors: where
    the two are about as good these partly cancel (Bates & Granger 1969, doi:10.1057/jors.1969.103).

    Args:
        config: Sizes.
    """

    config: SegRNNConfig

    def __init__(self, config: SegRNNConfig) -> None:
        super().__init__(config)
        # Per step: scaled y, whether it was observed, the past covariates; per segment: the static ones.
        step_channels = 2 + config.num_past_covariates
        self.embedding = nn.Linear(
            config.segment_length * step_channels + config.num_static_channels, config.hidden_size
        )
        self.encoder = RecurrentEncoder(config, config.hidden_size)
        self.decoder = SegmentDecoder(config, self.output.num_channels)
        self.skip = LinearSkip(config.recurrent_steps, config.horizon) if config.skip == "linear" else None
        self.linear = LinearForecaster(_linear_part(config)) if config.linear_share else None

    def predict_scaled(self, inputs: ForecastInputs, truncation_steps: int | None) -> Float[Tensor, "B H K"]:
        """Mean of the parts by their shares."""
        recurrent, *others = self._predict_parts(inputs, truncation_steps)
        return torch.lerp(recurrent, others[0], self.config.linear_share) if others else recurrent

    def forward_parts(
        self,
        inputs: ForecastInputs,
        target: Float[Tensor, "B H"],
        target_mask: Bool[Tensor, "B H"],
        truncation_steps: int | None = None,
    ) -> tuple[ForecastPart, ...]:
        """The recurrent forecast, and the linear one where it has a share."""
        standardised, window = self.standardise(inputs)
        shares = (1.0 - self.config.linear_share, self.config.linear_share)
        predictions = self._predict_parts(standardised, truncation_steps)
        return tuple(
            ForecastPart(
                share, ScaledForecast(self.output.undo_learned(prediction, self.scaler), window.loc, window.scale)
            )
            for share, prediction in zip(shares, predictions, strict=False)
        )

    def _predict_parts(self, inputs: ForecastInputs, truncation_steps: int | None) -> tuple[Float[Tensor, "B H K"], ...]:
        recurrent = self._predict_recurrent(_newest(inputs, self.config.recurrent_steps), truncation_steps)
        return (recurrent,) if self.linear is None else (recurrent, self._predict_linear(self.linear, inputs))

    def _predict_linear(self, linear: LinearForecaster, inputs: ForecastInputs) -> Float[Tensor, "B H K"]:
        """From the distance to the last value, as in NLinear (Zeng et al. 2023, 2205.13504)."""
        inputs = _newest(inputs, self.config.linear_steps)
        distance, last = _from_last(inputs)
        return linear(inputs._replace(context=distance)) + last[..., None]

    def read_linear(self, inputs: ForecastInputs) -> LinearReading:
        """What the linear map reads, where there is one."""
        standardised, window = self.standardise(inputs)
        distance, last = _from_last(_newest(standardised, self.config.linear_steps))
        return LinearReading(distance, window.loc + last * window.scale, window.scale, horizon_covariates(standardised))

    def _predict_recurrent(self, inputs: ForecastInputs, truncation_steps: int | None) -> Float[Tensor, "B H K"]:
        """Encode segment by segment, decode all segments of the horizon at once."""
        updates = None if truncation_steps is None else -(-truncation_steps // self.config.segment_length)
        encoded = self.encoder(self.encoder_inputs(inputs), truncation_steps=updates)
        covariates = horizon_covariates(inputs)
        if self.skip is not None:
            covariates = torch.cat((covariates, self.skip(inputs.context, inputs.observed_mask)[..., None]), dim=-1)
        top = layer_weights(cast("RecurrentLayer", self.encoder.layers[-1]))
        return self.output.constrain(self.decoder(encoded.states[-1][0][-1], top, covariates))

    def encoder_inputs(self, inputs: ForecastInputs) -> Float[Tensor, "B U D"]:
        """A segment at a time, through a linear map and a ReLU."""
        return torch.relu(self.embedding(self.segments(inputs)))

    def segments(self, inputs: ForecastInputs) -> Float[Tensor, "B U C"]:
        """Channels per update: the steps of a segment one after another, then the static covariates."""
        observed = inputs.observed_mask.to(inputs.context.dtype)
        steps = torch.cat((inputs.context[..., None], observed[..., None], inputs.past_covariates), dim=-1)
        count = self.config.num_updates
        missing = count * self.config.segment_length - steps.shape[1]
        flat = functional.pad(steps, (0, 0, missing, 0)).reshape(steps.shape[0], count, -1)
        return torch.cat((flat, inputs.static_covariates[:, None].expand(-1, count, -1)), dim=-1)

    def layers(self) -> dict[str, nn.Module]:
        """`embedding`, `gru.0`, ..., `decoder`, and `skip` and `linear` where there are any."""
        beside = {"skip": self.skip, "linear": self.linear}
        present: dict[str, nn.Module] = {name: layer for name, layer in beside.items() if layer is not None}
        return {"embedding": self.embedding} | self.recurrent_layers() | {"decoder": self.decoder} | present

    def relu_layers(self) -> dict[str, tuple[nn.Module, ...]]:
        """The embedding of segments, and what joins state and covariates."""
        mixer = self.decoder.mixer
        parts: dict[str, tuple[nn.Module, ...]] = {"embedding": (self.embedding,)}
        return parts if mixer is None else parts | {"decoder": (mixer.step_projection, mixer.mixer)}


def _newest(inputs: ForecastInputs, steps: int) -> ForecastInputs:
    if steps == inputs.context.shape[1]:
        return inputs
    return inputs._replace(
        context=inputs.context[:, -steps:],
        observed_mask=inputs.observed_mask[:, -steps:],
        past_covariates=inputs.past_covariates[:, -steps:],
    )


def _from_last(inputs: ForecastInputs) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B 1"]]:
    """Distance to the last observed value, 0 where not observed, and that value."""
    last = last_observed(inputs.context, inputs.observed_mask)
    return torch.where(inputs.observed_mask, inputs.context - last, 0.0), last


def _linear_part(config: SegRNNConfig) -> LinearConfig:
    """The linear map reads what is scaled and embedded already, and none of the past covariates."""
    return LinearConfig(
        context_length=config.linear_steps, horizon=config.horizon, num_past_covariates=config.num_past_covariates,
        num_future_covariates=config.num_future_covariates, num_static_covariates=config.num_static_channels,
        scaler="none", head=config.head, quantile_levels=config.quantile_levels,
    )  # fmt: skip
