"""Dilated layers: one fused call per layer equals the recurrence step by step, and every instrument reads them."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from models.config import NETWORK_CONFIG_ADAPTER
from models.dilated import DilatedGRU, DilatedLayer, DilatedLSTM, DilatedRNN, doubling_dilations
from models.forecaster import ForecastInputs, RecurrentForecaster
from models.initialization import gate_rows, layer_biases
from models.recurrent import EncoderOutput
from models.registry import build_forecaster
from tests.reference.unrolled_cells import random_inputs, squared_sum
from training.gradients.envelope import measure_envelope
from training.gradients.gates import measure_gates
from training.gradients.jacobian import STACK, layer_gradients, measure_jacobian
from training.gradients.lags import reach_steps
from training.gradients.lyapunov import measure_lyapunov
from training.gradients.memory import measure_static_memory
from training.gradients.monitor import Probe, RecurrentMonitor
from training.gradients.norms import GradientNorms
from training.gradients.reach import measure_reach, run_segments
from training.gradients.trace import trace_layers

EXACT = {"rtol": 0, "atol": 1e-12}
LAYERS = {
    "rnn": partial(DilatedRNN, nonlinearity="tanh"), "relu": partial(DilatedRNN, nonlinearity="relu"),
    "gru": DilatedGRU, "lstm": DilatedLSTM,
}  # fmt: skip
CELLS = ("rnn", "gru", "lstm")
Queue = list[tuple[Tensor, ...]]


def step(layer: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One step as in the papers."""
    a = x @ layer.weight_ih_l0.T + layer.bias_ih_l0
    b = state[0] @ layer.weight_hh_l0.T + layer.bias_hh_l0
    if isinstance(layer, nn.LSTM):
        i, f, g, o = (a + b).chunk(4, dim=1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    if isinstance(layer, nn.GRU):
        (r_x, z_x, n_x), (r_h, z_h, n_h) = a.chunk(3, dim=1), b.chunk(3, dim=1)
        z, n = torch.sigmoid(z_x + z_h), torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
        return ((1 - z) * n + z * state[0],)
    return (torch.tanh(a + b) if layer.nonlinearity == "tanh" else torch.relu(a + b),)


def walk(layer: DilatedLayer, inputs: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """The definition: the state at t follows from that at t - d. All states, those before the first step in front."""
    states = [tuple(part[index] for part in state) for index in range(layer.dilation)]
    for t, x in enumerate(inputs.unbind(1)):
        # Copies: what h owes to the c of its own step is no way through time, and a fused layer does not show it.
        states.append(tuple(part.clone() for part in step(layer, x, states[t])))
    return torch.stack([state[0] for state in states[layer.dilation :]], dim=1), states


def as_argument(state: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return state if len(state) > 1 else state[0]


@pytest.mark.parametrize("length", [1, 3, 4, 8, 11])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_a_fused_layer_is_its_definition_step_by_step(kind: str, length: int) -> None:
    """Outputs, last states, and the gradients of inputs, first states and weights, for lengths of any remainder."""
    torch.manual_seed(length)
    layer = LAYERS[kind](5, 6, dilation=4).double()
    inputs = torch.randn(3, length, 5, dtype=torch.float64, requires_grad=True)
    count = 2 if kind == "lstm" else 1
    state = tuple(torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True) for _ in range(count))
    outputs, last = layer(inputs, as_argument(state))
    expected, states = walk(layer, inputs, state)
    last = last if isinstance(last, tuple) else (last,)
    expected_last = tuple(torch.stack([entry[part] for entry in states[-4:]]) for part in range(count))
    torch.testing.assert_close(outputs, expected, **EXACT)
    torch.testing.assert_close(last, expected_last, **EXACT)
    mix = torch.randn_like(outputs)
    sources = [inputs, *state, *layer.parameters()]
    found = torch.autograd.grad((outputs * mix).sum() + sum(part.square().sum() for part in last), sources)
    wanted = torch.autograd.grad((expected * mix).sum() + sum(part.square().sum() for part in expected_last), sources)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_dilation_one_is_the_plain_layer_to_the_bit(kind: str) -> None:
    """Same weights, same kernel, same numbers."""
    layer = LAYERS[kind](5, 6, dilation=1)
    plain_kind = {"gru": nn.GRU, "lstm": nn.LSTM}.get(kind, nn.RNN)
    settings = {"nonlinearity": layer.nonlinearity} if plain_kind is nn.RNN else {}
    plain = plain_kind(5, 6, batch_first=True, **settings)
    plain.load_state_dict(layer.state_dict())
    inputs, state = torch.randn(3, 9, 5), tuple(torch.randn(1, 3, 6) for _ in range(2 if kind == "lstm" else 1))
    assert torch.equal(layer(inputs, as_argument(state))[0], plain(inputs, as_argument(state))[0])


def network(cell: str, dilations: tuple[int, ...] = (1, 2, 4), seed: int = 0, **settings: object) -> RecurrentForecaster:
    torch.manual_seed(seed)
    defaults = {"context_length": 23, "horizon": 3, "hidden_size": 6, "scaler": "none", "head": "point"}
    description = defaults | {"architecture": f"dilated_{cell}", "dilations": dilations, "num_layers": len(dilations)}
    built = build_forecaster(NETWORK_CONFIG_ADAPTER.validate_python(description | settings)).double()
    assert isinstance(built, RecurrentForecaster)
    return built


def unrolled(net: RecurrentForecaster, inputs: ForecastInputs) -> list[Queue]:
    """Every state of every layer, step by step, open to autograd."""
    steps, queues = net.encoder_inputs(inputs), []
    for layer, initial in zip(net.encoder.layers, net.encoder.initial_states(steps), strict=True):
        # One tensor per step: a gradient is asked for at each.
        first = tuple(part.clone().requires_grad_() for part in initial)
        steps, states = walk(layer, steps, first)
        queues.append(states)
    return queues


@pytest.mark.parametrize("cell", CELLS)
def test_cutting_the_context_changes_nothing(cell: str) -> None:
    """Segments of any length, as reach cuts them, and truncation, whose values are those of the whole pass."""
    net = network(cell)
    steps = net.encoder_inputs(random_inputs(net))
    whole = net.encoder(steps)
    parts = run_segments(net.encoder, steps, (1, 2, 3, 4, 5, 9, 16, 23)).encoded
    for found in (parts, net.encoder(steps, truncation_steps=7)):
        torch.testing.assert_close(found.outputs, whole.outputs, **EXACT)
        for state, expected in zip(found.states, whole.states, strict=True):
            torch.testing.assert_close(state, expected, **EXACT)


def read_off(queues: list[Queue]) -> EncoderOutput:
    """What the decoder reads of states step by step."""
    newest = queues[-1][-1]
    return EncoderOutput(newest[0][:, None], [tuple(part[None] for part in queue[-1]) for queue in queues])


def loss_from(net: RecurrentForecaster, queues: list[Queue], layer: int, position: int, inputs: ForecastInputs) -> Tensor:
    """The loss as a function of the states of one layer before a position: everything after follows from them."""
    read = net.encoder_inputs(inputs)
    fresh: list[Queue] = []
    for index, module in enumerate(net.encoder.layers):
        states: Queue = list(queues[index][: module.dilation])
        for t, x in enumerate(read.unbind(1)):
            is_held = index == layer and len(states) < position
            states.append(queues[index][len(states)] if is_held else step(module, x, states[t]))
        # What the layer above reads of states that are held is no way through time of this layer.
        shown = [h.detach() if index == layer and place < position else h for place, (h, *_) in enumerate(states)]
        read = torch.stack(shown[module.dilation :], dim=1)
        fresh.append(states)
    net.encoder.forward = lambda *_arguments, **_settings: read_off(fresh)
    return squared_sum(net.forward_scaled(inputs))


@pytest.mark.parametrize("cell", CELLS)
def test_reach_is_the_gradient_at_all_states_that_later_steps_go_on_from(cell: str) -> None:
    """At a lag the state of a layer is that of the d steps before; its gradient equals autograd step by step."""
    net, lags = network(cell), (1, 2, 5, 16)
    inputs = random_inputs(net)
    curves = measure_reach(net, inputs, squared_sum, lags)
    queues = unrolled(net, inputs)
    for curve in curves:
        layer, part = int(curve.layer[-1]), ("h", "c").index(curve.component)
        dilation, states = net.config.layer_dilations[layer], queues[layer]
        for lag, value in zip(curve.lags, curve.norms, strict=True):
            position = len(states) - lag
            sources = [entry[part] for entry in states[position - dilation : position]]
            loss = loss_from(net, queues, layer, position, inputs)
            gradients = torch.autograd.grad(loss, sources, materialize_grads=True, allow_unused=True)
            assert value == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradients)), rel=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_jacobian_and_envelope_equal_autograd_step_by_step(cell: str) -> None:
    """J^T v of a layer for the v that was drawn, and the gradient of the loss at every layer's input by lag."""
    net, lags = network(cell), (1, 2, 3, 6, 16)
    inputs = random_inputs(net)
    queues = unrolled(net, inputs)
    for index, trace in enumerate(trace_layers(net, inputs)):
        dilation, states = trace.dilation, queues[index]
        found = layer_gradients(trace, (6, 16), torch.Generator().manual_seed(3))
        generator = torch.Generator().manual_seed(3)
        final = [torch.stack([entry[part] for entry in states[-dilation:]]) for part in range(len(trace.initial))]
        projected = sum((part * torch.randn(part.shape, generator=generator, dtype=part.dtype)).sum() for part in final)
        for lag, measured in zip((6, 16), found, strict=True):
            # States that are held and states that are wanted may be the same ones: those have a gradient of their own.
            held = states[len(states) - lag - dilation : len(states) - lag]
            for part, value in enumerate(measured):
                wanted = torch.autograd.grad(projected, [entry[part] for entry in held], retain_graph=True)
                torch.testing.assert_close(value, torch.stack(wanted), rtol=1e-8, atol=1e-14)
    curves = measure_envelope(net, inputs, squared_sum, lags)
    read = [net.encoder_inputs(inputs).requires_grad_()]
    fresh = []
    for layer, initial in zip(net.encoder.layers, net.encoder.initial_states(read[0]), strict=True):
        outputs, states = walk(layer, read[-1], initial)
        fresh.append(states)
        read.append(outputs)
    net.encoder.forward = lambda *_arguments, **_settings: read_off(fresh)
    gradients = torch.autograd.grad(squared_sum(net.forward_scaled(inputs)), read[:-1])
    for curve, gradient in zip(curves, gradients, strict=True):
        assert curve.norms[0] == pytest.approx(float(gradient[:, -1].square().mean().sqrt()), rel=1e-9)
        assert curve.norms[-1] == pytest.approx(float(gradient[:, -16:-6].square().mean().sqrt()), rel=1e-9)


