"""The recursive decoder: one step at a time, each reading the value before it (Salinas et al. 2020, DeepAR, 1704.04110).

In training the network reads the true values of the horizon one step late (teacher forcing; Williams & Zipser 1989), so
that context and horizon are one pass. A forecast reads its own draws: many paths per window, each a future that could
be, and their quantiles are the forecast. What a path holds that quantiles step by step do not is how steps go together:
the spread of a sum or of a maximum over the horizon can be read off them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.config import COUNT_HEADS, StepwiseConfig
from models.decoders import StepDecoder
from models.distributions import SMALLEST_PROBABILITY
from models.forecaster import ForecastInputs, RecurrentForecaster, ScaledForecast, step_channels
from models.heads import DistributionOutput, Head
from models.recurrent import LayerState, RecurrentEncoder
from models.scaling import inverse
from models.stepwise import NUM_FEATURES

# Paths that are in the network at once; more windows take turns.
PATHS_AT_ONCE = 32_768
# The seed of every forecast that names no other: the same window has the same forecast, alone or among others.
FORECAST_SEED = 0
# What a step hands to the next, from its prediction and its position.
Choose = Callable[[Float[Tensor, "B 1 K"], int], Float[Tensor, "B 1"]]


@final
class RecursiveForecaster(RecurrentForecaster):
    """Encoder over the context, and over the horizon with the value before every step; a distribution per step.

    Beyond the forecast origin, covariates that are known for the past only are at their training mean.

    Args:
        config: An `rnn`, `gru` or `lstm` description with `decoder` recursive.
    """

    config: StepwiseConfig

    def __init__(self, config: StepwiseConfig) -> None:
        super().__init__(config)
        self.encoder = RecurrentEncoder(config, config.num_step_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = StepDecoder(config.hidden_size, config.num_horizon_channels, NUM_FEATURES)
        self.head = Head(NUM_FEATURES, self.output)

    @property
    def draws_paths(self) -> bool:
        """Whether a step is followed by a draw; after a point there is nothing to draw."""
        return isinstance(self.output, DistributionOutput)

    def forward(self, inputs: ForecastInputs) -> Float[Tensor, "B H Q"]:
        """Quantiles over sampled paths; of a point head, its own roll-out."""
        if not self.draws_paths:
            return super().forward(inputs)
        scale = self.standardise(inputs)[1].scale
        paths = self.sample_paths(inputs, self.config.num_paths)
        levels = self.config.quantile_levels
        quantiles = path_quantiles(paths, levels, is_count=self.config.head in COUNT_HEADS)
        calibrated: Tensor = self.calibration(quantiles, scale)
        return calibrated

    def forward_taught(
        self,
        inputs: ForecastInputs,
        target: Float[Tensor, "B H"],
        target_mask: Bool[Tensor, "B H"],
        truncation_steps: int | None = None,
    ) -> ScaledForecast:
        """Every step forecast from the true value before it; a missing one is shown as missing."""
        standardised, window = self.standardise(inputs)
        encoded = self.encoder(self.encoder_inputs(standardised), truncation_steps=truncation_steps)
        hidden = encoded.outputs[:, -1:]
        if self.config.horizon > 1:
            known = self.scaler.scale_others(target, target_mask, window)
            channels = self._horizon_channels(standardised, known[:, :-1], target_mask[:, :-1])
            hidden = torch.cat((hidden, self.encoder.advance(channels, encoded.states).outputs), dim=1)
        prediction = self._read(hidden, _decoder_covariates(standardised))
        return ScaledForecast(self.output.undo_learned(prediction, self.scaler), window.loc, window.scale)

    def predict_scaled(self, inputs: ForecastInputs, truncation_steps: int | None) -> Float[Tensor, "B H K"]:
        """The single path on which every step is followed by its own middle."""
        encoded = self.encoder(self.encoder_inputs(inputs), truncation_steps=truncation_steps)
        return self._unroll(inputs, encoded.states, lambda prediction, _step: self.output.center(prediction))[0]

    @torch.no_grad()
    def sample_paths(
        self, inputs: ForecastInputs, num_paths: int, seed: int = FORECAST_SEED
    ) -> Float[Tensor, "B N H"]:
        """Futures drawn step by step from the distributions that are forecast, each given the draws before.

        All windows share the probabilities that are drawn, so that a window's paths do not depend on its company.

        Args:
            inputs: The windows.
            num_paths: Paths per window (N).
            seed: Of the draws; the global generator is not touched.

        Returns:
            Values in the unit of `y`; whole numbers for counts.

        Raises:
            ShapeError: If a tensor does not fit the configuration.
        """
        draws = path_probabilities(num_paths, self.config.horizon, seed).to(inputs.context)
        size = max(1, PATHS_AT_ONCE // num_paths)
        count = inputs.context.shape[0]
        parts = [
            self._sample(ForecastInputs(*(part[first : first + size] for part in inputs)), draws)
            for first in range(0, count, size)
        ]
        return torch.cat(parts) if parts else inputs.context.new_zeros(0, num_paths, self.config.horizon)

    def encoder_inputs(self, inputs: ForecastInputs) -> Float[Tensor, "B L C"]:
        """The channels of every step."""
        return step_channels(inputs)

    def layers(self) -> dict[str, nn.Module]:
        """`lstm.0`, `lstm.1`, ..., `decoder`, `head`."""
        return self.recurrent_layers() | {"decoder": self.decoder, "head": self.head}

    def relu_layers(self) -> dict[str, tuple[nn.Module, ...]]:
        """The decoder's."""
        return {"decoder": (self.decoder.mixer,)}

    def _sample(self, inputs: ForecastInputs, draws: Float[Tensor, "N H"]) -> Float[Tensor, "B N H"]:
        standardised, window = self.standardise(inputs)
        states = self.encoder(self.encoder_inputs(standardised)).states
        num_paths, count = len(draws), inputs.context.shape[0]
        repeated = ForecastInputs(*(part.repeat_interleave(num_paths, dim=0) for part in _without_context(standardised)))
        states = [tuple(part.repeat_interleave(num_paths, dim=1) for part in state) for state in states]
        scale = window.scale.repeat_interleave(num_paths, dim=0)
        assert isinstance(self.output, DistributionOutput)
        draw = self.output.distribution.inverse_cdf

        def choose(prediction: Float[Tensor, "B 1 K"], step: int) -> Float[Tensor, "B 1"]:
            return draw(prediction, draws[:, step].repeat(count)[:, None], scale)

        values = self._unroll(repeated, states, choose)[1].view(count, num_paths, -1)
        undone = values if self.config.head in COUNT_HEADS else self.scaler.undo_learned(values)
        paths = inverse(undone, window.loc, window.scale)
        return paths.round() if self.config.head in COUNT_HEADS else paths

    def _unroll(
        self, inputs: ForecastInputs, states: list[LayerState], choose: Choose
    ) -> tuple[Float[Tensor, "B H K"], Float[Tensor, "B H"]]:
        """Step by step through the horizon: predictions, and the values that were chosen from them."""
        covariates = _decoder_covariates(inputs)
        hidden = states[-1][0][-1:].transpose(0, 1)
        observed = torch.ones_like(hidden[:, :, 0], dtype=torch.bool)
        predictions: list[Tensor] = []
        values: list[Tensor] = []
        for step in range(self.config.horizon):
            if step:
                channels = self._horizon_channels(inputs, values[-1], observed, first=step - 1)
                hidden, states = self.encoder.advance(channels, states)
            predictions.append(self._read(hidden, covariates[:, step : step + 1]))
            values.append(choose(predictions[-1], step).to(hidden))
        return torch.cat(predictions, dim=1), torch.cat(values, dim=1)

    def _horizon_channels(
        self, inputs: ForecastInputs, known: Float[Tensor, "B J"], observed: Bool[Tensor, "B J"], first: int = 0
    ) -> Float[Tensor, "B J C"]:
        """What the encoder reads for steps of the horizon whose values are known by now."""
        future = inputs.future_covariates[:, first : first + known.shape[1]]
        unknown = future.new_zeros(*known.shape, self.config.num_past_covariates - self.config.num_future_covariates)
        past = torch.cat((future, unknown), dim=-1)
        return step_channels(inputs._replace(context=known, observed_mask=observed, past_covariates=past))

    def _read(self, hidden: Float[Tensor, "B J D"], covariates: Float[Tensor, "B J E"]) -> Float[Tensor, "B J K"]:
        prediction: Tensor = self.head(self.decoder(self.dropout(hidden), covariates))
        return prediction


