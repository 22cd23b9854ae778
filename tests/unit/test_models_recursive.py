"""The recursive decoder: teacher forcing is the unrolled network, paths have the spread that theory says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.bundle import BundleManifest, load_bundle, save_bundle
from models.config import NETWORK_CONFIG_ADAPTER, HeadName
from models.forecaster import ForecastInputs
from models.recursive import RecursiveForecaster, path_probabilities, path_quantiles
from models.registry import build_forecaster
from training.gradients.monitor import Probe, RecurrentMonitor
from training.losses import build_loss

CONTEXT, HORIZON = 12, 5


def network(architecture: str = "lstm", head: HeadName = "normal", **settings: object) -> RecursiveForecaster:
    """One with every kind of covariate, in double precision."""
    torch.manual_seed(0)
    sizes = {
        "context_length": CONTEXT, "horizon": HORIZON, "hidden_size": 6, "num_past_covariates": 3,
        "num_future_covariates": 2, "num_static_covariates": 1, "num_layers": 2, "decoder": "recursive",
    }  # fmt: skip
    description = {"architecture": architecture, "head": head, **sizes, **settings}
    built = build_forecaster(NETWORK_CONFIG_ADAPTER.validate_python(description))
    assert isinstance(built, RecursiveForecaster)
    return built.double().eval()


def windows(batch: int = 3, counts: bool = False) -> tuple[ForecastInputs, Tensor, Tensor]:
    """Inputs, target and its mask, with gaps in both."""
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    context, target = 10 + 3 * normal(batch, CONTEXT), 10 + 3 * normal(batch, HORIZON)
    if counts:
        context, target = context.abs().round(), target.abs().round()
    observed, known = torch.ones(batch, CONTEXT, dtype=torch.bool), torch.ones(batch, HORIZON, dtype=torch.bool)
    observed[0, 4] = known[0, 1] = False
    inputs = ForecastInputs(context, observed, normal(batch, CONTEXT, 3), normal(batch, HORIZON, 2), normal(batch, 1))
    return inputs, target, known


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("scaler", ["standard", "revin"])
def test_teacher_forcing_equals_the_network_unrolled_step_by_step(architecture: str, scaler: str) -> None:
    """Fused over context and horizon against one call per step, written out; values and gradients of all weights."""
    net = network(architecture, "student_t", scaler=scaler)
    inputs, target, known = windows()
    fused = net.forward_taught(inputs, target, known)

    standardised, window = net.standardise(inputs)
    steps = list(net.encoder_inputs(standardised).unbind(1))
    scaled = (target - window.loc) / window.scale
    if scaler == "revin":
        scaled = scaled * net.scaler.log_gain.exp() + net.scaler.shift
    for step in range(HORIZON - 1):
        value = torch.where(known, scaled, 0.0)[:, step : step + 1]
        future = standardised.future_covariates[:, step]
        gone = torch.zeros(3, 1, dtype=torch.float64)
        steps.append(torch.cat((value, known[:, step : step + 1], future, gone, standardised.static_covariates), dim=1))
    states = net.encoder.initial_states(steps[0][:, None])
    predictions = []
    for position, channels in enumerate(steps):
        value = channels[:, None]
        for index, layer in enumerate(net.encoder.layers):
            value, last = layer(value, states[index] if len(states[index]) > 1 else states[index][0])
            states[index] = last if isinstance(last, tuple) else (last,)
        if position >= CONTEXT - 1:
            future = standardised.future_covariates[:, position - CONTEXT + 1]
            joined = torch.cat((value[:, 0], future, standardised.static_covariates), dim=1)
            predictions.append(net.head(torch.relu(net.decoder.mixer(joined))))
    unrolled = net.output.undo_learned(torch.stack(predictions, dim=1), net.scaler)

    torch.testing.assert_close(fused.prediction, unrolled, rtol=1e-10, atol=1e-10)
    weights = list(net.parameters())
    mix = torch.randn(unrolled.shape, dtype=torch.float64)
    for name, got, expected in zip(
        dict(net.named_parameters()),
        torch.autograd.grad((fused.prediction * mix).sum(), weights, materialize_grads=True, allow_unused=True),
        torch.autograd.grad((unrolled * mix).sum(), weights, materialize_grads=True, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8, msg=name)


def test_a_roll_out_is_teacher_forcing_on_its_own_values() -> None:
    """The single path is what the network says when it is told what it has said itself."""
    net = network("gru", "normal", scaler="revin")
    inputs, _, _ = windows()
    rolled = net.forward_scaled(inputs)
    own = rolled.loc + rolled.scale * rolled.prediction[..., 0]
    told = net.forward_taught(inputs, own, torch.ones_like(own, dtype=torch.bool))
    torch.testing.assert_close(rolled.prediction, told.prediction, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("head", "counts"), [("normal", False), ("negative_binomial", True)])
def test_gradients_of_the_taught_loss_equal_finite_differences(head: HeadName, counts: bool) -> None:
    """Of the negative log likelihood with respect to every weight."""
    net = network("lstm", head, scaler="mean_abs", hidden_size=2, num_layers=1)
    inputs, target, known = windows(counts=counts)
    loss = build_loss("nll", (0.5,), head)
    names = [name for name, _ in net.named_parameters()]

    def value(*weights: Tensor) -> Tensor:
        module = _Calls(net, net.forward_taught)  # functional_call runs a module's forward only
        changed = {f"net.{name}": weight for name, weight in zip(names, weights, strict=True)}
        forecast = torch.func.functional_call(module, changed, (inputs, target, known))
        return loss(forecast, target, known, torch.zeros(3, 1, dtype=torch.float64))

    assert torch.autograd.gradcheck(value, [part.detach().clone().requires_grad_() for part in net.parameters()], fast_mode=True)


class _Calls(torch.nn.Module):
    def __init__(self, net: torch.nn.Module, function: object) -> None:
        super().__init__()
        self.net, self.function = net, function

    def forward(self, *arguments: object) -> object:
        return self.function(*arguments)


def autoregression(coefficient: float, horizon: int = 4) -> RecursiveForecaster:
    """An rnn made by hand whose forecast is y_t ~ N(coefficient y_{t-1}, 1), exactly while abs(y) < 50."""
    net = build_forecaster(
        NETWORK_CONFIG_ADAPTER.validate_python({
            "architecture": "rnn", "nonlinearity": "relu", "context_length": 3, "horizon": horizon, "hidden_size": 1,
            "scaler": "none", "head": "normal", "decoder": "recursive", "num_paths": 4000,
            "quantile_levels": (0.1, 0.5, 0.9),
        })
    ).double().eval()  # fmt: skip
    assert isinstance(net, RecursiveForecaster)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        layer = net.encoder.layers[0]
        layer.weight_ih_l0[0, 0] = 1.0
        layer.bias_ih_l0.fill_(50.0)  # relu(y + 50) = y + 50
        net.decoder.mixer.weight[0, 0] = 1.0
        net.head.projection.weight[0, 0] = coefficient
        net.head.projection.bias[0] = -50.0 * coefficient
        net.head.projection.bias[1] = np.log(np.expm1(1.0 - 1e-3))  # softplus and the smallest spread make 1
    return net


def test_paths_have_the_spread_of_the_process_that_the_network_is() -> None:
    """AR(1): mean phi^k y, variance (1 - phi^2k) / (1 - phi^2), correlation of neighbours by the same formula."""
    phi, last = 0.8, 5.0
    net = autoregression(phi)
    empty = torch.zeros(1, 3, 0, dtype=torch.float64)
    context = torch.tensor([[0.0, 1.0, last]], dtype=torch.float64)
    inputs = ForecastInputs(context, torch.ones(1, 3, dtype=torch.bool), empty, torch.zeros(1, 4, 0).double(), empty[:, 0])
    paths = net.sample_paths(inputs, 4000, seed=3)[0]
    steps = torch.arange(1, 5, dtype=torch.float64)
    variance = (1 - phi ** (2 * steps)) / (1 - phi**2)
    torch.testing.assert_close(paths.mean(0), last * phi**steps, rtol=0, atol=0.06)
    torch.testing.assert_close(paths.var(0), variance, rtol=0.06, atol=0)
    correlation = float(torch.corrcoef(paths[:, 2:].T)[0, 1])
    assert correlation == pytest.approx(phi * float((variance[2] / variance[3]).sqrt()), abs=0.03)
    wanted = last * phi**steps + 1.2815515655 * variance.sqrt()
    torch.testing.assert_close(net(inputs)[0, :, 2], wanted, rtol=0, atol=0.1)


def test_a_window_has_the_same_paths_alone_and_among_others() -> None:
    """And with the same seed again; with another seed others."""
    net = network("lstm", "student_t")
    inputs, _, _ = windows(5)
    together = net.sample_paths(inputs, 7, seed=1)
    alone = net.sample_paths(ForecastInputs(*(part[3:4] for part in inputs)), 7, seed=1)
    torch.testing.assert_close(together[3:4], alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(together, net.sample_paths(inputs, 7, seed=1))
    assert not torch.equal(together, net.sample_paths(inputs, 7, seed=2))
    assert together.shape == (5, 7, HORIZON)


@pytest.mark.parametrize("head", ["negative_binomial", "poisson"])
def test_paths_and_quantiles_of_counts_are_whole_numbers(head: HeadName) -> None:
    """None is negative."""
    net = network("gru", head, scaler="mean_abs", num_paths=20)
    inputs, _, _ = windows(counts=True)
    for values in (net.sample_paths(inputs, 20), net(inputs)):
        assert torch.equal(values, values.round())
        assert (values >= 0).all()


def test_quantiles_over_paths_are_those_of_numpy() -> None:
    """Hazen's for values, the inverse of the empirical distribution for counts."""
    paths = torch.randn(2, 11, 3, dtype=torch.float64)
    levels = (0.05, 0.3, 0.5, 0.9)
    for is_count, method in ((False, "hazen"), (True, "inverted_cdf")):
        expected = np.quantile(paths.numpy(), levels, axis=1, method=method).transpose(1, 2, 0)
        np.testing.assert_allclose(path_quantiles(paths, levels, is_count).numpy(), expected, atol=1e-12)


