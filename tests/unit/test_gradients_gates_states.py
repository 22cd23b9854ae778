"""Gates, states and static memory against unrolled cells and numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests.reference.unrolled_cells import build_network, random_inputs, unrolled_encoder
from training.gradients.gates import actual_time_constants, measure_gates, preactivations
from training.gradients.memory import measure_static_memory, time_constants
from training.gradients.spectral import measure_spectral_radius, spectral_radius
from training.gradients.states import dead_share, measure_dead_units, measure_states
from training.gradients.trace import trace_layers


@pytest.mark.parametrize("architecture", ["gru", "lstm"])
def test_recomputed_gates_equal_an_unrolled_cell(architecture):
    """What a fused kernel hides is recomputed exactly from its inputs and outputs, in every layer."""
    network = build_network(architecture, num_layers=2)
    inputs = random_inputs(network)
    traces = trace_layers(network, inputs)
    with unrolled_encoder(network) as layers:
        network.forward_scaled(inputs)
    assert [trace.name for trace in traces] == [f"{architecture}.0", f"{architecture}.1"]
    for trace, layer in zip(traces, layers, strict=True):
        torch.testing.assert_close(trace.outputs, layer.outputs, rtol=0, atol=1e-13)
        found = preactivations(trace)
        assert list(found) == list(layer.gates)
        for gate, values in found.items():
            torch.testing.assert_close(values, layer.gates[gate], rtol=0, atol=1e-12)


def test_gates_driven_shut_are_reported():
    """Half of the forget gates at bias -20 and all output gates at +20: shut, open and saturated in exactly these shares."""
    network = build_network("lstm", hidden_size=8)
    with torch.no_grad():
        network.encoder.layers[0].bias_ih_l0[8:12] = -20.0
        network.encoder.layers[0].bias_ih_l0[24:32] = 20.0
    found = measure_gates(trace_layers(network, random_inputs(network)))
    assert found["gate/lstm.0.forget.saturated"] == 0.5
    assert found["gate/lstm.0.forget.shut"] == 0.5
    assert found["gate/lstm.0.output.saturated"] == 1.0
    assert found["gate/lstm.0.output.shut"] == 0.0
    assert found["gate/lstm.0.output.open"] == pytest.approx(1.0, abs=1e-6)
    assert found["gate/lstm.0.input.saturated"] == 0.0
    assert found["memory/lstm.0.p10"] < 0.1


def test_an_open_forget_gate_is_memory_and_not_shut():
    """Forget gates near 1 saturate, keep for hundreds of steps and count as shut nowhere."""
    network = build_network("lstm")
    with torch.no_grad():
        network.encoder.layers[0].bias_ih_l0[6:12] = 7.0
    found = measure_gates(trace_layers(network, random_inputs(network)))
    assert found["gate/lstm.0.forget.saturated"] == 1.0
    assert found["gate/lstm.0.forget.shut"] == 0.0
    assert found["memory/lstm.0.p50"] > 300


def test_a_plain_rnn_has_no_gates():
    """Gates of a network without gates are an empty reading, not an error."""
    network = build_network("rnn")
    assert measure_gates(trace_layers(network, random_inputs(network))) == {}


def test_actual_time_constant_is_that_of_the_product_of_gates():
    """Gates 0.25 and 1.0 in turn keep 0.5 per step on average: 1 / ln 2 steps, which a mean of gates would miss."""
    quarter, open_ = math.log(0.25 / 0.75), 40.0
    keep = torch.tensor([quarter, open_, quarter, open_])[None, :, None]
    assert float(actual_time_constants(keep)) == pytest.approx(1 / math.log(2), rel=1e-6)


def test_time_constants_are_those_of_the_documentation():
    """Bias 0, 1, 3, 5 means 1.4, 3.2, 20.6, 149 steps; a bias of 40 is finite and one of -40 is short."""
    found = time_constants(torch.tensor([0.0, 1.0, 3.0, 5.0, 40.0, -40.0])).tolist()
    assert found[:4] == pytest.approx([1.4427, 3.1922, 20.583, 148.9], rel=1e-3)
    assert found[4] == pytest.approx(math.exp(40.0), rel=1e-6)
    assert found[5] == pytest.approx(1 / 40, rel=1e-6)


@pytest.mark.parametrize(("architecture", "source"), [("lstm", "forget bias"), ("gru", "update bias")])
def test_static_memory_reads_the_keep_gate(architecture, source):
    """forget_bias 3 gives every unit of every layer 20.6 steps, from the total of both biases."""
    network = build_network(architecture, num_layers=2, forget_bias=3.0)
    with torch.no_grad():
        for layer in network.encoder.layers:
            layer.bias_hh_l0 += 0.5
            layer.bias_ih_l0 -= 0.5
    memory = measure_static_memory(network)
    assert [entry.layer for entry in memory] == [f"{architecture}.0", f"{architecture}.1"]
    for entry in memory:
        assert entry.source == source
        assert (entry.p10, entry.p50, entry.p90) == pytest.approx([20.583] * 3, rel=1e-3)


def test_static_memory_of_a_plain_rnn_is_its_spectral_radius():
    """A radius of 0.5 halves a state each step, 1.44 steps; an orthogonal matrix never forgets by itself."""
    half = build_network("rnn", initialization="identity", init_gain=0.5)
    orthogonal = build_network("rnn", initialization="orthogonal", hidden_size=16)
    assert measure_static_memory(half)[0].p50 == pytest.approx(1 / math.log(2), rel=1e-3)
    assert measure_static_memory(orthogonal)[0].p90 > 1e3


@pytest.mark.parametrize("size", [1, 5, 64])
def test_spectral_radius_is_the_largest_eigenvalue(size):
    """Repeated squaring agrees with the eigenvalues to a thousandth, for huge, tiny and rotating matrices alike."""
    generator = torch.Generator().manual_seed(size)
    for scale in (1e-3, 1.0, 1e3):
        matrix = scale * torch.randn(size, size, generator=generator, dtype=torch.float64)
        expected = float(torch.linalg.eigvals(matrix).abs().max())
        assert float(spectral_radius(matrix)) == pytest.approx(expected, rel=2e-3)
    rotation = torch.tensor([[0.0, -0.9], [0.9, 0.0]])
    assert float(spectral_radius(rotation)) == pytest.approx(0.9, rel=1e-3)
    assert float(spectral_radius(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))) == 0.0


def test_default_rnn_has_a_spectral_radius_near_058():
    """torch's uniform initialization with 64 units: about 1/sqrt(3)."""
    network = build_network("rnn", hidden_size=64)
    assert measure_spectral_radius(network)["spectral_radius/rnn.0"] == pytest.approx(3**-0.5, rel=0.15)