def path_probabilities(num_paths: int, horizon: int, seed: int) -> Float[Tensor, "N H"]:
    """Probabilities whose quantiles make paths, stratified: at every step one in each of N equal parts of (0, 1).

    Latin hypercube sampling (McKay et al. 1979): every step has its spread already with few paths, every path is a draw.

    Args:
        num_paths: Rows (N).
        horizon: Columns (H).
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = torch.stack([torch.randperm(num_paths, generator=generator) for _ in range(horizon)], dim=1)
    within = torch.rand(num_paths, horizon, generator=generator, dtype=torch.float64)
    return ((parts + within) / num_paths).clamp(SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)


def path_quantiles(
    paths: Float[Tensor, "B N H"], levels: tuple[float, ...], is_count: bool = False
) -> Float[Tensor, "B H Q"]:
    """Quantiles over paths, step by step.

    Args:
        paths: Sampled futures.
        levels: Increasing probabilities.
        is_count: Whole numbers stay whole: the smallest value that a share `level` of the paths does not exceed.

    Returns:
        For values the quantile is linear between the middles of the N parts (Hazen 1914).
    """
    ordered, count = paths.sort(dim=1).values, paths.shape[1]
    level = ordered.new_tensor(levels).double()
    if is_count:
        return ordered[:, (level * count - 1e-9).ceil().long().sub(1).clamp(0, count - 1)].transpose(1, 2)
    position = (level * count - 0.5).clamp(0, count - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=count - 1)
    share = (position - below).to(ordered.dtype)[None, :, None]
    return torch.lerp(ordered[:, below], ordered[:, above], share).transpose(1, 2)


def _decoder_covariates(inputs: ForecastInputs) -> Float[Tensor, "B H E"]:
    static = inputs.static_covariates[:, None].expand(-1, inputs.future_covariates.shape[1], -1)
    return torch.cat((inputs.future_covariates, static), dim=-1)


def _without_context(inputs: ForecastInputs) -> ForecastInputs:
    """What the horizon needs: the past is in the states by now, and would be copied for every path."""
    return inputs._replace(
        context=inputs.context[:, :0], observed_mask=inputs.observed_mask[:, :0],
        past_covariates=inputs.past_covariates[:, :0],
    )  # fmt: skip