def test_probabilities_fall_into_every_part_once() -> None:
    """At every step, and steps are not sorted alike."""
    draws = path_probabilities(50, 3, seed=0)
    parts = (draws * 50).floor().long()
    assert (parts.sort(dim=0).values == torch.arange(50)[:, None]).all()
    assert not torch.equal(parts[:, 0], parts[:, 1])


def test_every_instrument_measures_the_pass_over_the_context(tmp_path: Path) -> None:
    """The decoder's own steps with the same layers are no part of any curve, and a bundle comes back as it was."""
    net = network("lstm", "normal").train()
    inputs, target, known = windows(4)
    loss = build_loss("auto", net.config.network_levels, "normal")
    floor = torch.zeros(4, 1, dtype=torch.float64)
    probe = Probe(inputs, lambda forecast: loss(forecast, target, known, floor), torch.zeros(4, dtype=torch.long))
    readings = RecurrentMonitor(net, probe, "full", need_steps=8).measure(0)
    direct = build_forecaster(net.config.model_copy(update={"decoder": "direct"})).double()
    direct.encoder = net.encoder
    same = RecurrentMonitor(direct, probe, "full", need_steps=8).measure(0)
    exact = [name for name in same if name.startswith(("jacobian/", "gate/", "grad_reach/", "lyapunov/", "grad_depth/"))]
    assert len(exact) > 20
    assert {name: readings[name] for name in exact} == pytest.approx({name: same[name] for name in exact}, rel=1e-6)
    assert set(readings) == set(same)
    save_bundle(tmp_path / "bundle", net, BundleManifest(network=net.config))
    assert torch.equal(load_bundle(tmp_path / "bundle").forecaster(inputs), net.eval()(inputs))
