"""A slow twin of the fused layers: one step at a time, written as in the papers, every state open to autograd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import GRUConfig, LSTMConfig, RNNConfig
from models.forecaster import ForecastInputs, RecurrentForecaster
from models.recurrent import EncoderOutput
from models.stepwise import StepwiseForecaster

CONFIGS = {"rnn": RNNConfig, "gru": GRUConfig, "lstm": LSTMConfig}


class UnrolledLayer(NamedTuple):
    """Everything a layer went through; `states[t]` is the state handed to step t, so `states[L - k]` has lag k."""

    outputs: Tensor
    states: list[tuple[Tensor, ...]]
    gates: dict[str, Tensor]
    final: tuple[Tensor, ...]


def unroll(layer: nn.Module, inputs: Tensor, initial: tuple[Tensor, ...]) -> UnrolledLayer:
    w_ih, w_hh, b_ih, b_hh = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
    state = tuple(part[0] for part in initial)
    states: list[tuple[Tensor, ...]] = []
    outputs: list[Tensor] = []
    gates: dict[str, list[Tensor]] = {}
    for x in inputs.unbind(1):
        state = tuple(part.clone() if part.requires_grad else part.clone().requires_grad_() for part in state)
        states.append(state)
        h = state[0]
        if isinstance(layer, nn.LSTM):
            i, f, g, o = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, dim=1)
            seen = {"input": i, "forget": f, "cell": g, "output": o}
            c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
            state = (torch.sigmoid(o) * torch.tanh(c), c)
        elif isinstance(layer, nn.GRU):
            r_x, z_x, n_x = (x @ w_ih.T + b_ih).chunk(3, dim=1)
            r_h, z_h, n_h = (h @ w_hh.T + b_hh).chunk(3, dim=1)
            r, z = r_x + r_h, z_x + z_h
            n = n_x + torch.sigmoid(r) * n_h
            seen = {"reset": r, "update": z, "new": n}
            state = ((1 - torch.sigmoid(z)) * torch.tanh(n) + torch.sigmoid(z) * h,)
        else:
            seen = {}
            a = x @ w_ih.T + b_ih + h @ w_hh.T + b_hh
            state = (torch.tanh(a) if layer.nonlinearity == "tanh" else torch.relu(a),)
        for name, value in seen.items():
            gates.setdefault(name, []).append(value)
        outputs.append(state[0])
    stacked = {name: torch.stack(values, dim=1) for name, values in gates.items()}
    return UnrolledLayer(torch.stack(outputs, dim=1), states, stacked, state)


@contextmanager
def unrolled_encoder(forecaster: RecurrentForecaster) -> Iterator[list[UnrolledLayer]]:
    """Within it the network runs step by step; the list then holds every layer of the last pass."""
    layers: list[UnrolledLayer] = []

    def forward(inputs: Tensor, states=None, truncation_steps: int | None = None) -> EncoderOutput:
        assert truncation_steps is None
        layers.clear()
        for layer, initial in zip(encoder.layers, states or encoder.initial_states(inputs), strict=True):
            layers.append(unroll(layer, inputs, initial))
            inputs = layers[-1].outputs
        return EncoderOutput(inputs, [tuple(part[None] for part in layer.final) for layer in layers])

    encoder = forecaster.encoder
    encoder.forward = forward
    try:
        yield layers
    finally:
        del encoder.forward


def build_network(architecture: str, seed: int = 0, **settings) -> RecurrentForecaster:
    """A small network in float64."""
    torch.manual_seed(seed)
    defaults = {"context_length": 24, "horizon": 3, "hidden_size": 6, "scaler": "none", "head": "point"}
    return StepwiseForecaster(CONFIGS[architecture](**(defaults | settings))).double()


def random_inputs(forecaster: RecurrentForecaster, windows: int = 4, seed: int = 1) -> ForecastInputs:
    """White noise for a network, in its own type."""
    config, generator = forecaster.config, torch.Generator().manual_seed(seed)
    dtype = next(forecaster.parameters()).dtype

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return ForecastInputs(
        noise(windows, config.context_length),
        torch.ones(windows, config.context_length, dtype=torch.bool),
        noise(windows, config.context_length, config.num_past_covariates),
        noise(windows, config.horizon, config.num_future_covariates),
        noise(windows, config.num_static_covariates),
    )


def squared_sum(forecast) -> Tensor:
    """A loss without targets."""
    return (forecast.prediction - 0.3).square().sum()