def test_the_stack_begins_at_the_state_that_the_decoder_reads() -> None:
    """Of the top layer's last states only the newest is read: what the others keep is no part of a forecast."""
    net = network("lstm", (1, 4))
    with torch.no_grad():
        # A top layer that keeps its state for good: every lag that its own chain does not pass adds nothing.
        net.encoder.layers[1].bias_ih_l0[gate_rows("lstm", "forget", 6)] = 30.0
    curves = {curve.layer: curve for curve in measure_jacobian(net, random_inputs(net), (1, 2, 3, 4, 5, 16))}
    assert set(curves) == {"lstm.0", "lstm.1", STACK}
    assert curves["lstm.1"].norms[0] > 1.5 * curves[STACK].norms[0]


def test_norms_gates_and_states_are_reported_by_layer_and_gate() -> None:
    """As for an undilated layer: the names of the dashboard, one block of rows per gate."""
    net = network("lstm")
    squared_sum(net.forward_scaled(random_inputs(net))).backward()
    norms = GradientNorms(net)
    named = norms.named(norms.measure().tolist())
    weight = net.encoder.layers[2].weight_hh_l0.grad
    assert named["grad_norm/lstm.2.weight_hh.forget"] == pytest.approx(float(weight[6:12].norm()))
    assert named["grad_norm/lstm.2"] > named["grad_norm/lstm.2.weight_hh"]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gates_are_those_of_the_states_d_steps_before(cell: str) -> None:
    """Recomputed from the trace, the states that follow from the gates are the layer's own."""
    net = network(cell)
    for trace in trace_layers(net, random_inputs(net)):
        queue = trace.initial[0].transpose(0, 1)
        known = torch.cat((queue, trace.outputs), dim=1)[:, : trace.outputs.shape[1]]
        assert torch.equal(trace.previous(), known)
        assert trace.previous().shape == trace.outputs.shape


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_memory_counts_in_steps_not_in_updates(cell: str) -> None:
    """A keep gate at bias 3 holds for 20.6 updates: 82 steps at dilation 4, from the weights alone and along the data."""
    net = network(cell, (1, 4), forget_bias=3.0)
    with torch.no_grad():
        for layer in net.encoder.layers:
            layer.weight_ih_l0.zero_()
            layer.weight_hh_l0.zero_()
    static = measure_static_memory(net)
    assert [entry.p50 for entry in static] == pytest.approx([20.6, 82.3], rel=0.01)
    measured = measure_gates(trace_layers(net, random_inputs(net)))
    assert [measured[f"memory/{cell}.{index}.p50"] for index in (0, 1)] == pytest.approx([s.p50 for s in static], rel=1e-4)


