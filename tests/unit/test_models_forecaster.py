"""From context to forecast, for every architecture."""

from __future__ import annotations

import pytest
import torch

from models.config import COUNT_HEADS, DISTRIBUTION_NAMES, NETWORK_CONFIG_ADAPTER
from models.errors import ShapeError
from models.forecaster import CovariateStatistics, Forecaster, ForecastInputs
from models.heads import non_crossing
from models.registry import build_forecaster

ARCHITECTURES = ("linear", "rnn", "gru", "lstm", "lstm+skip", "segrnn", "segrnn+mean")
LENGTH, HORIZON = 13, 5


def build(architecture: str, **changes: object) -> Forecaster:
    """A small double-precision network with every kind of covariate; `+` says what else takes part in the forecast."""
    torch.manual_seed(0)
    architecture, _, more = architecture.partition("+")
    parts = {"skip": {"skip": "linear"}, "mean": {"linear_share": 0.25, "linear_length": LENGTH - 2, "recurrent_length": 7}}
    # With a distribution there is no mean of two forecasts, and the network is the plain one.
    changes |= {} if more == "mean" and changes.get("head") in DISTRIBUTION_NAMES else parts.get(more, {})
    description = {
        "architecture": architecture, "context_length": LENGTH, "horizon": HORIZON, "num_past_covariates": 3,
        "num_future_covariates": 2, "num_static_covariates": 1,
    } | changes  # fmt: skip
    if architecture != "linear":
        description = {"hidden_size": 8} | description
    if architecture == "segrnn":
        description |= {"segment_length": 2}  # of which neither context nor horizon is made up
    return build_forecaster(NETWORK_CONFIG_ADAPTER.validate_python(description)).double().eval()


def windows(batch: int = 6) -> ForecastInputs:
    """Random windows with gaps."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    observed = torch.rand(batch, LENGTH, generator=generator) > 0.2
    observed[:, -1] = True
    return ForecastInputs(
        normal(batch, LENGTH) * 3 + 10, observed, normal(batch, LENGTH, 3), normal(batch, HORIZON, 2), normal(batch, 1)
    )


@pytest.mark.parametrize("scaler", ["standard", "mean_abs", "robust", "last", "offset", "revin", "none"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_observation_moves_the_first_forecast_step(architecture: str, scaler: str) -> None:
    """No horizon step is decoded from a state that has not seen the newest value."""
    network, inputs = build(architecture, scaler=scaler), windows()
    context = inputs.context.clone()
    context[:, -1] += 1.0
    moved = (network(inputs._replace(context=context)) - network(inputs)).abs()
    assert (moved > 1e-9).all(), "every horizon step and quantile depends on the last observation"


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm"])
def test_every_horizon_step_depends_on_the_final_state_alone(architecture: str) -> None:
    """The gradient of each forecast step with respect to the last input is not zero."""
    network, inputs = build(architecture), windows()
    context = inputs.context.clone().requires_grad_()
    forecast = network.forward_scaled(inputs._replace(context=context)).prediction
    for step in range(HORIZON):
        (gradient,) = torch.autograd.grad(forecast[:, step].sum(), context, retain_graph=True)
        assert (gradient[:, -1].abs() > 0).all()


@pytest.mark.parametrize("scaler", ["standard", "robust", "last", "revin"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_forecast_follows_the_unit(architecture: str, scaler: str) -> None:
    """f(a x + b) = a f(x) + b for the affine scalers."""
    network, inputs = build(architecture, scaler=scaler), windows()
    converted = network(inputs._replace(context=inputs.context * 1.8 + 32))
    torch.testing.assert_close(converted, network(inputs) * 1.8 + 32)


@pytest.mark.parametrize("scaler", ["standard", "revin"])
@pytest.mark.parametrize("head", ["normal", "student_t"])
def test_quantiles_of_a_distribution_follow_the_unit(head: str, scaler: str) -> None:
    """Location and spread are both converted."""
    network, inputs = build("gru", head=head, scaler=scaler), windows()
    converted = network(inputs._replace(context=inputs.context * 1.8 + 32))
    torch.testing.assert_close(converted, network(inputs) * 1.8 + 32)


@pytest.mark.parametrize("head", COUNT_HEADS)
def test_forecasts_of_counts_are_counts(head: str) -> None:
    """Whole, not negative, and of the window's size."""
    network = build("lstm", head=head, scaler="mean_abs")
    forecast = network(windows())
    assert torch.equal(forecast, forecast.round())
    assert (forecast >= 0).all()
    large = network(windows()._replace(context=windows().context.abs() * 1000))
    assert (large > 100 * forecast.clamp(min=1)).any()


