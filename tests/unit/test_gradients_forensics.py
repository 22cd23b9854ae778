"""The first non-finite value of a step is found where it was put: weights, input, scaling, layer, loss, gradient, norm."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.config import GRUConfig, LSTMConfig, RNNConfig
from models.forecaster import Forecaster, ForecastInputs, RecurrentForecaster, ScaledForecast
from models.registry import build_forecaster
from training.data.windows import WindowBatch
from training.gradients.forensics import NonFinitePlace, StepSettings, locate_non_finite
from training.losses import build_loss

BATCH, LENGTH, HORIZON = 6, 12, 3
MSE = StepSettings(build_loss("mse", (0.5,), "point").__call__)


def network(**changes: object) -> Forecaster:
    torch.manual_seed(0)
    sizes = {"context_length": LENGTH, "horizon": HORIZON, "hidden_size": 5, "num_layers": 2, "head": "point"}
    return build_forecaster(GRUConfig(**{**sizes, "scaler": "none", **changes}))  # type: ignore[arg-type]


def windows(past: int = 0) -> WindowBatch:
    generator = torch.Generator().manual_seed(1)
    inputs = ForecastInputs(
        torch.randn(BATCH, LENGTH, generator=generator),
        torch.ones(BATCH, LENGTH, dtype=torch.bool),
        torch.randn(BATCH, LENGTH, past, generator=generator),
        torch.zeros(BATCH, HORIZON, 0),
        torch.zeros(BATCH, 0),
    )
    target = torch.randn(BATCH, HORIZON, generator=generator)
    numbers = torch.arange(BATCH)
    return WindowBatch(inputs, target, torch.ones(BATCH, HORIZON, dtype=torch.bool), numbers % 2, numbers + 100)


def locate(forecaster: Forecaster, batch: WindowBatch, settings: StepSettings = MSE) -> NonFinitePlace | None:
    return locate_non_finite(forecaster, batch, torch.zeros(BATCH, 1), settings)


def test_a_finite_step_has_no_such_place_and_leaves_no_trace() -> None:
    """Neither a place nor a gradient nor a hook is left behind."""
    forecaster = network()
    assert locate(forecaster, windows()) is None
    assert all(parameter.grad is None for parameter in forecaster.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in forecaster.modules())


def test_weights_come_before_what_they_cause() -> None:
    """A weight that is not finite is named with its layer, not the output it ruins."""
    forecaster = network()
    assert isinstance(forecaster, RecurrentForecaster)
    with torch.no_grad():
        next(forecaster.encoder.layers[1].parameters())[0, 0] = math.nan
    assert locate(forecaster, windows()) == NonFinitePlace("weights", "gru.1")


@pytest.mark.parametrize("spoil", ["context", "target", "past_covariates"])
def test_input_names_its_window(spoil: str) -> None:
    """An infinite value in the context, in an observed target or in a covariate is the input's, in that window."""
    batch = windows(past=1)
    tensor = batch.target if spoil == "target" else getattr(batch.inputs, spoil)
    tensor[3, 1] = math.inf
    assert locate(network(num_past_covariates=1), batch) == NonFinitePlace("input", rows=(3,))


def test_a_missing_target_is_no_fault() -> None:
    """What is masked out is never looked at."""
    batch = windows()
    batch.target[3, 1] = math.nan
    batch.target_mask[3, 1] = False
    assert locate(network(), batch) is None


def test_scaling_that_overflows_is_told_from_the_layer_behind_it() -> None:
    """Values whose variance exceeds float32: the scaler, in that window alone."""
    batch = windows()
    batch.inputs.context[2, 4] = 3e38
    place = locate(network(scaler="standard"), batch)
    assert place == NonFinitePlace("scaling", rows=(2,))


def test_covariates_that_overflow_when_standardised_are_scaling_too() -> None:
    """They are standardised outside of any module; the layer that reads them is not blamed."""
    forecaster, batch = network(num_past_covariates=1), windows(past=1)
    forecaster.past_scale.fill_(1e-3)
    batch.inputs.past_covariates[4, 0, 0] = 1e37
    assert locate(forecaster, batch) == NonFinitePlace("scaling", rows=(4,))


@pytest.mark.parametrize("layer", ["decoder", "head"])
def test_the_first_layer_is_named(layer: str) -> None:
    """Weights near the limit of the format overflow in their own layer; every window does, so none is named."""
    forecaster = network()
    with torch.no_grad():
        for parameter in forecaster.layers()[layer].parameters():
            parameter.fill_(3e38)
    assert locate(forecaster, windows()) == NonFinitePlace("layer", layer)


