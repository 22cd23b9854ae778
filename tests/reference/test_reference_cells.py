"""The fused encoder against cells written out step by step from the papers' formulas, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.config import GRUConfig, LSTMConfig, RNNConfig
from models.recurrent import LayerState, RecurrentEncoder

NUM_WINDOWS, LENGTH, CHANNELS, UNITS = 3, 9, 2, 5
TOLERANCE = {"rtol": 1e-11, "atol": 1e-12}
Step = Callable[[Tensor, Tensor, LayerState], LayerState]


def elman_tanh(a: Tensor, b: Tensor, state: LayerState) -> LayerState:
    return (torch.tanh(a + b),)


def elman_relu(a: Tensor, b: Tensor, state: LayerState) -> LayerState:
    return (torch.relu(a + b),)


def gru(a: Tensor, b: Tensor, state: LayerState) -> LayerState:
    (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3, -1), b.chunk(3, -1)
    r, z = torch.sigmoid(a_r + b_r), torch.sigmoid(a_z + b_z)
    n = torch.tanh(a_n + r * b_n)
    return ((1 - z) * n + z * state[0],)


def lstm(a: Tensor, b: Tensor, state: LayerState) -> LayerState:
    i, f, g, o = (a + b).chunk(4, -1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


NETWORKS = {
    "rnn_tanh": (RNNConfig, {"nonlinearity": "tanh"}, elman_tanh),
    "rnn_relu": (RNNConfig, {"nonlinearity": "relu"}, elman_relu),
    "gru": (GRUConfig, {}, gru),
    "lstm": (LSTMConfig, {}, lstm),
}
Case = tuple[RecurrentEncoder, Step, Tensor, list[LayerState]]


def build_case(name: str, num_layers: int) -> Case:
    """An encoder in float64, its unrolled cell, inputs and explicit initial states that require gradients."""
    config_class, extra, step = NETWORKS[name]
    config = config_class(context_length=LENGTH, horizon=1, hidden_size=UNITS, num_layers=num_layers, **extra)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(num_layers)
        encoder = RecurrentEncoder(config, CHANNELS).double()
        inputs = torch.randn(NUM_WINDOWS, LENGTH, CHANNELS, dtype=torch.float64, requires_grad=True)
        count = 2 if name == "lstm" else 1
        states = [
            tuple(torch.randn(1, NUM_WINDOWS, UNITS, dtype=torch.float64, requires_grad=True) for _ in range(count))
            for _ in range(num_layers)
        ]
    return encoder, step, inputs, states


def unroll(
    encoder: RecurrentEncoder, step: Step, inputs: Tensor, states: list[LayerState], cut_before: int = 0
) -> tuple[Tensor, list[LayerState]]:
    """All layers advance together, one step at a time; at `cut_before` every state is detached."""
    current = [tuple(part[0] for part in state) for state in states]
    outputs = []
    for t in range(inputs.shape[1]):
        if t == cut_before > 0:
            current = [tuple(part.detach() for part in state) for state in current]
            outputs = [output.detach() for output in outputs]
        below = inputs[:, t]
        for index, layer in enumerate(encoder.layers):
            a = below @ layer.weight_ih_l0.T + layer.bias_ih_l0
            b = current[index][0] @ layer.weight_hh_l0.T + layer.bias_hh_l0
            current[index] = step(a, b, current[index])
            below = current[index][0]
        outputs.append(below)
    return torch.stack(outputs, dim=1), [tuple(part[None] for part in state) for state in current]


def project(outputs: Tensor, states: list[LayerState]) -> Tensor:
    """One number that depends on every output and every final state, each with its own weight."""
    parts = [outputs, *(part for state in states for part in state)]
    generator = torch.Generator().manual_seed(7)
    return sum((part * torch.randn(part.shape, generator=generator, dtype=part.dtype)).sum() for part in parts)


def leaves(encoder: RecurrentEncoder, inputs: Tensor, states: list[LayerState]) -> list[Tensor]:
    return [inputs, *encoder.parameters(), *(part for state in states for part in state)]


every_network = pytest.mark.parametrize("name", NETWORKS)
every_depth = pytest.mark.parametrize("num_layers", [1, 2, 3])


@every_network
@every_depth
def test_fused_encoder_equals_unrolled_cells_forward(name, num_layers):
    """Outputs and final states of the fused layers are those of the formulas, from any initial state."""
    encoder, step, inputs, states = build_case(name, num_layers)

    fused_outputs, fused_states = encoder(inputs, states)
    outputs, final = unroll(encoder, step, inputs, states)

    torch.testing.assert_close(fused_outputs, outputs, **TOLERANCE)
    for fused_state, state in zip(fused_states, final, strict=True):
        torch.testing.assert_close(fused_state, state, **TOLERANCE)


@every_network
@every_depth
def test_fused_encoder_equals_unrolled_cells_backward(name, num_layers):
    """Gradients of inputs, initial states, weights and biases through the fused kernels are those of the formulas."""
    encoder, step, inputs, states = build_case(name, num_layers)

    fused = torch.autograd.grad(project(*encoder(inputs, states)), leaves(encoder, inputs, states))
    unrolled = torch.autograd.grad(project(*unroll(encoder, step, inputs, states)), leaves(encoder, inputs, states))

    assert all(gradient.abs().max() > 0 for gradient in unrolled)
    torch.testing.assert_close(fused, unrolled, **TOLERANCE)


@every_network
def test_initial_states_default_to_zero(name):
    """Without initial states the encoder starts every layer from zeros."""
    encoder, step, inputs, states = build_case(name, 2)
    zeros = [tuple(torch.zeros_like(part) for part in state) for state in states]

    torch.testing.assert_close(encoder(inputs).outputs, unroll(encoder, step, inputs, zeros)[0], **TOLERANCE)


@every_network
@every_depth
@pytest.mark.parametrize("truncation_steps", [1, 4, LENGTH - 1])
def test_truncation_keeps_values_and_cuts_the_gradient_exactly(name, num_layers, truncation_steps):
    """Truncated backpropagation changes no value; nothing before the cut gets gradient, all after it what is due."""
    encoder, step, inputs, states = build_case(name, num_layers)
    cut = LENGTH - truncation_steps

    truncated = encoder(inputs, states, truncation_steps)
    full = encoder(inputs, states)
    torch.testing.assert_close(truncated, full, **TOLERANCE)

    wanted = [inputs, *encoder.parameters()]
    gradients = torch.autograd.grad(project(*truncated), wanted, retain_graph=True)
    expected = torch.autograd.grad(project(*unroll(encoder, step, inputs, states, cut_before=cut)), wanted)
    torch.testing.assert_close(gradients, expected, **TOLERANCE)
    assert not gradients[0][:, :cut].any()
    assert gradients[0][:, cut].any()
    initial = [part for state in states for part in state]
    assert torch.autograd.grad(project(*truncated), initial, allow_unused=True) == (None,) * len(initial)


@every_network
@pytest.mark.parametrize("truncation_steps", [LENGTH, LENGTH + 5, None])
def test_truncation_beyond_the_context_is_full_backpropagation(name, truncation_steps):
    """A limit that the context does not reach changes nothing, gradients of the initial states included."""
    encoder, _, inputs, states = build_case(name, 2)
    wanted = leaves(encoder, inputs, states)

    limited = torch.autograd.grad(project(*encoder(inputs, states, truncation_steps)), wanted)

    torch.testing.assert_close(limited, torch.autograd.grad(project(*encoder(inputs, states)), wanted), rtol=0, atol=0)