@pytest.mark.parametrize("head", [*DISTRIBUTION_NAMES, "point", "quantile"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_head_forecasts_its_levels_in_order(architecture: str, head: str) -> None:
    """One value per level, none below the one before, the same alone and in a batch."""
    network, inputs = build(architecture, head=head, scaler="mean_abs"), windows()
    forecast = network(inputs)
    assert forecast.shape == (6, HORIZON, len(network.config.output_levels))
    assert (forecast.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(network(ForecastInputs(*(part[2:3] for part in inputs)))[0], forecast[2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_quantiles_never_cross(architecture: str) -> None:
    """Also with weights far from any training."""
    network = build(architecture)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(20.0)
    assert (network(windows()).diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_window_is_forecast_the_same_alone_and_in_a_batch(architecture: str) -> None:
    """Rows of a batch do not see each other."""
    network, inputs = build(architecture), windows()
    together = network(inputs)
    for row in range(len(together)):
        alone = network(ForecastInputs(*(tensor[row : row + 1] for tensor in inputs)))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_future_covariates_move_their_own_step_only(architecture: str) -> None:
    """What is known for tomorrow does not change today's forecast in a direct decoder."""
    network, inputs = build(architecture), windows()
    future = inputs.future_covariates.clone()
    future[:, 2] += 1.0
    moved = (network(inputs._replace(future_covariates=future)) - network(inputs)).abs().amax(dim=(0, 2))
    assert moved[2] > 0
    assert moved[[0, 1, 3, 4]].max() == 0


def test_covariates_are_standardised_by_the_stored_statistics() -> None:
    """Shifting covariates and their statistics together changes nothing."""
    network, inputs = build("lstm"), windows()
    expected = network(inputs)
    one = torch.ones(3, dtype=torch.float64)
    network.set_covariate_statistics(CovariateStatistics(5.0 * one, 2.0 * one, one[:1], 4.0 * one[:1]))
    shifted = inputs._replace(
        past_covariates=inputs.past_covariates * 2 + 5,
        future_covariates=inputs.future_covariates * 2 + 5,
        static_covariates=inputs.static_covariates * 4 + 1,
    )
    torch.testing.assert_close(network(shifted), expected)


def test_the_median_head_value_is_untouched_and_neighbours_are_a_softplus_away() -> None:
    """By hand: raw (0, 1, 0) around center 1 gives 1 - ln 2, 1, 1 + ln 2."""
    ln2 = torch.log(torch.tensor(2.0))
    torch.testing.assert_close(
        non_crossing(torch.tensor([0.0, 1.0, 0.0]), 1), torch.stack((1 - ln2, torch.tensor(1.0), 1 + ln2))
    )


@pytest.mark.parametrize("field", ["context", "past_covariates", "future_covariates", "static_covariates"])
def test_a_tensor_of_the_wrong_shape_is_named(field: str) -> None:
    """The error says which one, what was expected and what came."""
    inputs = windows()
    wrong = inputs._replace(**{field: getattr(inputs, field)[:, :-1]})
    with pytest.raises(ShapeError, match=field):
        build("gru")(wrong)


def test_point_head_forecasts_one_value() -> None:
    """Q is 1 and its level the median."""
    network = build("lstm", head="point")
    assert network(windows()).shape == (6, HORIZON, 1)
    assert network.config.output_levels == (0.5,)
