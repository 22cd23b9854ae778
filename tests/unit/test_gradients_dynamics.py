"""Lyapunov exponents and the use of the past, on networks whose answer is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from models.forecaster import ScaledForecast
from tests.reference.unrolled_cells import build_network, random_inputs, squared_sum, unrolled_encoder
from training.errors import DataError
from training.gradients.lyapunov import measure_lyapunov
from training.gradients.past_use import measure_past_use
from training.gradients.trace import trace_layers


def test_lyapunov_exponent_of_a_contraction_is_its_logarithm():
    """A recurrence of 0.8 times the identity on silent input shrinks every distance by ln 0.8 a step."""
    network = build_network("rnn", initialization="identity", init_gain=0.8, context_length=80)
    with torch.no_grad():
        network.encoder.layers[0].weight_ih_l0.zero_()
    found = measure_lyapunov(trace_layers(network, random_inputs(network)))
    assert found == {"lyapunov/rnn.0": pytest.approx(math.log(0.8), rel=1e-4)}


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm"])
def test_lyapunov_exponent_equals_tangent_vectors(architecture):
    """Shadow trajectories agree with tangent vectors pushed through the Jacobians of an unrolled cell."""
    network = build_network(architecture, context_length=160, hidden_size=4, init_gain=1.5)
    inputs = random_inputs(network, windows=1)
    (found,) = measure_lyapunov(trace_layers(network, inputs)).values()
    with unrolled_encoder(network) as layers:
        network.forward_scaled(inputs)
        states = [*layers[0].states, layers[0].final]
    tangent = torch.randn(sum(part.shape[1] for part in states[0]), generator=torch.Generator().manual_seed(1)).double()
    growth = []
    for before, after in pairwise(states):
        flat = torch.cat(after, dim=1)[0]
        rows = [torch.cat(torch.autograd.grad(f, before, retain_graph=True, materialize_grads=True), 1)[0] for f in flat]
        tangent = torch.stack(rows) @ tangent
        growth.append(float(tangent.norm().log()))
        tangent = tangent / tangent.norm()
    assert found == pytest.approx(sum(growth[40:]) / 120, abs=0.02)


def test_a_strong_recurrence_is_chaotic():
    """A random tanh network of gain 3 has a positive exponent and one of gain 0.5 a negative one (Sompolinsky 1988)."""
    found = {}
    for gain in (0.5, 3.0):
        network = build_network("rnn", hidden_size=64, initialization="orthogonal", init_gain=gain, context_length=120)
        with torch.no_grad():
            network.encoder.layers[0].weight_ih_l0.mul_(0.01)
        found[gain] = measure_lyapunov(trace_layers(network, random_inputs(network)))["lyapunov/rnn.0"]
    assert found[3.0] > 0.1
    assert found[0.5] < -0.3


def echo(memory_steps: int):
    """A linear network whose forecast is the input `memory_steps` back: a chain of units handing the value on."""
    network = build_network("rnn", nonlinearity="relu", hidden_size=memory_steps, context_length=20, horizon=1)
    layer = network.encoder.layers[0]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        layer.weight_ih_l0[0, 0] = 1.0
        layer.weight_hh_l0.copy_(torch.diag(torch.ones(memory_steps - 1), -1))
        network.decoder.step_projection.weight[0, -1] = 1.0
        network.decoder.mixer.weight[0, 0] = 1.0
        network.head.projection.weight[0, 0] = 1.0
    return network


def test_past_use_finds_exactly_the_lag_that_is_used():
    """A network that repeats its input of 7 steps ago is hurt by exchanging what is older than 6, not older than 7."""
    network = echo(7)
    inputs = random_inputs(network, windows=64)
    inputs = inputs._replace(context=inputs.context.abs())
    target = inputs.context[:, -7, None, None]

    def error(forecast: ScaledForecast):
        return (forecast.prediction - target).square().mean() + 0.01

    use = measure_past_use(network, inputs, error, lags=(1, 3, 6, 7, 12))
    assert use.loss == pytest.approx(0.01)
    assert use.used_steps == 6
    assert min(use.increase[:3]) > 10
    assert use.increase[3:] == pytest.approx((0.0, 0.0))


def test_level_and_scale_stay_the_windows_own():
    """With a scaler, windows at very different levels do not make a forgetful network look as if it used the past."""
    network = build_network("rnn", scaler="standard", init_gain=1e-3, context_length=40)
    inputs = random_inputs(network, windows=16)
    inputs = inputs._replace(context=inputs.context + 100.0 * torch.arange(16.0, dtype=torch.float64)[:, None])

    def level(forecast: ScaledForecast):
        return (forecast.prediction * forecast.scale[..., None] + forecast.loc[..., None]).square().mean()

    assert measure_past_use(network, inputs, level, lags=(10,)).increase == pytest.approx((0.0,), abs=1e-9)


def test_past_use_leaves_the_network_as_it_was():
    """No hook, no changed mode and no random number of the run remains; the same seed gives the same numbers."""
    network = build_network("lstm", dropout=0.4)
    inputs = random_inputs(network)
    before = torch.get_rng_state()
    first = measure_past_use(network, inputs, squared_sum)
    assert first == measure_past_use(network, inputs, squared_sum)
    assert torch.equal(before, torch.get_rng_state())
    assert not network.encoder._forward_pre_hooks


def test_one_window_cannot_be_exchanged():
    """With a single window there is no other past to take, and the error says so."""
    network = build_network("rnn")
    with pytest.raises(DataError, match="at least 2 windows, but has 1"):
        measure_past_use(network, random_inputs(network, windows=1), squared_sum)