def test_a_plain_dilated_layer_forgets_d_times_as_slowly() -> None:
    """W_hh = 0.5 I and no input: half is left after d steps, in time constants and in the Lyapunov exponent alike."""
    net = network("rnn", (1, 4), context_length=64)
    with torch.no_grad():
        for layer in net.encoder.layers:
            layer.weight_ih_l0.zero_()
            nn.init.eye_(layer.weight_hh_l0).mul_(0.5)
            for bias in layer_biases(layer):
                bias.zero_()
    exponents = measure_lyapunov(trace_layers(net, random_inputs(net)))
    assert [exponents[f"lyapunov/rnn.{index}"] for index in (0, 1)] == pytest.approx([-math.log(2), -math.log(2) / 4], rel=1e-3)
    assert [entry.p50 for entry in measure_static_memory(net)] == pytest.approx([1.4427, 4 * 1.4427], rel=1e-2)


def test_chrono_spreads_memories_over_the_updates_that_a_layer_makes() -> None:
    """log U(1, L / d - 1): the longest is the context, whatever the dilation."""
    net = network("lstm", (1, 8), context_length=168, hidden_size=256, initialization="chrono")
    rows = gate_rows("lstm", "forget", 256)
    longest = [float(sum(layer_biases(layer)).detach()[rows].max()) for layer in net.encoder.layers]
    assert longest == pytest.approx([math.log(167), math.log(20)], abs=0.1)