def test_saturated_states_are_counted_by_unit():
    """Three of six tanh units driven to 1: a share of one half, and no ReLU number for a tanh network."""
    network = build_network("rnn")
    with torch.no_grad():
        network.encoder.layers[0].bias_ih_l0[:3] = 30.0
    assert measure_states(trace_layers(network, random_inputs(network))) == {"state/rnn.0.saturated": 0.5}


def test_dead_units_are_counted_by_unit():
    """Two of six ReLU units driven below zero: a third is dead."""
    network = build_network("rnn", nonlinearity="relu", init_gain=0.1)
    with torch.no_grad():
        network.encoder.layers[0].bias_ih_l0[:2] = -50.0
        network.encoder.layers[0].bias_ih_l0[2:] = 5.0
    assert measure_states(trace_layers(network, random_inputs(network))) == {"state/rnn.0.dead": pytest.approx(1 / 3)}


def test_a_unit_that_fires_once_in_a_hundred_is_alive():
    """The border is 1 % of all places, over every axis but the last."""
    values = -torch.ones(10, 20, 3)
    values[0, 0, 1] = 1.0  # 0.5 %
    values[:2, 0, 2] = 1.0  # 1 %
    assert float(dead_share(values)) == pytest.approx(2 / 3)


def test_a_decoder_without_active_units_is_found():
    """A decoder whose first ReLU layer is driven below zero is dead although its second one is alive."""
    network = build_network("lstm")
    assert measure_dead_units(network, random_inputs(network))["state/decoder.dead"] < 0.7
    with torch.no_grad():
        network.decoder.step_projection.bias.fill_(-50.0)
    assert measure_dead_units(network, random_inputs(network))["state/decoder.dead"] == 1.0
