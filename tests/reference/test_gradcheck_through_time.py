"""Hand-derived backpropagation through time: against numbers worked by hand, and against autograd for any size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import GRUConfig, LSTMConfig, RNNConfig
from models.errors import NetworkConfigError
from models.recurrent import RecurrentEncoder
from training.gradcheck.cells import build_cell, sigmoid
from training.gradcheck.finite_differences import relative_error
from training.gradcheck.forecasters import layer_weights
from training.gradcheck.through_time import LayerWeights, backward_layer, backward_stack, forward_layer, forward_stack


def scalar_weights(*gates: tuple[float, float]) -> LayerWeights:
    """One unit, one channel: (input weight, recurrent weight) per gate, no bias."""
    columns = np.array(gates)
    zero = np.zeros(len(gates))
    return LayerWeights(columns[:, :1], columns[:, 1:], zero, zero.copy())


def test_two_steps_of_one_tanh_unit_worked_by_hand():
    """h1 = tanh(w x1), h2 = tanh(w x2 + u h1): dh2/du = (1 - h2^2) h1 and dh2/dx1 = (1 - h2^2) u (1 - h1^2) w."""
    w, u, x1, x2 = 0.5, 0.8, 1.0, -0.4
    h1 = math.tanh(w * x1)
    h2 = math.tanh(w * x2 + u * h1)

    tape = forward_layer(build_cell("rnn"), scalar_weights((w, u)), np.array([[[x1], [x2]]]), (np.zeros((1, 1)),))
    by_hand = backward_layer(
        build_cell("rnn"), scalar_weights((w, u)), tape, np.array([[[0.0], [1.0]]]), (np.zeros((1, 1)),)
    )

    slope1, slope2 = 1 - h1**2, 1 - h2**2
    assert tape.outputs[0, 1, 0] == pytest.approx(h2, rel=1e-15)
    assert by_hand.weights.weight_hh[0, 0] == pytest.approx(slope2 * h1, rel=1e-14)
    assert by_hand.weights.weight_ih[0, 0] == pytest.approx(slope2 * (x2 + u * slope1 * x1), rel=1e-14)
    assert by_hand.inputs[0, :, 0] == pytest.approx([slope2 * u * slope1 * w, slope2 * w], rel=1e-14)
    assert by_hand.initial[0][0, 0] == pytest.approx(slope2 * u * slope1 * u, rel=1e-14)


def test_lstm_cell_is_remembered_by_the_product_of_its_forget_gates():
    """With write and read untouched by the past, dc_T/dc_0 is the product of the forget gates: 1/2 per step at bias 0."""
    cell, weights = build_cell("lstm"), scalar_weights((0.3, 0.0), (0.0, 0.0), (0.2, 0.0), (0.1, 0.0))
    steps = 5
    tape = forward_layer(cell, weights, np.ones((1, steps, 1)), (np.zeros((1, 1)), np.zeros((1, 1))))

    by_hand = backward_layer(cell, weights, tape, np.zeros((1, steps, 1)), (np.zeros((1, 1)), np.ones((1, 1))))

    assert by_hand.initial[1][0, 0] == pytest.approx(0.5**steps, rel=1e-14)
    assert by_hand.initial[0][0, 0] == 0.0


def test_gru_with_open_update_gate_keeps_the_gradient():
    """With the update gate at 1 the state is copied, and its gradient arrives undiminished after 50 steps."""
    cell, weights = build_cell("gru"), scalar_weights((0.3, 0.1), (0.0, 0.0), (0.2, 0.4))
    weights.bias_ih[1] = 40.0
    tape = forward_layer(cell, weights, np.ones((1, 50, 1)), (np.full((1, 1), 0.7),))

    by_hand = backward_layer(cell, weights, tape, np.zeros((1, 50, 1)), (np.ones((1, 1)),))

    assert tape.final[0][0, 0] == pytest.approx(0.7, rel=1e-14)
    assert by_hand.initial[0][0, 0] == pytest.approx(1.0, rel=1e-14)


def test_relu_unit_that_is_off_passes_nothing():
    """A rectifier below zero stops the gradient; above zero it is a plain linear unit."""
    weights, tape_inputs = scalar_weights((1.0, 0.5)), np.array([[[1.0], [2.0]], [[1.0], [-2.0]]])
    cell, zero = build_cell("rnn", "relu"), (np.zeros((2, 1)),)
    tape = forward_layer(cell, weights, tape_inputs, zero)

    by_hand = backward_layer(cell, weights, tape, np.zeros((2, 2, 1)), (np.ones((2, 1)),))

    assert tape.final[0][:, 0] == pytest.approx([2.5, 0.0])
    assert by_hand.inputs[:, :, 0] == pytest.approx(np.array([[0.5, 1.0], [0.0, 0.0]]))


def test_sigmoid_neither_overflows_nor_loses_digits():
    """The sigmoid is exact at 0 and finite and symmetric for any size of argument, without a warning."""
    values = sigmoid(np.array([-1e4, -2.0, 0.0, 2.0, 1e4]))

    assert values == pytest.approx([0.0, 1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-2)), 1.0], rel=1e-14)


def test_unknown_cell_is_refused_with_the_possible_ones():
    """A cell that does not exist is named together with those that do."""
    with pytest.raises(NetworkConfigError, match=r"rnn tanh, rnn relu, gru, lstm.*but is elman"):
        build_cell("elman")


@settings(max_examples=25, deadline=None)
@given(
    network=st.sampled_from([(RNNConfig, "tanh"), (RNNConfig, "relu"), (GRUConfig, "tanh"), (LSTMConfig, "tanh")]),
    sizes=st.tuples(*(st.integers(1, top) for top in (3, 12, 3, 5, 3))),
    seed=st.integers(0, 2**31),
)
def test_hand_derived_gradients_equal_autograd_for_every_size(network, sizes, seed):
    """For any number of windows, steps, channels, units and layers, both agree to rounding in every tensor."""
    (config_class, nonlinearity), (windows, length, channels, units, num_layers) = network, sizes
    extra = {"nonlinearity": nonlinearity} if config_class is RNNConfig else {}
    config = config_class(context_length=length, horizon=1, hidden_size=units, num_layers=num_layers, **extra)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    encoder = RecurrentEncoder(config, channels).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(draw(*parameter.shape))
    cell = build_cell(config.architecture, nonlinearity)
    inputs, d_outputs = draw(windows, length, channels), draw(windows, length, units)
    states = [tuple(draw(1, windows, units) for _ in range(cell.num_states)) for _ in range(num_layers)]
    d_final = [tuple(draw(1, windows, units) for _ in state) for state in states]
    leaves = [inputs, *(part for state in states for part in state), *encoder.parameters()]
    for leaf in leaves:
        leaf.requires_grad_(True)

    outputs, final = encoder(inputs, states)
    ends = [part for state in final for part in state]
    automatic = torch.autograd.grad([outputs, *ends], leaves, [d_outputs, *(part for end in d_final for part in end)])

    arrays = {name: parameter.detach().numpy() for name, parameter in encoder.named_parameters()}
    weights = [layer_weights(arrays, f"layers.{index}", cell) for index in range(num_layers)]
    initial = [tuple(part.detach()[0].numpy() for part in state) for state in states]
    tapes = forward_stack(cell, weights, inputs.detach().numpy(), initial)
    stack = backward_stack(
        cell, weights, tapes, d_outputs.numpy(), [tuple(part[0].numpy() for part in end) for end in d_final]
    )
    np.testing.assert_allclose(tapes[-1].outputs, outputs.detach().numpy(), rtol=1e-10, atol=1e-12)
    by_hand = [stack.inputs, *(part[None] for state in stack.initial for part in state)]
    by_hand += [weight for layer in stack.weights for weight in layer]
    for one, other in zip(automatic, by_hand, strict=True):
        # Windows in a saturated network have gradients of 1e-300; there "equal" is a matter of the smallest number.
        assert relative_error(one, torch.from_numpy(np.asarray(other))) < 1e-10 or one.norm() < 1e-250
