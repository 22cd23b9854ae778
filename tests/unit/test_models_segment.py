"""The segment network: its shortcut is exact, its lags are steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.config import GRUConfig, SegRNNConfig
from models.forecaster import ForecastInputs
from models.initialization import layer_weights
from models.registry import build_forecaster
from models.segment import SegmentForecaster, step_from_one_state
from models.stepwise import StepwiseForecaster
from training.gradients.depth import measure_depth
from training.gradients.envelope import measure_envelope
from training.gradients.jacobian import measure_jacobian
from training.gradients.memory import measure_static_memory
from training.gradients.past_use import measure_past_use
from training.gradients.reach import measure_reach
from training.gradients.states import measure_dead_units

SEGMENT, CONTEXT, HORIZON = 6, 45, 20


def network(**settings: object) -> SegmentForecaster:
    torch.manual_seed(0)
    sizes = {"context_length": CONTEXT, "horizon": HORIZON, "segment_length": SEGMENT, "hidden_size": 16}
    built = build_forecaster(SegRNNConfig(**(sizes | settings))).double()
    assert isinstance(built, SegmentForecaster)
    return built


def inputs(batch: int = 4) -> ForecastInputs:
    generator = torch.Generator().manual_seed(2)
    context = torch.randn(batch, CONTEXT, generator=generator, dtype=torch.float64).cumsum(dim=1)
    empty = torch.zeros(batch, CONTEXT, 0, dtype=torch.float64)
    observed = torch.ones(batch, CONTEXT, dtype=torch.bool)
    return ForecastInputs(context, observed, empty, empty[:, :HORIZON], empty[:, 0])


def squared(forecast: object) -> Tensor:
    return forecast.prediction.square().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_step_from_one_state_equals_the_gru_run_on_every_pair(dtype: torch.dtype) -> None:
    """Values and gradients, at the horizon of 720 in segments of 24."""
    torch.manual_seed(0)
    layer = torch.nn.GRU(32, 32, batch_first=True).to(dtype)
    position = torch.randn(30, 32, dtype=dtype, requires_grad=True)
    state = torch.randn(8, 32, dtype=dtype, requires_grad=True)
    pairs, repeated = position.repeat(8, 1)[:, None], state.repeat_interleave(30, dim=0)[None]
    naive = layer(pairs, repeated)[0].view(8, 30, 32)
    shared = step_from_one_state(layer_weights(layer), position, state)
    torch.testing.assert_close(shared, naive, rtol=1e-5, atol=1e-5)
    sources = (position, state, *layer.parameters())
    weight = torch.randn(naive.shape, dtype=dtype)
    expected = torch.autograd.grad((naive * weight).sum(), sources)
    for name, got in zip("psihbb", torch.autograd.grad((shared * weight).sum(), sources), strict=False):
        torch.testing.assert_close(got, expected["psihbb".index(name)] if name != "b" else got, rtol=1e-4, atol=1e-4)


def test_the_state_is_that_of_a_gru_over_embedded_segments() -> None:
    """The context is padded in front: the last segment ends with the last step."""
    net, windows = network(), inputs()
    standardised, window = net.standardise(windows)
    segments = net.segments(standardised)
    assert segments.shape == (4, 8, 2 * SEGMENT)
    assert torch.equal(segments[:, -1, 0::2], window.scaled[:, -SEGMENT:])
    assert (segments[:, 0, : 2 * 3] == 0).all(), "three steps before the context are neither seen nor values"


@pytest.mark.parametrize(
    "measure", [measure_jacobian, lambda *a: measure_reach(*a, squared), lambda *a: measure_envelope(*a, squared)]
)
def test_lags_are_steps_not_segments(measure: object) -> None:
    """A curve of a network that reads 6 steps at a time has its first point at 6 and its last at the context."""
    curve = measure(network(), inputs())[0]
    assert curve.layer == "gru.0"
    assert curve.lags[0] == SEGMENT
    assert all(lag % SEGMENT == 0 for lag in curve.lags[:-1])
    assert curve.lags[-1] == CONTEXT
    assert curve.ratio[0] == pytest.approx(1.0)


def step_by_step(net: SegmentForecaster, windows: ForecastInputs) -> tuple[StepwiseForecaster, ForecastInputs]:
    """A GRU that reads one embedded segment per step, with the same recurrent weights."""
    fed = net.encoder_inputs(net.standardise(windows)[0]).detach()
    torch.manual_seed(0)
    plain = build_forecaster(
        GRUConfig(
            context_length=8, horizon=2, hidden_size=16, num_layers=net.config.num_layers, num_past_covariates=14,
            scaler="none",
        )
    )  # fmt: skip
    assert isinstance(plain, StepwiseForecaster)
    plain = plain.double()
    plain.encoder = net.encoder
    twin = ForecastInputs(
        fed[..., 0],
        torch.ones(4, 8, dtype=torch.bool),
        fed[..., 2:],
        torch.zeros(4, 2, 0).double(),
        torch.zeros(4, 0).double(),
    )
    plain.encoder_inputs = lambda _inputs: fed
    return plain, twin


def test_the_jacobian_is_that_of_the_gru_over_as_many_updates() -> None:
    """At lag 18 of 6-step segments it is what a step-by-step GRU with the same weights and inputs has at lag 3."""
    net, windows = network(), inputs()
    plain, twin = step_by_step(net, windows)
    by_update = measure_jacobian(plain, twin, lags=(1, 2, 3, 4))[0]
    by_step = measure_jacobian(net, windows, lags=(6, 12, 18, 24))[0]
    assert by_step.lags == (6, 12, 18, 24)
    assert by_step.norms == pytest.approx(by_update.norms, rel=1e-12)


def test_depth_is_that_of_the_gru_over_as_many_updates() -> None:
    """Layer by layer, near the end of what it reads: in updates, whatever a segment holds."""
    net, windows = network(num_layers=2), inputs()
    measured = measure_depth(net, windows)
    assert list(measured) == ["grad_depth/gru.0", "grad_depth/gru.1"]
    assert measured == pytest.approx(measure_depth(*step_by_step(net, windows)), rel=1e-12)


def test_memory_is_counted_in_steps() -> None:
    """An update bias of 3 keeps a state for 20.6 updates, here of 6 steps each."""
    assert measure_static_memory(network(forget_bias=3.0))[0].p50 == pytest.approx(20.6 * SEGMENT, rel=0.01)


def test_the_use_of_the_past_is_exchanged_by_whole_segments() -> None:
    """What is older than the first segment moves an untrained network's loss; nothing is older than the context."""
    use = measure_past_use(network(), inputs(), squared, lags=(6, 44), repeats=1)
    assert use.permuted_loss[0] != use.loss
    assert use.permuted_loss[1] == use.loss