def test_every_instrument_of_the_full_preset_reads_a_dilated_stack() -> None:
    """And a stack reaches further back than the same one without dilation."""
    net, plain = network("lstm", (1, 2, 4, 8), context_length=96), network("lstm", (1, 1, 1, 1), context_length=96)
    inputs = random_inputs(net, windows=8)
    probe = Probe(inputs, squared_sum, torch.arange(8) // 4)
    readings = RecurrentMonitor(net, probe, "full", need_steps=24).measure(0)
    for name in ("grad_reach/stack", "gate/lstm.3.forget.saturated", "memory/lstm.3.p50", "lyapunov/lstm.3", "grad_depth/lstm.0",
                 "spectral_radius/lstm.3", "reach/lstm.3@24", "series_share/largest", "past_use/steps"):  # fmt: skip
        assert name in readings, name
    assert all(math.isfinite(value) for value in readings.values())
    reach = [
        reach_steps(next(curve for curve in measure_jacobian(each, inputs) if curve.layer == STACK)) for each in (net, plain)
    ]
    assert reach[0] > 1.5 * reach[1]


def test_a_recursive_decoder_goes_on_from_the_right_chain() -> None:
    """Taught with the forecasts of its own roll-out, every step is forecast as in the roll-out."""
    net = network("lstm", (1, 4), decoder="recursive", horizon=7)
    inputs = random_inputs(net)
    rolled = net.forward_scaled(inputs).prediction
    taught = net.forward_taught(inputs, rolled[..., 0].detach(), torch.ones(4, 7, dtype=torch.bool)).prediction
    torch.testing.assert_close(taught, rolled, rtol=0, atol=1e-10)


def test_default_dilations_double_and_stay_within_the_context() -> None:
    """1, 2, 4, ...; beyond half of a short context there is nothing left to double."""
    assert doubling_dilations(4, 168) == (1, 2, 4, 8)
    assert doubling_dilations(4, 6) == (1, 2, 4, 4)
    assert doubling_dilations(3, 1) == (1, 1, 1)
