"""The mean of a recurrent and a linear forecast: what each part reads, what each learns from, and what comes out."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from models.config import LinearConfig, SegRNNConfig
from models.forecaster import ForecastInputs, ForecastPart, ScaledForecast, mean_of_parts
from models.linear import LinearForecaster
from models.segment import SegmentForecaster
from training.losses import build_loss

CONTEXT, HORIZON, LEVELS = 20, 6, (0.1, 0.5, 0.9)


def network(**settings: object) -> SegmentForecaster:
    torch.manual_seed(0)
    sizes = {
        "context_length": CONTEXT, "horizon": HORIZON, "segment_length": 4, "hidden_size": 8, "quantile_levels": LEVELS,
        "num_past_covariates": 2, "num_future_covariates": 1, "num_static_covariates": 1, "linear_share": 0.25,
    }  # fmt: skip
    return SegmentForecaster(SegRNNConfig(**(sizes | settings))).double().eval()


def windows(batch: int = 5) -> ForecastInputs:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    observed = torch.rand(batch, CONTEXT, generator=generator) > 0.2
    return ForecastInputs(
        normal(batch, CONTEXT) * 3 + 10, observed, normal(batch, CONTEXT, 2), normal(batch, HORIZON, 1), normal(batch, 1)
    )


def parts(net: SegmentForecaster, inputs: ForecastInputs) -> tuple[ForecastPart, ...]:
    target = torch.zeros(len(inputs.context), HORIZON, dtype=torch.float64)
    return net.forward_parts(inputs, target, target == 0)


def alone(net: SegmentForecaster, **settings: object) -> SegmentForecaster:
    """The same recurrent weights without the linear map."""
    single = network(linear_share=0.0, **settings)
    single.load_state_dict({name: value for name, value in net.state_dict().items() if not name.startswith("linear.")})
    return single


def test_the_forecast_is_the_mean_of_the_parts_by_their_shares() -> None:
    """Of which the recurrent one is the network without the linear map, to the bit."""
    net, inputs = network(), windows()
    (first, recurrent), (second, linear) = parts(net, inputs)
    whole = net.forward_scaled(inputs)
    assert (first, second) == (0.75, 0.25)
    torch.testing.assert_close(whole.prediction, 0.75 * recurrent.prediction + 0.25 * linear.prediction, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone(net).forward_scaled(inputs).prediction, recurrent.prediction, rtol=0.0, atol=0.0)
    assert bool((net(inputs).diff(dim=-1) >= 0).all())


def test_the_linear_part_is_a_linear_network_that_measures_from_the_last_value() -> None:
    """Against one with that scaler, whose unit the weights of the window do not depend on; at its start it has no bias."""
    net, inputs = network(head="point", num_past_covariates=0, num_future_covariates=0, num_static_covariates=0), windows()
    empty = torch.zeros(len(inputs.context), CONTEXT, 0, dtype=torch.float64)
    inputs = ForecastInputs(inputs.context, inputs.observed_mask, empty, empty[:, :HORIZON], empty[:, 0])
    oracle = LinearForecaster(LinearConfig(context_length=CONTEXT, horizon=HORIZON, scaler="last", head="point")).double()
    assert net.linear is not None
    with torch.no_grad():
        net.linear.decoder.weight.normal_(generator=torch.Generator().manual_seed(5))
        oracle.decoder.weight.copy_(net.linear.decoder.weight)
    forecast = parts(net, inputs)[1].forecast
    in_unit_of_y = forecast.prediction * forecast.scale[..., None] + forecast.loc[..., None]
    torch.testing.assert_close(in_unit_of_y, oracle(inputs))


@pytest.mark.parametrize(("recurrent", "linear"), [(7, None), (None, 7), (9, 13)])
def test_a_part_reads_its_newest_steps_and_no_others(recurrent: int | None, linear: int | None) -> None:
    """With a scaler that looks at the last value alone: the recurrence's scale is also what linear quantiles go by."""
    net, inputs = network(recurrent_length=recurrent, linear_length=linear, scaler="offset"), windows()
    inputs = inputs._replace(observed_mask=torch.ones_like(inputs.observed_mask))
    for index, length in enumerate((recurrent or CONTEXT, linear or CONTEXT)):
        for step, moves in ((CONTEXT - length, True), (CONTEXT - length - 1, False)):
            if step < 0:
                continue
            context, past = inputs.context.clone(), inputs.past_covariates.clone()
            context[:, step] += 1.0
            past[:, step] += 1.0
            before = parts(net, inputs)[index].forecast
            after = parts(net, inputs._replace(context=context, past_covariates=past))[index].forecast
            values = [one.prediction + one.loc[..., None] for one in (before, after)]
            assert bool((values[0] - values[1]).abs().max() > 1e-9) is moves