def test_a_recurrence_that_explodes_is_named() -> None:
    """A rectified network that grows at every step overflows in its own layer."""
    torch.manual_seed(0)
    config = RNNConfig(
        context_length=200, horizon=HORIZON, hidden_size=5, head="point", nonlinearity="relu", initialization="identity",
        init_gain=3.0,
    )  # fmt: skip
    batch = windows()
    long = batch.inputs._replace(
        context=torch.randn(BATCH, 200).abs(), observed_mask=torch.ones(BATCH, 200, dtype=torch.bool),
        past_covariates=torch.zeros(BATCH, 200, 0),
    )  # fmt: skip
    place = locate(build_forecaster(config), batch._replace(inputs=long))
    assert place is not None
    assert (place.stage, place.layer) == ("layer", "rnn.0")


def test_loss_names_the_windows_whose_own_loss_is_not_finite() -> None:
    """The square of a large target overflows, the forecast is fine."""
    batch = windows()
    batch.target[1, 0] = batch.target[5, 2] = 1e20
    assert locate(network(), batch) == NonFinitePlace("loss", rows=(1, 5))


def test_a_sum_that_overflows_names_the_largest_and_says_so() -> None:
    """Every window's loss is finite, the batch's is not."""
    batch = windows()
    batch.target[:] = 9e18
    batch.target[2] *= 1.01
    place = locate(network(), batch)
    assert place is not None
    assert (place.stage, place.is_certain) == ("loss", False)
    assert 2 in place.rows


def steep(function: Callable[[Tensor], Tensor]) -> StepSettings:
    """A loss on the forecast alone."""

    def loss(forecast: ScaledForecast, *_rest: Tensor) -> Tensor:
        return function(forecast.prediction).mean()

    return StepSettings(loss)


def test_a_loss_without_slope_is_named_before_the_layers() -> None:
    """The root of zero is zero and its slope is not a number: the loss itself hands that to the last layer."""
    place = locate(network(), windows(), steep(lambda prediction: (prediction * 0).sqrt()))
    assert place is not None
    assert (place.stage, place.layer) == ("gradient", "loss")


def test_the_layer_that_turns_a_finite_gradient_into_none_is_named() -> None:
    """A slope of 1e25 reaches the head and overflows there, whose weights are large; the loss is zero."""
    forecaster = network()
    with torch.no_grad():
        for parameter in forecaster.layers()["head"].parameters():
            parameter.mul_(1e16)

    def slope(prediction: Tensor) -> Tensor:
        return (prediction - prediction.detach()) * 1e25

    place = locate(forecaster, windows(), steep(slope))
    assert place is not None
    assert (place.stage, place.layer) == ("gradient", "head")


def test_a_norm_that_overflows_is_told_from_a_gradient_that_does() -> None:
    """Every partial derivative is finite, their squares are not."""
    place = locate(network(), windows(), steep(lambda prediction: prediction * 1e25))
    assert place is not None
    assert place.stage == "norm"
    assert place.layer in ("decoder", "head")


def test_validation_has_no_gradient() -> None:
    """Without a gradient, a finite loss is the end of it."""
    settings = steep(lambda prediction: prediction * 1e25)._replace(with_gradient=False)
    assert locate(network(), windows(), settings) is None


def test_lstm_states_are_watched_in_mixed_precision_and_with_truncation() -> None:
    """The settings of the step reach the repeated one: the place is found under autocast and truncation."""
    torch.manual_seed(0)
    forecaster = build_forecaster(LSTMConfig(context_length=LENGTH, horizon=HORIZON, hidden_size=5, head="point"))
    batch = windows()
    batch.target[0, 0] = 1e25
    settings = MSE._replace(tbptt_steps=4, precision="bfloat16")
    assert locate(forecaster, batch, settings) == NonFinitePlace("loss", rows=(0,))


def test_the_sentence_names_series_and_row_and_counts_the_rest() -> None:
    """Up to five windows by name, then the count."""
    batch = windows()
    assert NonFinitePlace("loss", rows=(1,)).describe(batch, ("a", "b")) == (
        "first in the loss; every layer before it is finite; windows: series 'b' at row 101"
    )
    many = NonFinitePlace("layer", "gru.0", tuple(range(6))).describe(batch, ("a", "b"))
    assert many.startswith("first in gru.0; 6 of 6 windows, first series 'a' at row 100")
    assert many.count("series") == 5
    unsure = NonFinitePlace("norm", "head", (0,), is_certain=False).describe(batch, ("a", "b"))
    assert "the largest windows: series 'a' at row 100" in unsure
