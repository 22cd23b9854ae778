"""The monitor: it measures what its preset says, by the names of the contract, and leaves the network alone."""

from __future__ import annotations

import pytest
import torch

from models.config import LSTMConfig
from models.forecaster import ForecastInputs, RecurrentForecaster, ScaledForecast
from models.registry import build_forecaster
from training.gradients.depth import measure_depth
from training.gradients.jacobian import measure_jacobian
from training.gradients.monitor import (
    NOOP_MONITOR,
    PROBE_WINDOWS,
    Probe,
    RecurrentMonitor,
    dashboard_metrics,
    data_spreads,
)
from training.gradients.series_share import measure_series_share
from training.gradients.trace import trace_layers

LENGTH, HORIZON = 40, 4


def network(num_layers: int = 1, dropout: float = 0.0) -> RecurrentForecaster:
    """A small LSTM forecaster."""
    torch.manual_seed(0)
    config = LSTMConfig(
        context_length=LENGTH, horizon=HORIZON, hidden_size=8, num_layers=num_layers, dropout=dropout, head="point"
    )
    made = build_forecaster(config)
    assert isinstance(made, RecurrentForecaster)
    return made


def probe(windows: int = PROBE_WINDOWS) -> Probe:
    """White noise and a squared loss."""
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(windows, LENGTH, generator=generator)
    empty = torch.zeros(windows, LENGTH, 0)
    inputs = ForecastInputs(
        context, torch.ones(windows, LENGTH, dtype=torch.bool), empty, empty[:, :HORIZON], empty[:, 0]
    )

    def objective(forecast: ScaledForecast) -> torch.Tensor:
        return (forecast.prediction[..., 0] - 1.0).square().mean()

    return Probe(inputs, objective, torch.arange(windows) % 4)


@pytest.mark.parametrize("preset", ["economy", "full"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_measuring_changes_neither_weights_nor_gradients_nor_random_state(preset: str, num_layers: int) -> None:
    """A run with instruments is the run without them, to the bit."""
    forecaster = network(num_layers, dropout=0.5).train()
    monitor = RecurrentMonitor(forecaster, probe(), preset, 10)  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in forecaster.state_dict().items()}
    state = torch.get_rng_state()
    readings = monitor.measure(1)
    assert readings
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in forecaster.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in forecaster.state_dict().items())
    assert all(module.training for module in forecaster.modules())


def test_the_presets_are_ordered_by_price() -> None:
    """Whatever economy measures, full measures too, with the same numbers."""
    economy = RecurrentMonitor(network(), probe(), "economy", 10).measure(0)
    full = RecurrentMonitor(network(), probe(), "full", 10).measure(0)
    assert economy.items() <= full.items()
    kinds = {name.partition("/")[0] for name in full} - {name.partition("/")[0] for name in economy}
    assert kinds == {"reach", "envelope", "spectral_radius", "lyapunov", "series_share", "past_use"}


def test_the_ratio_at_need_is_that_of_the_jacobian_at_exactly_this_lag() -> None:
    """The need is one of the cuts, so nothing is interpolated."""
    forecaster, windows = network(), probe()
    readings = RecurrentMonitor(forecaster, windows, "economy", 17).measure(1)
    inputs = ForecastInputs(*(part[:8] for part in windows.inputs))
    (curve,) = measure_jacobian(forecaster, inputs, RecurrentMonitor(forecaster, windows, "economy", 17).lags)
    assert readings["grad_reach/ratio_at_need"] == curve.ratio[curve.lags.index(17)]
    assert readings["jacobian/lstm.0@17"] == readings["grad_reach/ratio_at_need"]


def test_a_need_beyond_the_context_has_no_ratio() -> None:
    """What lies outside of the context is a short window, not a vanished gradient."""
    assert "grad_reach/ratio_at_need" not in RecurrentMonitor(network(), probe(), "economy", LENGTH + 1).measure(1)