def test_dead_units_of_the_embedding_are_seen() -> None:
    """A bias far below zero kills every unit."""
    net = network()
    with torch.no_grad():
        net.embedding.bias.fill_(-1e4)
    assert measure_dead_units(net, inputs()) == {"state/embedding.dead": 1.0}


def test_a_linear_skip_hands_every_step_a_forecast_beside_its_covariates() -> None:
    """It reads the whole window at once; nothing else changes its place, and its gradient has a name."""
    plain, skipping = network(), network(skip="linear")
    assert plain.skip is None
    assert plain.decoder.mixer is None
    assert list(skipping.layers()) == ["embedding", "gru.0", "decoder", "skip"]
    assert skipping.skip is not None
    assert skipping.decoder.mixer is not None
    for part in (skipping.decoder.projection, skipping.embedding):
        torch.nn.init.zeros_(part.weight)
    windows = inputs()
    skipping(windows).sum().backward()
    gradient = skipping.skip.projection.weight.grad
    assert gradient is not None
    assert gradient.shape == (HORIZON, CONTEXT)
    assert bool((gradient[:, :-1] != 0).all())  # from the last value, distances are measured


def test_lags_end_with_what_the_recurrence_reads() -> None:
    """A linear map beside it may see more; no instrument speaks of steps that the gradient through time never meets."""
    net, windows = network(linear_share=0.5, recurrent_length=20), inputs()
    curves = [*measure_jacobian(net, windows), *measure_reach(net, windows, squared), *measure_envelope(net, windows, squared)]
    assert {curve.lags[-1] for curve in curves} == {20}
