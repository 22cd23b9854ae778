"""`gradcast gradcheck`: autograd against the hand-derived gradient and against finite differences, for every network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.config import (
    COUNT_HEADS,
    COUNT_SCALERS,
    DISTRIBUTION_NAMES,
    AnyDilatedConfig,
    DilatedGRUConfig,
    DilatedLSTMConfig,
    DilatedRNNConfig,
    GRUConfig,
    HeadName,
    LinearConfig,
    LSTMConfig,
    MinGRUConfig,
    MinLSTMConfig,
    NetworkConfig,
    RNNConfig,
    ScalerName,
    SegRNNConfig,
    SomeNetworkConfig,
    StepwiseConfig,
)
from models.errors import NetworkConfigError
from models.forecaster import CovariateStatistics, Forecaster, ForecastInputs
from models.recurrent import LayerState, RecurrentEncoder
from models.registry import build_forecaster
from training.config import LossName
from training.gradcheck.cells import Array, Cell, State, build_cell
from training.gradcheck.dilated import backward_dilated_stack, forward_dilated_stack
from training.gradcheck.finite_differences import (
    directional_derivatives,
    elementwise_error,
    probe_directions,
    relative_error,
)
from training.gradcheck.forecasters import (
    TrainingExample,
    differentiate_forecaster,
    layer_gradients,
    layer_weights,
)
from training.gradcheck.rows import GradcheckRow, TensorError
from training.losses import build_loss

ARCHITECTURES = (
    "linear", "rnn", "gru", "lstm", "mingru", "minlstm", "segrnn", "dilated_rnn", "dilated_gru", "dilated_lstm",
)  # fmt: skip
DEPTHS = (1, 2)
# Small enough for seconds, large enough that every axis is different and every gate, gap and covariate takes part.
NUM_WINDOWS, CONTEXT_LENGTH, HORIZON, HIDDEN_SIZE, NUM_CHANNELS = 3, 5, 2, 4, 3
SEGMENT_LENGTH = 2
QUANTILE_LEVELS = (0.1, 0.5, 0.8, 0.9)
# Beside the defaults (standard scaler, quantile head and loss), each of these and every distribution once, with the
# fastest network.
SCALERS: tuple[ScalerName, ...] = ("mean_abs", "robust", "last", "offset", "revin", "none")
POINT_LOSSES: tuple[LossName, ...] = ("mae", "mse", "huber", "frequency")
_GATED: dict[str, type[GRUConfig | LSTMConfig | MinGRUConfig | MinLSTMConfig]] = {
    "gru": GRUConfig, "lstm": LSTMConfig, "mingru": MinGRUConfig, "minlstm": MinLSTMConfig,
}  # fmt: skip
_DILATED: dict[str, type[AnyDilatedConfig]] = {
    "dilated_rnn": DilatedRNNConfig, "dilated_gru": DilatedGRUConfig, "dilated_lstm": DilatedLSTMConfig,
}  # fmt: skip
# The context is a multiple of neither.
DILATIONS = (2, 3)


def run_gradcheck(architectures: Sequence[str] = ARCHITECTURES, seed: int = 0) -> list[GradcheckRow]:
    """Check the gradient of every network three ways, in float64.

    Each recurrent architecture is checked at depth 1 and 2, as a bare encoder (inputs, explicit initial states, weights,
    biases; the scalar is a random projection of all outputs and final states) and as a whole forecaster (scaler with
    gaps in the window, encoder, decoder, head, loss with missing targets; parameters and every input).

    Args:
        architectures: `linear`, `rnn` (tanh and relu), `gru`, `lstm`, `mingru`, `minlstm`, `segrnn`, and `dilated_rnn`
            (tanh), `dilated_gru`, `dilated_lstm`.
        seed: Draws weights and data.

    Returns:
        One row per network and part, `linear` first if it is asked for.

    Raises:
        NetworkConfigError: If an architecture does not exist.
    """
    for name in architectures:
        if name not in ARCHITECTURES:
            raise NetworkConfigError("architecture", f"one of {', '.join(ARCHITECTURES)}", repr(name))
    # The global generator, which initialises networks, is left as it was found.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        return [row for name in architectures for row in _check_architecture(name, generator)]


def _check_architecture(architecture: str, generator: torch.Generator) -> Iterator[GradcheckRow]:
    if architecture == "linear":
        yield check_forecaster(_linear_config(), generator)
        for scaler in SCALERS:
            yield check_forecaster(_linear_config(scaler=scaler), generator)
        for loss in POINT_LOSSES:
            yield check_forecaster(_linear_config(head="point"), generator, loss)
        for head in DISTRIBUTION_NAMES:
            scaler = COUNT_SCALERS[0] if head in COUNT_HEADS else "standard"
            yield check_forecaster(_linear_config(scaler, head), generator, "nll")
        return
    if architecture == "segrnn":
        # Its encoder is the GRU's; context and horizon are no multiples of the segment.
        for depth in DEPTHS:
            sizes = {**_sizes(), "hidden_size": HIDDEN_SIZE, "num_layers": depth, "horizon": SEGMENT_LENGTH + 1}
            yield check_forecaster(SegRNNConfig(**sizes, segment_length=SEGMENT_LENGTH), generator)
        return
    for config in _recurrent_configs(architecture):
        yield check_encoder(config, generator)
        yield check_forecaster(config, generator)


def check_encoder(config: StepwiseConfig, generator: torch.Generator) -> GradcheckRow:
    """Check the recurrence alone, from explicit initial states, with a derivative arriving at every output.

    Args:
        config: Architecture and depth.
        generator: Draws weights, inputs, states and the projection.

    Returns:
        Errors of inputs, initial states and every weight.
    """
    encoder = RecurrentEncoder(config, NUM_CHANNELS).double()
    _perturb(encoder.parameters(), generator)
    cell = build_cell(config.cell, getattr(config, "nonlinearity", "tanh"))
    inputs = _normal((NUM_WINDOWS, CONTEXT_LENGTH, NUM_CHANNELS), generator)
    states: list[LayerState] = [
        tuple(_normal((dilation, NUM_WINDOWS, HIDDEN_SIZE), generator) for _ in range(cell.num_states))
        for dilation in config.layer_dilations
    ]
    to_outputs = _normal((NUM_WINDOWS, CONTEXT_LENGTH, HIDDEN_SIZE), generator)
    to_final = [tuple(_normal(tuple(part.shape), generator) for part in state) for state in states]

    def scalar() -> Tensor:
        outputs, final = encoder(inputs, states)
        total = (outputs * to_outputs).sum()
        for state, weights in zip(final, to_final, strict=True):
            total = total + sum((value * weight).sum() for value, weight in zip(state, weights, strict=True))
        return total

    tensors: dict[str, Tensor] = {"inputs": inputs}
    for index, state in enumerate(states):
        tensors |= {f"initial_{name}.{index}": tensor for name, tensor in zip("hc", state, strict=False)}
    tensors |= dict(encoder.named_parameters())
    initial, d_final = [_as_arrays(state) for state in states], [_as_arrays(end) for end in to_final]
    hand = _encoder_by_hand(cell, encoder, inputs.numpy(), initial, to_outputs.numpy(), d_final)
    return GradcheckRow(_label(config), "encoder", _compare(scalar, tensors, hand, generator))


def _encoder_by_hand(
    cell: Cell,
    encoder: RecurrentEncoder,
    inputs: Float[Array, "B L C"],
    initial: Sequence[State],
    d_outputs: Float[Array, "B L D"],
    d_final: Sequence[State],
) -> dict[str, Array]:
    """Derivatives of the scalar with respect to inputs, initial states and weights, by name."""
    parameters = _arrays(dict(encoder.named_parameters()))
    weights = [layer_weights(parameters, f"layers.{index}", cell) for index in range(len(initial))]
    tapes = forward_dilated_stack(cell, weights, inputs, initial, [len(state[0]) for state in initial])
    gradients = backward_dilated_stack(cell, weights, tapes, d_outputs, d_final)
    hand = {"inputs": gradients.inputs}
    for index, (d_state, d_weights) in enumerate(zip(gradients.initial, gradients.weights, strict=True)):
        hand |= {f"initial_{name}.{index}": value for name, value in zip("hc", d_state, strict=False)}
        hand |= layer_gradients(parameters, f"layers.{index}", d_weights)
    return hand


def check_forecaster(
    config: SomeNetworkConfig, generator: torch.Generator, loss: LossName = "quantile"
) -> GradcheckRow:
    """Check everything that training differentiates: from the past values and the weights to the loss.

    Args:
        config: The network.
        generator: Draws weights and data.
        loss: What is minimised.

    Returns:
        Errors of every parameter and every input.
    """
    forecaster = build_forecaster(config).double()
    _perturb(forecaster.parameters(), generator)
    _perturb_statistics(forecaster, generator)
    example = _example(config, generator)
    objective = build_loss(loss, config.output_levels, config.head)

    def scalar() -> Tensor:
        return objective(forecaster.forward_scaled(example.inputs), *example[1:])

    _, hand = differentiate_forecaster(config, _arrays(forecaster.state_dict()), example, loss)
    inputs = {name: tensor for name, tensor in example.inputs._asdict().items() if tensor.is_floating_point()}
    measure = f"{config.head} likelihood" if config.head in DISTRIBUTION_NAMES else f"{loss} loss"
    what = f"forecaster, {config.scaler} scaler, {measure}"
    return GradcheckRow(
        _label(config), what, _compare(scalar, inputs | dict(forecaster.named_parameters()), hand, generator)
    )


def _compare(
    scalar: Callable[[], Tensor], tensors: Mapping[str, Tensor], hand: Mapping[str, Array], generator: torch.Generator
) -> tuple[TensorError, ...]:
    """Errors of autograd's derivative of a scalar with respect to every tensor that it reads."""
    if set(tensors) != set(hand):
        raise AssertionError(f"derivatives by hand must cover {sorted(tensors)}, but cover {sorted(hand)} instead")
    for tensor in tensors.values():
        tensor.requires_grad_(True)
    # The linear network reads no past covariates: no path, derivative zero.
    automatic = torch.autograd.grad(scalar(), list(tensors.values()), materialize_grads=True)
    errors = []
    for (name, tensor), gradient in zip(tensors.items(), automatic, strict=True):
        directions = probe_directions(gradient.flatten(), generator)
        differences = directional_derivatives(scalar, tensor, directions)
        by_hand = torch.from_numpy(hand[name])
        errors.append(
            TensorError(
                name,
                finite_difference=relative_error(directions @ gradient.flatten(), differences),
                hand_derived=relative_error(gradient, by_hand),
                hand_derived_elementwise=elementwise_error(gradient, by_hand),
            )
        )
    return tuple(errors)


