"""Reach, envelope and Jacobian against a network unrolled step by step under plain autograd."""

from __future__ import annotations

import copy
import math
import statistics

import pytest
import torch

from tests.reference.unrolled_cells import build_network, random_inputs, squared_sum, unrolled_encoder
from training.gradients.envelope import measure_envelope, record_inputs
from training.gradients.jacobian import STACK, layer_gradients, measure_jacobian
from training.gradients.reach import measure_reach, record_boundaries, run_segments
from training.gradients.trace import trace_layers

ARCHITECTURES = ("rnn", "gru", "lstm")
LAGS = (1, 2, 3, 4, 5, 9, 16, 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_segments_are_the_same_arithmetic(architecture, dtype):
    """Cutting the context into consecutive fused calls changes neither outputs nor final states, to rounding."""
    network = build_network(architecture, num_layers=2).to(dtype)
    inputs = network.encoder_inputs(random_inputs(network))
    whole, parts = network.encoder(inputs), run_segments(network.encoder, inputs, LAGS)
    tolerance = {"rtol": 0, "atol": 1e-6 if dtype == torch.float32 else 1e-14}
    torch.testing.assert_close(parts.encoded.outputs, whole.outputs, **tolerance)
    for state, expected in zip(parts.encoded.states, whole.states, strict=True):
        torch.testing.assert_close(state, expected, **tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_falls_on_the_same_units_in_segments(architecture):
    """With dropout between layers, the segmented pass draws the same mask as the whole one from the same seed."""
    network = build_network(architecture, num_layers=2, dropout=0.5)
    inputs = network.encoder_inputs(random_inputs(network))
    torch.manual_seed(5)
    whole = network.encoder(inputs).outputs
    torch.manual_seed(5)
    torch.testing.assert_close(run_segments(network.encoder, inputs, LAGS).encoded.outputs, whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reach_equals_unrolled_autograd(architecture):
    """The gradient norm on every cut, layer and component is that of an unrolled network."""
    network = build_network(architecture, num_layers=2)
    inputs = random_inputs(network)
    curves = measure_reach(network, inputs, squared_sum, LAGS)
    with unrolled_encoder(network) as layers:
        loss = squared_sum(network.forward_scaled(inputs))
        for curve in curves:
            layer, part = layers[int(curve.layer[-1])], ("h", "c").index(curve.component)
            states = [layer.states[24 - lag][part] for lag in curve.lags]
            expected = [float(g.norm()) for g in torch.autograd.grad(loss, states, retain_graph=True)]
            assert curve.norms == pytest.approx(expected, rel=1e-9)
            unit = statistics.median(expected[:5])
            assert curve.ratio == pytest.approx([norm / unit for norm in expected], rel=1e-9)
    components = [(curve.layer[-1], curve.component) for curve in curves]
    assert components == [(i, c) for i in "01" for c in ("hc" if architecture == "lstm" else "h")]


def test_a_measured_training_step_is_the_same_step():
    """Recording boundaries and inputs during a backward pass leaves the weights' gradients as they are."""
    network = build_network("lstm", num_layers=2)
    twin, inputs = copy.deepcopy(network), random_inputs(network)
    squared_sum(twin.forward_scaled(inputs)).backward()
    with record_boundaries(network, LAGS) as boundaries, record_inputs(network) as recorded:
        squared_sum(network.forward_scaled(inputs)).backward()
    for measured, plain in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(measured.grad, plain.grad, rtol=1e-9, atol=1e-12)
    assert [c.norms for c in boundaries.curves()] == [c.norms for c in measure_reach(network, inputs, squared_sum, LAGS)]
    envelope = measure_envelope(network, inputs, squared_sum, LAGS)
    for curve, alone in zip(recorded.curves(LAGS), envelope, strict=True):
        assert curve.norms == pytest.approx(alone.norms, rel=1e-9)


def test_measuring_leaves_no_trace():
    """Instruments touch neither weights, gradients, training mode nor the global random numbers."""
    network = build_network("lstm", num_layers=2, dropout=0.3)
    inputs = random_inputs(network)
    torch.manual_seed(9)
    before, modes = torch.get_rng_state(), [module.training for module in network.modules()]
    for measured in (measure_reach(network, inputs, squared_sum), measure_jacobian(network, inputs)):
        assert measured
    measure_envelope(network, inputs, squared_sum)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert "forward" not in vars(network.encoder)


def test_truncation_is_cut_and_not_vanished():
    """Behind truncated backpropagation nothing is measured and the curve says why; inside, the numbers are the same."""
    network = build_network("gru")
    inputs = random_inputs(network)
    (cut,) = measure_reach(network, inputs, squared_sum, LAGS, truncation_steps=10)
    (whole,) = measure_reach(network, inputs, squared_sum, LAGS)
    assert cut.lags == (1, 2, 3, 4, 5, 9)
    assert cut.norms == pytest.approx(whole.norms[:6], rel=1e-9)
    assert cut.status_at(16) == "cut"
    assert math.isnan(cut.ratio_at(16))
    assert whole.status_at(16) == "measured"
    network.zero_grad()
    with record_boundaries(network, LAGS) as recorder:
        squared_sum(network.forward_scaled(inputs, truncation_steps=10)).backward()
    assert recorder.curves()[0].norms == cut.norms


def test_reach_is_measured_with_frozen_weights():
    """A frozen encoder still has a gradient through time, because the states themselves require one."""
    network = build_network("lstm")
    inputs = random_inputs(network)
    free = measure_reach(network, inputs, squared_sum, LAGS)
    network.encoder.requires_grad_(False)
    assert [c.norms for c in measure_reach(network, inputs, squared_sum, LAGS)] == [c.norms for c in free]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_envelope_equals_unrolled_autograd(architecture):
    """Per bin, the envelope is the root mean square of dL/dx over windows, channels and the lags of the bin."""
    network = build_network(architecture, num_layers=2)
    inputs = random_inputs(network)
    curves = measure_envelope(network, inputs, squared_sum, LAGS)
    with unrolled_encoder(network) as layers:
        first = network.encoder_inputs(inputs).requires_grad_()
        network.encoder_inputs = lambda _: first
        loss = squared_sum(network.forward_scaled(inputs))
        sources = (first, layers[0].outputs)
        for curve, gradient in zip(curves, torch.autograd.grad(loss, sources), strict=True):
            assert curve.lags == LAGS
            start = 0
            for lag, value in zip(curve.lags, curve.norms, strict=True):
                part = gradient[:, 24 - lag : 24 - start]
                assert value == pytest.approx(float(part.square().mean().sqrt()), rel=1e-9)
                start = lag


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_jacobian_projection_equals_explicit_jacobian(architecture):
    """J^T v for the v that was drawn equals the explicit Jacobian of the unrolled layer times v."""
    network = build_network(architecture, context_length=12, hidden_size=4)
    (trace,) = trace_layers(network, random_inputs(network, windows=1))
    found = layer_gradients(trace, (5, 12), torch.Generator().manual_seed(3))
    parts = len(trace.initial)
    generator = torch.Generator().manual_seed(3)
    v = torch.cat([torch.randn(1, 1, 4, generator=generator, dtype=torch.float64).flatten() for _ in range(parts)])
    with unrolled_encoder(network) as layers:
        network.forward_scaled(random_inputs(network, windows=1))
        for lag, measured in zip((5, 12), found, strict=True):
            final, source = torch.cat(layers[0].final, dim=1)[0], layers[0].states[12 - lag]
            rows = [torch.cat(torch.autograd.grad(f, source, retain_graph=True), dim=1)[0] for f in final]
            expected = torch.stack(rows).T @ v
            torch.testing.assert_close(torch.cat(measured, dim=2).flatten(), expected, rtol=1e-8, atol=1e-14)


def test_jacobian_mean_square_is_the_frobenius_norm():
    """Over many random vectors the squared norm of J^T v averages to the squared Frobenius norm of J."""
    network = build_network("rnn", context_length=8, hidden_size=4)
    inputs = random_inputs(network, windows=1)
    (curve,) = measure_jacobian(network, inputs, (3,), num_vectors=4000)
    with unrolled_encoder(network) as layers:
        network.forward_scaled(inputs)
        source = layers[0].states[8 - 3][0]
        rows = [torch.autograd.grad(f, source, retain_graph=True)[0][0] for f in layers[0].final[0][0]]
    assert curve.norms[0] == pytest.approx(float(torch.stack(rows).norm()), rel=0.05)


def test_stack_carries_what_a_lower_layer_alone_has_forgotten():
    """A forgetful layer 0 below a layer 1 with memory: the stack reaches further than layer 0 does on its own."""
    network = build_network("lstm", num_layers=2, context_length=60, hidden_size=16)
    with torch.no_grad():
        network.encoder.layers[1].bias_ih_l0[16:32] = 6.0
    curves = {curve.layer: curve for curve in measure_jacobian(network, random_inputs(network, windows=8))}
    assert set(curves) == {"lstm.0", "lstm.1", STACK}
    assert curves["lstm.0"].ratio_at(60) < 1e-6
    assert curves["lstm.1"].ratio_at(60) > 1e-2
    assert curves[STACK].ratio_at(60) > 1e-3


def test_ratios_do_not_see_the_size_of_the_loss():
    """A loss a trillion times smaller shrinks every norm, but no ratio: small gradients alone are not a short reach."""
    network = build_network("gru")
    inputs = random_inputs(network)

    def tiny(forecast):
        return squared_sum(forecast) * 1e-12

    (large,), (small,) = measure_reach(network, inputs, squared_sum, LAGS), measure_reach(network, inputs, tiny, LAGS)
    assert small.norms[0] == pytest.approx(large.norms[0] * 1e-12, rel=1e-6)
    assert small.ratio == pytest.approx(large.ratio, rel=1e-6)