def test_the_recurrent_part_of_a_longer_context_is_the_network_with_the_short_one() -> None:
    """So a context that only the linear map reads costs the other nothing."""
    net, inputs = network(recurrent_length=9), windows()
    short = alone(net, context_length=9)
    newest = inputs._replace(
        context=inputs.context[:, -9:], observed_mask=inputs.observed_mask[:, -9:], past_covariates=inputs.past_covariates[:, -9:]
    )
    recurrent = parts(net, inputs)[0].forecast
    for got, expected in zip(recurrent, short.forward_scaled(newest), strict=True):
        torch.testing.assert_close(got, expected, rtol=0.0, atol=0.0)


def test_each_part_learns_from_its_own_errors() -> None:
    """The gradient of the common loss is that of each part's own loss, by its share; no error of one moves the other."""
    net, inputs = network().train(), windows()
    target = inputs.context[:, -HORIZON:] + 1.0
    mask, floor = torch.ones_like(target, dtype=torch.bool), torch.zeros(len(target), 1, dtype=torch.float64)
    loss = build_loss("quantile", LEVELS, "quantile")

    def gradients(of: torch.Tensor) -> dict[str, torch.Tensor]:
        named = dict(net.named_parameters())
        found = torch.autograd.grad(of, list(named.values()), allow_unused=True)
        return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}

    def common() -> tuple[ForecastPart, ...]:
        return net.forward_parts(inputs, target, mask)

    together = gradients(mean_of_parts(common(), lambda forecast: loss(forecast, target, mask, floor)))
    own = [gradients(part.share * loss(part.forecast, target, mask, floor)) for part in common()]
    assert not set(own[0]) & set(own[1])
    assert set(together) == set(own[0]) | set(own[1])
    for name, gradient in (own[0] | own[1]).items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-10, atol=1e-12)


def test_the_loss_of_the_mean_is_no_higher_than_the_mean_of_the_losses() -> None:
    """Quantile loss is convex."""
    net, inputs = network(), windows()
    target = inputs.context[:, -HORIZON:] + 1.0
    mask, floor = torch.ones_like(target, dtype=torch.bool), torch.zeros(len(target), 1, dtype=torch.float64)
    loss = build_loss("quantile", LEVELS, "quantile")

    def of(forecast: ScaledForecast) -> torch.Tensor:
        return loss(forecast, target, mask, floor).detach()

    assert float(of(net.forward_taught(inputs, target, mask))) < float(mean_of_parts(parts(net, inputs), of))


def test_gradients_agree_with_finite_differences() -> None:
    """Of the forecast with respect to the window, through both parts."""
    net, inputs = network(recurrent_length=9, linear_length=15, scaler="last"), windows(2)

    def forecast(context: torch.Tensor) -> torch.Tensor:
        return net(inputs._replace(context=context))

    assert torch.autograd.gradcheck(forecast, (inputs.context.clone().requires_grad_(),), eps=1e-6, atol=1e-7)


def test_layers_name_the_linear_part_and_only_where_there_is_one() -> None:
    """Its gradient norm is logged under this name."""
    assert list(network().layers()) == ["embedding", "gru.0", "decoder", "linear"]
    assert list(network(skip="linear").layers()) == ["embedding", "gru.0", "decoder", "skip", "linear"]
    assert "linear" not in network(linear_share=0.0).layers()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"linear_share": 1.0}, "less than 1"),
        ({"head": "normal"}, "head must be point or quantile with a linear_share"),
        ({"recurrent_length": CONTEXT + 1}, "at most the context_length, 20"),
        ({"linear_length": CONTEXT + 1}, "at most the context_length, 20"),
    ],
)
def test_impossible_parts_are_refused(settings: dict[str, object], words: str) -> None:
    """In words that name the key."""
    with pytest.raises(ValidationError, match=words):
        network(**settings)