def _linear_config(scaler: ScalerName = "standard", head: HeadName = "quantile") -> LinearConfig:
    return LinearConfig(**_sizes(), scaler=scaler, head=head)


def _recurrent_configs(architecture: str) -> Iterator[StepwiseConfig]:
    for depth in DEPTHS:
        sizes = {**_sizes(), "hidden_size": HIDDEN_SIZE, "num_layers": depth}
        if architecture == "rnn":
            yield RNNConfig(**sizes, nonlinearity="tanh")
            yield RNNConfig(**sizes, nonlinearity="relu")
        elif architecture in _DILATED:
            yield _DILATED[architecture](**sizes, dilations=DILATIONS[:depth])
        else:
            yield _GATED[architecture](**sizes)


def _sizes() -> dict[str, Any]:
    counts = {"num_past_covariates": 2, "num_future_covariates": 1, "num_static_covariates": 1}
    lengths = {"context_length": CONTEXT_LENGTH, "horizon": HORIZON}
    return {**counts, **lengths, "quantile_levels": QUANTILE_LEVELS}


def _example(config: NetworkConfig, generator: torch.Generator) -> TrainingExample:
    """Windows around 10 with padding, a gap and a missing target; the floor decides the unit of the first one only."""
    length = config.context_length
    observed = torch.ones(NUM_WINDOWS, length, dtype=torch.bool)
    observed[0, :2] = False
    observed[1, length // 2] = False
    target_mask = torch.ones(NUM_WINDOWS, config.horizon, dtype=torch.bool)
    target_mask[2, -1] = False
    context = _normal((NUM_WINDOWS, length), generator)
    target = _normal((NUM_WINDOWS, config.horizon), generator)
    inputs = ForecastInputs(
        context=10.0 + 2.0 * context,
        observed_mask=observed,
        past_covariates=_normal((NUM_WINDOWS, length, config.num_past_covariates), generator),
        future_covariates=_normal((NUM_WINDOWS, config.horizon, config.num_future_covariates), generator),
        static_covariates=_normal((NUM_WINDOWS, config.num_static_covariates), generator),
    )
    scale_floor = torch.full((NUM_WINDOWS, 1), 0.01, dtype=torch.float64)
    scale_floor[0] = 20.0
    return TrainingExample(inputs, 10.0 + 3.0 * target, target_mask, scale_floor)


def _perturb(parameters: Iterator[torch.nn.Parameter], generator: torch.Generator) -> None:
    """Move every parameter, so that none is checked at a special point such as zero or all equal."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(_normal(tuple(parameter.shape), generator), alpha=0.3)


def _perturb_statistics(forecaster: Forecaster, generator: torch.Generator) -> None:
    statistics = {}
    for name in CovariateStatistics._fields:
        draw = _normal(tuple(getattr(forecaster, name).shape), generator)
        statistics[name] = 0.5 + draw.abs() if name.endswith("scale") else draw
    forecaster.set_covariate_statistics(CovariateStatistics(**statistics))


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.detach().numpy().astype(np.float64) for name, tensor in tensors.items()}


def _as_arrays(state: LayerState) -> State:
    return tuple(tensor.numpy() for tensor in state)


def _label(config: SomeNetworkConfig) -> str:
    if isinstance(config, LinearConfig):
        return "linear"
    name = f"rnn {config.nonlinearity}" if isinstance(config, RNNConfig) else config.architecture
    return f"{name}, {config.num_layers} layer{'s' if config.num_layers > 1 else ''}"