def test_it_is_due_before_the_first_update_and_every_hundredth() -> None:
    """The schedule is a function of step and budget alone; a short fit is measured a few times as well."""
    monitor = RecurrentMonitor(network(), probe(), "economy", None)
    assert [step for step in range(301) if monitor.is_due(step)] == [0, 100, 200, 300]
    short = RecurrentMonitor(network(), probe(), "economy", None, max_steps=80)
    assert [step for step in range(81) if short.is_due(step)] == [0, 20, 40, 60, 80]
    assert not any(NOOP_MONITOR.is_due(step) for step in range(1, 301))


def test_the_dashboard_gets_reach_saturation_and_states_but_no_lag_curve() -> None:
    """Names of the contract, and few of them."""
    sent = dashboard_metrics(RecurrentMonitor(network(2), probe(), "full", 10).measure(1))
    assert {"grad_reach/lstm.0", "grad_reach/lstm.1", "grad_reach/stack", "grad_reach/ratio_at_need"} <= set(sent)
    assert {"gate/lstm.0.forget.saturated", "state/lstm.1.saturated", "state/decoder.dead"} <= set(sent)
    assert not any("@" in name for name in sent)


def test_the_share_of_a_series_is_its_share_of_the_gradient_at_the_final_state() -> None:
    """Against a slow twin: one backward pass per window through a copy of the network."""
    forecaster, windows = network(), probe(8)
    shares = measure_series_share(forecaster, windows.inputs, windows.objective, windows.series)
    norms = []
    for row in range(8):
        inputs = ForecastInputs(*(part[row : row + 1] for part in windows.inputs))
        kept: list[torch.Tensor] = []
        handle = forecaster.encoder.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out.states[-1][0]))
        loss = windows.objective(forecaster.forward_scaled(inputs))
        handle.remove()
        norms.append(float(torch.autograd.grad(loss, kept)[0].norm()))
    sums = [norms[series] + norms[series + 4] for series in range(4)]
    for series, share in shares.items():
        assert share == pytest.approx(sums[series] / sum(norms), rel=1e-5)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_what_the_recurrence_reads_is_measured_after_scaling() -> None:
    """Windows at a level of a thousand reach a scaled network at size one, and an unscaled one at a thousand."""
    windows = probe()
    raised = windows.inputs._replace(context=1000.0 + 10.0 * windows.inputs.context)
    level, spread, _ = data_spreads(network(), raised)
    assert 0.5 < level < 1.0
    assert spread == pytest.approx(1.0, abs=0.05)
    config = LSTMConfig(context_length=LENGTH, horizon=HORIZON, hidden_size=8, head="point", scaler="none")
    unscaled = build_forecaster(config)
    assert isinstance(unscaled, RecurrentForecaster)
    level, spread, _ = data_spreads(unscaled, raised)
    assert level == pytest.approx(1000.0, rel=0.01)
    assert spread == pytest.approx(10.0, rel=0.05)


def test_depth_is_the_gradient_layer_by_layer_as_autograd_gives_it() -> None:
    """Against a network written out step by step: the same random vector, one backward pass, norms at lags 1 to 5."""
    forecaster, inputs = network(3), probe(8).inputs
    measured = measure_depth(forecaster, inputs)
    first = trace_layers(forecaster, inputs)[0].inputs[:, -24:]
    states = [tuple(torch.zeros(1, 8, 8, requires_grad=True) for _ in range(2)) for _ in range(3)]
    history: list[list[tuple[torch.Tensor, ...]]] = []
    forecaster.eval()
    for step in range(24):
        history.append(list(states))
        value = first[:, step : step + 1]
        for index, layer in enumerate(forecaster.encoder.layers):
            value, states[index] = layer(value, states[index])
    vector = torch.randn((1, 8, 8), generator=torch.Generator().manual_seed(0))
    final = (states[-1][0] * vector).sum()
    sizes = []
    for index in range(3):
        at_lags = [torch.autograd.grad(final, history[24 - lag][index], retain_graph=True) for lag in range(1, 6)]
        sizes.append(sorted(float(torch.cat(parts).norm()) for parts in at_lags)[2])
    assert list(measured) == ["grad_depth/lstm.0", "grad_depth/lstm.1", "grad_depth/lstm.2"]
    assert list(measured.values()) == pytest.approx([size / sizes[-1] for size in sizes], rel=1e-4)
