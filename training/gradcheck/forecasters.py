"""The gradient of a whole forecaster by hand: loss, head, decoder, recurrence, scaler, down to every past value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from models.config import (
    DISTRIBUTION_NAMES,
    LinearConfig,
    NetworkConfig,
    SegRNNConfig,
    SomeNetworkConfig,
    StepwiseConfig,
)
from models.decoders import STEP_FEATURES
from models.forecaster import ForecastInputs
from models.heads import center_index
from training.config import LossName
from training.gradcheck.cells import Array, Cell, build_cell
from training.gradcheck.dilated import backward_dilated_stack, forward_dilated_stack
from training.gradcheck.likelihoods import constrained, masked_likelihood
from training.gradcheck.pullbacks import AffineGradients, ScaledTarget, affine, masked_loss, non_crossing, relu
from training.gradcheck.scalers import WindowStatistics, window_statistics
from training.gradcheck.through_time import (
    LayerWeights,
    backward_layer,
    backward_stack,
    forward_layer,
    forward_stack,
)

Weights = Mapping[str, Array]


class TrainingExample(NamedTuple):
    """One small batch with its targets, float64.

    Attributes:
        inputs: What the forecaster reads.
        target: Future values in the unit of `y`.
        target_mask: True where observed.
        scale_floor: Smallest unit of an error, in the unit of `y`.
    """

    inputs: ForecastInputs
    target: Tensor
    target_mask: Tensor
    scale_floor: Tensor


class _Standardised(NamedTuple):
    """What the network proper reads; also the shape of the derivatives with respect to it."""

    scaled: Float[Array, "B L"]
    observed: Float[Array, "B L"]
    past: Float[Array, "B L P"]
    future: Float[Array, "B H F"]
    static: Float[Array, "B S"]


# Derivative with respect to the raw output -> derivatives with respect to what was read, and to the weights by name.
_Pullback = Callable[[Array], tuple[_Standardised, dict[str, Array]]]


def differentiate_forecaster(
    config: SomeNetworkConfig,
    weights: Weights,
    example: TrainingExample,
    loss: LossName,
) -> tuple[float, dict[str, Array]]:
    """Loss of a forecaster and its gradient, without autograd.

    Args:
        config: The network's description.
        weights: Its parameters and buffers by name, float64.
        example: What it reads and should forecast.
        loss: `quantile`, `mae`, `mse` or `huber`; a distribution has its likelihood.

    Returns:
        The loss, and its derivative with respect to every parameter (by its name) and every real-valued input (by its
        name in `ForecastInputs`).
    """
    read, statistics, standard = _standardise(config, weights, example.inputs)
    raw, network_pullback = _network(config, weights, read)
    truth = ScaledTarget(*(tensor.numpy() for tensor in example[1:]))
    gain, shift = _learned_scaling(weights)
    if config.head in DISTRIBUTION_NAMES:
        assert config.scaler != "revin"
        prediction, head_pullback = constrained(config.head, raw)
        value, d_loss = masked_likelihood(config.head, prediction, statistics.loc, statistics.scale, truth)
    else:
        quantiles, head_pullback = non_crossing(raw, center_index(config.output_levels))
        prediction = (quantiles - shift) / gain
        value, d_loss = masked_loss(loss, config.output_levels, prediction, statistics.loc, statistics.scale, truth)

    d_quantiles = d_loss.prediction / gain
    d_read, gradients = network_pullback(head_pullback(d_quantiles))
    # Back through the scaler: directly, and through the level and the scale, which also served to measure the error.
    d_scaled = d_read.scaled * read.observed
    d_standard = d_scaled * gain
    d_loc = d_loss.loc - (d_standard / statistics.scale).sum(axis=1, keepdims=True)
    d_scale = d_loss.scale - (d_standard * standard / statistics.scale).sum(axis=1, keepdims=True)
    gradients["context"] = d_standard / statistics.scale + d_loc * statistics.d_loc + d_scale * statistics.d_scale
    if config.scaler == "revin":
        d_log_gain = (d_standard * standard).sum() - (d_loss.prediction * prediction).sum()
        gradients["scaler.log_gain"] = np.array([d_log_gain])
        gradients["scaler.shift"] = np.array([d_scaled.sum() - d_quantiles.sum()])
    num_future = config.num_future_covariates
    gradients["past_covariates"] = d_read.past / weights["past_scale"]
    gradients["future_covariates"] = d_read.future / weights["past_scale"][:num_future]
    gradients["static_covariates"] = d_read.static / weights["static_scale"]
    return value, gradients


def _standardise(
    config: NetworkConfig, weights: Weights, inputs: ForecastInputs
) -> tuple[_Standardised, WindowStatistics, Float[Array, "B L"]]:
    """What the network reads, the statistics of the windows, and the windows before the learned gain and shift."""
    context, mask, past, future, static = (tensor.detach().numpy() for tensor in inputs)
    statistics = window_statistics(config.scaler, context, mask)
    standard = np.where(mask, (context - statistics.loc) / statistics.scale, 0.0)
    gain, shift = _learned_scaling(weights)
    observed, num_future = mask.astype(np.float64), config.num_future_covariates
    read = _Standardised(
        scaled=(standard * gain + shift) * observed,
        observed=observed,
        past=(past - weights["past_loc"]) / weights["past_scale"],
        future=(future - weights["past_loc"][:num_future]) / weights["past_scale"][:num_future],
        static=(static - weights["static_loc"]) / weights["static_scale"],
    )
    return read, statistics, standard


def _learned_scaling(weights: Weights) -> tuple[Array | float, Array | float]:
    """Gain and shift of RevIN; one and zero for the scalers without parameters."""
    if "scaler.log_gain" not in weights:
        return 1.0, 0.0
    return np.exp(weights["scaler.log_gain"]), weights["scaler.shift"]


def _network(config: SomeNetworkConfig, weights: Weights, read: _Standardised) -> tuple[Array, _Pullback]:
    if isinstance(config, LinearConfig):
        return _linear(config, weights, read)
    if isinstance(config, SegRNNConfig):
        return _segmented(config, weights, read)
    return _recurrent(config, weights, read)


def _linear(config: NetworkConfig, weights: Weights, read: _Standardised) -> tuple[Array, _Pullback]:
    shape = (-1, config.horizon, len(weights["decoder.bias"]) // config.horizon)
    from_window, window_pullback = affine(read.scaled, weights["decoder.weight"], weights["decoder.bias"])
    covariates = _horizon_covariates(config, read)
    # A network without covariates has no such weight; a matrix without columns adds nothing.
    covariate_weight = weights.get("covariates.weight", np.zeros((shape[-1], 0)))
    from_covariates, covariates_pullback = affine(covariates, covariate_weight)

    def pullback(d_raw: Array) -> tuple[_Standardised, dict[str, Array]]:
        d_window = window_pullback(d_raw.reshape(len(d_raw), -1))
        d_covariates = covariates_pullback(d_raw)
        d_future, d_static = _split_covariates(config, d_covariates.x)
        gradients = _named("decoder", d_window)
        if covariates.shape[-1]:
            gradients["covariates.weight"] = d_covariates.weight
        d_past, d_observed = np.zeros_like(read.past), np.zeros_like(read.observed)
        return _Standardised(d_window.x, d_observed, d_past, d_future, d_static), gradients

    return from_window.reshape(shape) + from_covariates, pullback


def _segmented(config: SegRNNConfig, weights: Weights, read: _Standardised) -> tuple[Array, _Pullback]:
    """Segments through an embedding and a GRU; one step of the top layer for each segment of the horizon."""
    batch, length = read.scaled.shape
    steps, num_past, num_outputs = config.segment_length, config.num_past_covariates, config.num_output_segments
    missing = config.num_updates * steps - length
    channels = np.concatenate((read.scaled[..., None], read.observed[..., None], read.past), axis=-1)
    padded = np.pad(channels, ((0, 0), (missing, 0), (0, 0))).reshape(batch, config.num_updates, -1)
    static = np.repeat(read.static[:, None], config.num_updates, axis=1)
    embedded, embedding_pullback = affine(np.concatenate((padded, static), axis=-1), *_pair(weights, "embedding"))
    segments, segments_pullback = relu(embedded)

    cell = build_cell("gru")
    layers = [layer_weights(weights, f"encoder.layers.{index}", cell) for index in range(config.num_layers)]
    zeros = (np.zeros((batch, config.hidden_size)),)
    tapes = forward_stack(cell, layers, segments, [zeros] * config.num_layers)
    # The decoder without its shortcut: every pair of window and segment is a row of its own.
    state = np.repeat(tapes[-1].final[0], num_outputs, axis=0)
    position = np.tile(weights["decoder.position"], (batch, 1))[:, None]
    decoded = forward_layer(cell, layers[-1], position, (state,))
    hidden = decoded.outputs.reshape(batch, num_outputs, -1)
    raw, raw_pullback = affine(hidden, *_pair(weights, "decoder.projection"))
    read_off, read_off_pullback = affine(hidden, *_pair(weights, "decoder.mixer.step_projection"))
    summary, summary_pullback = relu(read_off.reshape(batch, num_outputs * steps, -1)[:, : config.horizon])
    joined = np.concatenate((summary, _horizon_covariates(config, read)), axis=-1)
    mixed, mixed_pullback = affine(joined, *_pair(weights, "decoder.mixer.mixer"))
    features, features_pullback = relu(mixed)
    change, change_pullback = affine(features, weights["decoder.mixer.projection.weight"])

    def whole(d_steps: Array) -> Array:
        """From the steps of the horizon to whole segments; what lies beyond has no derivative."""
        beyond = num_outputs * steps - config.horizon
        return np.pad(d_steps, ((0, 0), (0, beyond), (0, 0))).reshape(batch, num_outputs, -1)

    def pullback(d_raw: Array) -> tuple[_Standardised, dict[str, Array]]:
        d_projection, d_change = raw_pullback(whole(d_raw)), change_pullback(d_raw)
        d_mixer = mixed_pullback(features_pullback(d_change.x))
        d_read_off = read_off_pullback(whole(summary_pullback(d_mixer.x[..., :STEP_FEATURES])))
        d_future, d_static = _split_covariates(config, d_mixer.x[..., STEP_FEATURES:])
        d_hidden = (d_projection.x + d_read_off.x).reshape(batch * num_outputs, 1, -1)
        d_step = backward_layer(cell, layers[-1], decoded, d_hidden, (np.zeros_like(state),))
        d_state = d_step.initial[0].reshape(batch, num_outputs, -1).sum(axis=1)
        d_final = [zeros] * (config.num_layers - 1) + [(d_state,)]
        d_stack = backward_stack(cell, layers, tapes, np.zeros_like(tapes[-1].outputs), d_final)
        d_embedding = embedding_pullback(segments_pullback(d_stack.inputs))
        width = steps * (2 + num_past)
        d_channels = d_embedding.x[..., :width].reshape(batch, config.num_updates * steps, -1)[:, missing:]
        d_static = d_static + d_embedding.x[..., width:].sum(axis=1)
        d_read = _Standardised(d_channels[..., 0], d_channels[..., 1], d_channels[..., 2:], d_future, d_static)
        gradients = _named("embedding", d_embedding) | _named("decoder.projection", d_projection)
        gradients |= _named("decoder.mixer.step_projection", d_read_off) | _named("decoder.mixer.mixer", d_mixer)
        gradients["decoder.mixer.projection.weight"] = d_change.weight
        gradients["decoder.position"] = d_step.inputs.reshape(batch, num_outputs, -1).sum(axis=0)
        # The top layer also takes the steps of the decoder.
        top = [part + more for part, more in zip(d_stack.weights[-1], d_step.weights, strict=True)]
        for index, layer in enumerate([*d_stack.weights[:-1], LayerWeights(*top)]):
            gradients |= layer_gradients(weights, f"encoder.layers.{index}", layer)
        return d_read, gradients

    return raw.reshape(batch, num_outputs * steps, -1)[:, : config.horizon] + change, pullback


def _recurrent(config: StepwiseConfig, weights: Weights, read: _Standardised) -> tuple[Array, _Pullback]:
    batch, length = read.scaled.shape
    cell = build_cell(config.cell, getattr(config, "nonlinearity", "tanh"))
    layers = [layer_weights(weights, f"encoder.layers.{index}", cell) for index in range(config.num_layers)]
    dilations = config.layer_dilations
    zeros = [(np.zeros((dilation, batch, config.hidden_size)),) * cell.num_states for dilation in dilations]
    static = np.repeat(read.static[:, None], length, axis=1)
    channels = np.concatenate((read.scaled[..., None], read.observed[..., None], read.past, static), axis=-1)

    tapes = forward_dilated_stack(cell, layers, channels, zeros, dilations)
    summary, summary_pullback = affine(tapes[-1].final[0][-1], *_pair(weights, "decoder.step_projection"))
    steps, steps_pullback = relu(summary.reshape(batch, config.horizon, STEP_FEATURES))
    joined = np.concatenate((steps, _horizon_covariates(config, read)), axis=-1)
    mixed, mixed_pullback = affine(joined, *_pair(weights, "decoder.mixer"))
    features, features_pullback = relu(mixed)
    raw, raw_pullback = affine(features, *_pair(weights, "head.projection"))

    def pullback(d_raw: Array) -> tuple[_Standardised, dict[str, Array]]:
        d_head = raw_pullback(d_raw)
        d_mixer = mixed_pullback(features_pullback(d_head.x))
        d_steps = steps_pullback(d_mixer.x[..., :STEP_FEATURES])
        d_future, d_static = _split_covariates(config, d_mixer.x[..., STEP_FEATURES:])
        d_summary = summary_pullback(d_steps.reshape(batch, -1))
        # Only the newest hidden state of the top layer is read, no other output and no cell.
        d_newest = np.zeros_like(zeros[-1][0])
        d_newest[-1] = d_summary.x
        d_final = [*zeros[:-1], (d_newest, *zeros[-1][1:])]
        d_stack = backward_dilated_stack(cell, layers, tapes, np.zeros_like(tapes[-1].outputs), d_final)
        num_past = config.num_past_covariates
        d_static = d_static + d_stack.inputs[..., 2 + num_past :].sum(axis=1)
        d_read = _Standardised(
            d_stack.inputs[..., 0], d_stack.inputs[..., 1], d_stack.inputs[..., 2 : 2 + num_past], d_future, d_static
        )
        gradients = _named("decoder.step_projection", d_summary) | _named("decoder.mixer", d_mixer)
        gradients |= _named("head.projection", d_head)
        for index, layer in enumerate(d_stack.weights):
            gradients |= layer_gradients(weights, f"encoder.layers.{index}", layer)
        return d_read, gradients

    return raw, pullback


def layer_weights(weights: Weights, prefix: str, cell: Cell) -> LayerWeights:
    """The four weights of the fused layer called `prefix`; those that a minimal layer has not, from the state, are zero."""
    rows = len(weights[f"{prefix}.bias_ih_l0"])
    absent = {"weight_hh": np.zeros((rows, rows // cell.num_gates)), "bias_hh": np.zeros(rows)}
    present = {name: weights[key] for name in LayerWeights._fields if (key := f"{prefix}.{name}_l0") in weights}
    return LayerWeights(**(absent | present))


def layer_gradients(weights: Weights, prefix: str, gradients: LayerWeights) -> dict[str, Array]:
    """Derivatives with respect to the weights that the layer has, by name."""
    named = {f"{prefix}.{name}_l0": value for name, value in gradients._asdict().items()}
    return {name: value for name, value in named.items() if name in weights}


def _horizon_covariates(config: NetworkConfig, read: _Standardised) -> Float[Array, "B H E"]:
    return np.concatenate((read.future, np.repeat(read.static[:, None], config.horizon, axis=1)), axis=-1)


def _split_covariates(config: NetworkConfig, d_covariates: Float[Array, "B H E"]) -> tuple[Array, Array]:
    count = config.num_future_covariates
    return d_covariates[..., :count], d_covariates[..., count:].sum(axis=1)


def _pair(weights: Weights, prefix: str) -> tuple[Array, Array]:
    return weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]


def _named(prefix: str, gradients: AffineGradients) -> dict[str, Array]:
    return {f"{prefix}.weight": gradients.weight, f"{prefix}.bias": gradients.bias}
