"""Minimal layers: the parallel scan is the step-by-step recurrence, and every instrument reads them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.config import NETWORK_CONFIG_ADAPTER
from models.errors import NetworkConfigError
from models.forecaster import ForecastInputs, RecurrentForecaster
from models.minimal import MinGRU, MinimalLayer, MinLSTM, linear_recurrence
from models.registry import build_forecaster
from training.gradients.gates import measure_gates
from training.gradients.jacobian import measure_jacobian
from training.gradients.lags import reach_steps
from training.gradients.memory import measure_static_memory
from training.gradients.monitor import Probe, RecurrentMonitor
from training.gradients.trace import trace_layers


def sequential(keep: Tensor, write: Tensor, initial: Tensor) -> Tensor:
    """One step after another, as the recurrence is written."""
    states = [initial]
    for step in range(keep.shape[1]):
        states.append(keep[:, step] * states[-1] + write[:, step])
    return torch.stack(states[1:], dim=1)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scan_equals_the_recurrence_step_by_step(length: int, dtype: torch.dtype) -> None:
    """Values, and gradients of all three inputs; gates from shut to open."""
    torch.manual_seed(length)
    parts = (torch.sigmoid(8 * torch.randn(3, length, 5)), torch.randn(3, length, 5), torch.randn(3, 5))
    keep, write, initial = (part.to(dtype).requires_grad_() for part in parts)
    expected, actual = sequential(keep, write, initial), linear_recurrence(keep, write, initial)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    mix = torch.randn(expected.shape, dtype=dtype)
    for name, got, want in zip(
        ("keep", "write", "initial"),
        torch.autograd.grad((actual * mix).sum(), (keep, write, initial)),
        torch.autograd.grad((expected * mix).sum(), (keep, write, initial)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, msg=name)


def test_the_derivative_of_the_scan_equals_finite_differences() -> None:
    """In double precision, at a length that is no power of two."""
    torch.manual_seed(0)
    parts = (torch.rand(2, 6, 3), torch.randn(2, 6, 3), torch.randn(2, 3))
    assert torch.autograd.gradcheck(linear_recurrence, [part.double().requires_grad_() for part in parts])


@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_a_layer_is_its_paper_step_by_step(kind: type[MinimalLayer]) -> None:
    """The gates written out; cut in two calls it is the same."""
    torch.manual_seed(0)
    layer, inputs, state = kind(4, 5).double(), torch.randn(2, 9, 4).double(), torch.randn(1, 2, 5).double()
    h, outputs = state[0], []
    for x in inputs.unbind(1):
        rows = (x @ layer.weight_ih_l0.T + layer.bias_ih_l0).chunk(layer.num_gates, dim=1)
        if kind is MinGRU:
            z = torch.sigmoid(rows[0])
            h = z * h + (1 - z) * rows[1]
        else:
            i, f = torch.sigmoid(rows[0]), torch.sigmoid(rows[1])
            h = f / (f + i) * h + i / (f + i) * rows[2]
        outputs.append(h)
    whole, last = layer(inputs, state)
    torch.testing.assert_close(whole, torch.stack(outputs, dim=1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last[0], h, rtol=1e-12, atol=1e-12)
    first, middle = layer(inputs[:, :4], state)
    torch.testing.assert_close(torch.cat((first, layer(inputs[:, 4:], middle)[0]), dim=1), whole, rtol=1e-12, atol=1e-12)


LENGTH = 168


def network(architecture: str, **settings: object) -> RecurrentForecaster:
    torch.manual_seed(0)
    description = {"architecture": architecture, "context_length": LENGTH, "horizon": 4, "hidden_size": 32, **settings}
    built = build_forecaster(NETWORK_CONFIG_ADAPTER.validate_python(description))
    assert isinstance(built, RecurrentForecaster)
    return built


def windows(batch: int = 8) -> ForecastInputs:
    context = torch.randn(batch, LENGTH, generator=torch.Generator().manual_seed(1))
    observed, empty = torch.ones(batch, LENGTH, dtype=torch.bool), torch.zeros(batch, LENGTH, 0)
    return ForecastInputs(context, observed, empty, empty[:, :4], empty[:, 0])


@pytest.mark.parametrize("architecture", ["mingru", "minlstm"])
def test_chrono_reaches_the_whole_context_and_torch_does_not(architecture: str) -> None:
    """Measured: a start at gates of one half forgets like an LSTM of torch's, chrono keeps a week of hours."""
    reach = {
        start: reach_steps(measure_jacobian(network(architecture, initialization=start), windows())[0])
        for start in ("torch", "forget_bias", "chrono")
    }
    assert reach["torch"] < reach["forget_bias"] < reach["chrono"] == LENGTH
    assert reach["torch"] < 20


@pytest.mark.parametrize("architecture", ["mingru", "minlstm"])
def test_every_instrument_reads_a_minimal_layer(architecture: str) -> None:
    """Gates and memory are there, what it does not have is not: a recurrent matrix, a bound on its states."""
    net, inputs = network(architecture, num_layers=2, forget_bias=3.0), windows()
    probe = Probe(inputs, lambda forecast: forecast.prediction.square().mean(), torch.zeros(8, dtype=torch.long))
    readings = RecurrentMonitor(net, probe, "full", need_steps=100).measure(0)
    layer, keep = f"{architecture}.0", "update" if architecture == "mingru" else "forget"
    for name in (f"gate/{layer}.{keep}.saturated", f"memory/{layer}.p50", f"lyapunov/{layer}", f"grad_depth/{layer}"):
        assert name in readings
    assert readings[f"lyapunov/{layer}"] < 0
    absent = ("spectral_radius/", f"state/{layer}", f"gate/{layer}.new", f"gate/{layer}.cell")
    assert not [name for name in readings if name.startswith(absent)]


@pytest.mark.parametrize("architecture", ["mingru", "minlstm"])
def test_memory_from_the_biases_is_memory_along_the_data_where_weights_are_zero(architecture: str) -> None:
    """Bias 3 keeps a mingru's state for 20.6 steps; a minlstm's share of it is f / (f + i)."""
    net = network(architecture, forget_bias=3.0)
    with torch.no_grad():
        net.encoder.layers[0].weight_ih_l0.zero_()
    [static] = measure_static_memory(net)
    measured = measure_gates(trace_layers(net, windows()))[f"memory/{architecture}.0.p50"]
    assert measured == pytest.approx(static.p50, rel=1e-4)
    if architecture == "mingru":
        assert static.p50 == pytest.approx(20.6, rel=0.01)


def test_what_needs_a_recurrent_matrix_is_refused() -> None:
    """By name of the setting."""
    with pytest.raises(NetworkConfigError, match="initialization must be one of torch, forget_bias, chrono for mingru"):
        network("mingru", initialization="orthogonal")
    with pytest.raises(NetworkConfigError, match="init_gain must be null for minlstm"):
        network("minlstm", init_gain=2.0)
