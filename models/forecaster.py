"""From a context in the unit of `y` to a forecast in the unit of `y`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.config import NetworkConfig, RecurrentConfig
from models.conformal import build_calibration
from models.errors import ShapeError
from models.heads import build_output
from models.recurrent import RecurrentEncoder
from models.scaling import ScaledWindow, build_scaler
from models.series import SeriesEmbedding


class ForecastInputs(NamedTuple):
    """What every network reads, before any scaling.

    Attributes:
        context: Past values of `y` in its own unit, oldest first; any finite number where not observed.
        observed_mask: True where the value was really observed (padding and gaps are False).
        past_covariates: Channels known over the context, the known-future ones first.
        future_covariates: Channels known over the horizon.
        static_covariates: Channels constant over a series; the number of the series last, if the network has vectors of
            them: from 1 in the order of training, 0 for another.
    """

    context: Float[Tensor, "B L"]
    observed_mask: Bool[Tensor, "B L"]
    past_covariates: Float[Tensor, "B L P"]
    future_covariates: Float[Tensor, "B H F"]
    static_covariates: Float[Tensor, "B S"]


class ScaledForecast(NamedTuple):
    """A forecast without unit, and what brings the unit back.

    Attributes:
        prediction: What the head forecasts, in units of `scale` around `loc`: a point, quantiles, or the parameters of a
            distribution.
        loc: Level of the window in the unit of `y`.
        scale: Spread of the window in the unit of `y`, positive.
    """

    prediction: Float[Tensor, "B H K"]
    loc: Float[Tensor, "B 1"]
    scale: Float[Tensor, "B 1"]


class ForecastPart(NamedTuple):
    """One of the forecasts that a network's forecast is the mean of.

    Attributes:
        share: Its weight; those of all parts add up to one.
        forecast: In the units of scale that all parts have in common.
    """

    share: float
    forecast: ScaledForecast


def mean_of_parts(parts: Sequence[ForecastPart], of: Callable[[ScaledForecast], Tensor]) -> Tensor:
    """The mean, by the parts' shares, of something computed of each.

    Args:
        parts: All parts of a forecast.
        of: What to compute; a loss that is convex in the forecast is no higher for the mean than this mean of losses.
    """
    if len(parts) == 1:
        return of(parts[0].forecast)
    return torch.stack([part.share * of(part.forecast) for part in parts]).sum(dim=0)


class CovariateStatistics(NamedTuple):
    """Mean and standard deviation of every covariate channel over the training rows."""

    past_loc: Float[Tensor, " P"]
    past_scale: Float[Tensor, " P"]
    static_loc: Float[Tensor, " S"]
    static_scale: Float[Tensor, " S"]


class Forecaster(nn.Module, ABC):
    """A network that maps windows to quantiles in the unit of `y`.

    Args:
        config: Sizes, scaler and head.
    """

    past_loc: Tensor
    past_scale: Tensor
    static_loc: Tensor
    static_scale: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.scaler = build_scaler(config.scaler)
        self.output = build_output(config)
        self.calibration = build_calibration(config)
        size = config.series_embedding
        self.series_embedding = SeriesEmbedding(config.num_series, size) if size else None
        self.register_buffer("past_loc", torch.zeros(config.num_past_covariates))
        self.register_buffer("past_scale", torch.ones(config.num_past_covariates))
        self.register_buffer("static_loc", torch.zeros(config.num_static_covariates))
        self.register_buffer("static_scale", torch.ones(config.num_static_covariates))

    def set_covariate_statistics(self, statistics: CovariateStatistics) -> None:
        """Fix the standardisation of the covariates; part of the weights from here on."""
        for name, value in statistics._asdict().items():
            buffer = getattr(self, name)
            if value.shape != buffer.shape:
                raise ShapeError(name, f"of shape {tuple(buffer.shape)}", f"of shape {tuple(value.shape)}")
            buffer.copy_(value)

    def forward(self, inputs: ForecastInputs) -> Float[Tensor, "B H Q"]:
        """Forecast quantiles of the next `horizon` steps.

        Args:
            inputs: The windows, see `ForecastInputs`.

        Returns:
            Quantiles of `y` in its own unit, non-decreasing along Q, in the order of `config.output_levels`.

        Raises:
            ShapeError: If a tensor does not fit the configuration.
        """
        forecast = self.forward_scaled(inputs)
        quantiles = self.output.quantiles(forecast.prediction, forecast.loc, forecast.scale)
        calibrated: Tensor = self.calibration(quantiles, forecast.scale)
        return calibrated

    def forward_scaled(self, inputs: ForecastInputs, truncation_steps: int | None = None) -> ScaledForecast:
        """Forecast in units of each window's scale around its level: what the loss compares.

        Args:
            inputs: The windows.
            truncation_steps: Steps before the forecast origin beyond which no gradient passes; None = all.

        Returns:
            Prediction without unit, with level and scale.
        """
        standardised, window = self.standardise(inputs)
        prediction = self.output.undo_learned(self.predict_scaled(standardised, truncation_steps), self.scaler)
        return ScaledForecast(prediction, window.loc, window.scale)

    def forward_taught(
        self,
        inputs: ForecastInputs,
        target: Float[Tensor, "B H"],
        target_mask: Bool[Tensor, "B H"],
        truncation_steps: int | None = None,
    ) -> ScaledForecast:
        """What training compares with the target: `forward_scaled`, unless the decoder reads the steps before a step.

        Args:
            inputs: The windows.
            target: Future values in the unit of `y`, finite.
            target_mask: True where the target was observed.
            truncation_steps: As in `forward_scaled`.

        Returns:
            Prediction without unit, with level and scale; of every step from what lies before it alone.
        """
        return self.forward_scaled(inputs, truncation_steps)

    def forward_parts(
        self,
        inputs: ForecastInputs,
        target: Float[Tensor, "B H"],
        target_mask: Bool[Tensor, "B H"],
        truncation_steps: int | None = None,
    ) -> tuple[ForecastPart, ...]:
        """The forecasts that the network's own is the mean of; each learns from its own errors.

        Args:
            inputs: As in `forward_taught`.
            target: As there.
            target_mask: As there.
            truncation_steps: As there.

        Returns:
            Of most networks one, the whole.
        """
        return (ForecastPart(1.0, self.forward_taught(inputs, target, target_mask, truncation_steps)),)

    def standardise(self, inputs: ForecastInputs) -> tuple[ForecastInputs, ScaledWindow]:
        """Windows scaled by themselves, covariates by the training rows: what the network proper reads.

        Raises:
            ShapeError: If a tensor does not fit the configuration.
        """
        self._validate_shapes(inputs)
        window = self.scale_window(inputs)
        static = _standardise(inputs.static_covariates, self.static_loc, self.static_scale)
        standardised = inputs._replace(
            context=window.scaled,
            past_covariates=_standardise(inputs.past_covariates, self.past_loc, self.past_scale),
            future_covariates=self._standardise_future(inputs.future_covariates),
            static_covariates=static if self.series_embedding is None else self.series_embedding(static),
        )
        return standardised, window

    def scale_window(self, inputs: ForecastInputs) -> ScaledWindow:
        """Windows scaled by what the network looks at of them."""
        steps = self.config.recurrent_steps
        newest = None if steps == self.config.context_length else steps
        scaled: ScaledWindow = self.scaler(inputs.context, inputs.observed_mask, newest)
        return scaled

    @abstractmethod
    def predict_scaled(self, inputs: ForecastInputs, truncation_steps: int | None) -> Float[Tensor, "B H K"]:
        """Forecast from inputs that are scaled and standardised already."""

    @abstractmethod
    def layers(self) -> dict[str, nn.Module]:
        """The parts whose gradients are reported, by the name they have in the dashboard."""

    def _standardise_future(self, future: Float[Tensor, "B H F"]) -> Float[Tensor, "B H F"]:
        channels = self.config.num_future_covariates
        return _standardise(future, self.past_loc[:channels], self.past_scale[:channels])

    def _validate_shapes(self, inputs: ForecastInputs) -> None:
        config, batch = self.config, inputs.context.shape[0]
        expected = {
            "context": (batch, config.context_length),
            "observed_mask": (batch, config.context_length),
            "past_covariates": (batch, config.context_length, config.num_past_covariates),
            "future_covariates": (batch, config.horizon, config.num_future_covariates),
            "static_covariates": (batch, config.num_static_covariates),
        }
        for name, tensor in inputs._asdict().items():
            if tuple(tensor.shape) != expected[name]:
                raise ShapeError(name, f"of shape {expected[name]}", f"of shape {tuple(tensor.shape)}")


class RecurrentForecaster(Forecaster):
    """A network with a recurrent encoder: what the instruments of the gradient through time can look at.

    Args:
        config: A recurrent description.
    """

    config: RecurrentConfig
    encoder: RecurrentEncoder

    @abstractmethod
    def encoder_inputs(self, inputs: ForecastInputs) -> Float[Tensor, "B U C"]:
        """What the encoder reads per update, from inputs that are scaled and standardised."""

    @abstractmethod
    def relu_layers(self) -> dict[str, tuple[nn.Module, ...]]:
        """Modules whose outputs go through a ReLU, by the part of the network that they belong to."""

    def recurrent_layers(self) -> dict[str, nn.Module]:
        """`lstm.0`, `lstm.1`, ..., from the input on."""
        return {f"{self.config.cell}.{index}": layer for index, layer in enumerate(self.encoder.layers)}


def _standardise(
    values: Float[Tensor, "*shape K"], loc: Float[Tensor, " K"], scale: Float[Tensor, " K"]
) -> Float[Tensor, "*shape K"]:
    # For one window, work on nothing takes as long as work on something.
    return (values - loc) / scale if values.shape[-1] else values


def step_channels(inputs: ForecastInputs) -> Float[Tensor, "B L C"]:
    """Channels per context step: scaled y, whether it was observed, past and static covariates."""
    observed = inputs.observed_mask.to(inputs.context.dtype)
    channels = [inputs.context[..., None], observed[..., None]]
    if inputs.past_covariates.shape[-1]:
        channels.append(inputs.past_covariates)
    if inputs.static_covariates.shape[-1]:
        channels.append(inputs.static_covariates[:, None].expand(-1, inputs.context.shape[1], -1))
    return torch.cat(channels, dim=-1)
