"""Losses, in units of each window's scale, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.forecaster import ScaledForecast
from training.losses import build_loss


def forecast(prediction: list[float], loc: float = 0.0, scale: float = 1.0) -> ScaledForecast:
    """One window, one step, one value per level."""
    return ScaledForecast(torch.tensor([[prediction]]), torch.tensor([[loc]]), torch.tensor([[scale]]))


NO_FLOOR = torch.zeros(1, 1)
SEEN = torch.tensor([[True]])


def test_quantile_loss_by_hand() -> None:
    """Levels 0.1 and 0.9, both forecast 0, target 2: 2 * (0.1 * 2) = 0.4 and 2 * (0.9 * 2) = 3.6, mean 2."""
    loss = build_loss("quantile", (0.1, 0.9), "quantile")
    assert loss(forecast([0.0, 0.0]), torch.tensor([[2.0]]), SEEN, NO_FLOOR).item() == pytest.approx(2.0)


def test_quantile_loss_is_asymmetric() -> None:
    """Forecasting 2 too much at level 0.9 costs 2 * 0.1 * 2 = 0.4 only."""
    loss = build_loss("quantile", (0.9,), "quantile")
    assert loss(forecast([2.0]), torch.tensor([[0.0]]), SEEN, NO_FLOOR).item() == pytest.approx(0.4)


def test_the_medians_quantile_loss_is_the_absolute_error() -> None:
    """So quantile and mae curves can be compared."""
    prediction, target = forecast([1.5]), torch.tensor([[-2.0]])
    assert build_loss("auto", (0.5,), "quantile")(prediction, target, SEEN, NO_FLOOR).item() == pytest.approx(3.5)
    assert build_loss("auto", (0.5,), "point")(prediction, target, SEEN, NO_FLOOR).item() == pytest.approx(3.5)


@pytest.mark.parametrize(("name", "expected"), [("mae", 3.0), ("mse", 9.0), ("huber", 2.5), ("frequency", 0.2 * 2.5 + 0.8 * 3.0)])
def test_point_losses_by_hand(name: str, expected: float) -> None:
    """Error 3: 3, 9, 3 - 0.5 for Huber with delta 1; one step is its own Fourier coefficient."""
    loss = build_loss(name, (0.5,), "point")
    assert loss(forecast([0.0]), torch.tensor([[3.0]]), SEEN, NO_FLOOR).item() == pytest.approx(expected)


def test_errors_are_measured_in_the_windows_scale() -> None:
    """Level 10, scale 4: a target of 18 is 2 scales away."""
    loss = build_loss("mae", (0.5,), "point")
    assert loss(forecast([0.0], 10.0, 4.0), torch.tensor([[18.0]]), SEEN, NO_FLOOR).item() == pytest.approx(2.0)


def test_a_nearly_constant_window_does_not_count_a_thousandfold() -> None:
    """Scale 0.001 in a series whose floor is 2: an error of 8 counts 4, not 8000."""
    loss = build_loss("mae", (0.5,), "point")
    value = loss(forecast([0.0], 10.0, 0.001), torch.tensor([[18.0]]), SEEN, torch.tensor([[2.0]]))
    assert value.item() == pytest.approx(4.0)


def test_a_nearly_constant_window_does_not_count_a_thousandfold_by_likelihood_either() -> None:
    """Scale 0.001 under a floor of 2, an error of 8: z^2 / 2 of 8000 scales is 3.2e7, of 4 units 8."""
    loss = build_loss("nll", (0.5,), "normal")
    deviation = 1.0
    value = loss(forecast([0.0, deviation], 10.0, 0.001), torch.tensor([[18.0]]), SEEN, torch.tensor([[2.0]]))
    assert value.item() == pytest.approx(8.0, rel=1e-3)


def test_counts_are_compared_in_their_own_unit() -> None:
    """Rate 0.5 at scale 4 is a mean of 2; a count of 3 costs 2 - 3 log 2 + log 3!."""
    loss = build_loss("auto", (0.5,), "poisson")
    value = loss(forecast([0.5], 0.0, 4.0), torch.tensor([[3.0]]), SEEN, NO_FLOOR)
    assert value.item() == pytest.approx(2.0 - 3.0 * math.log(2.0) + math.log(6.0))


def test_missing_targets_have_no_influence_not_even_nan() -> None:
    """The mean is over the observed targets, and no gradient comes from the others."""
    prediction = torch.tensor([[[1.0], [5.0]]], requires_grad=True)
    scaled = ScaledForecast(prediction, torch.zeros(1, 1), torch.ones(1, 1))
    target, mask = torch.tensor([[3.0, torch.nan]]), torch.tensor([[True, False]])
    loss = build_loss("mae", (0.5,), "point")(scaled, target, mask, NO_FLOOR)
    loss.backward()
    assert loss.item() == pytest.approx(2.0)
    assert prediction.grad is not None
    assert prediction.grad.flatten().tolist() == [-1.0, 0.0]


def test_a_batch_without_any_target_has_loss_zero() -> None:
    """Not NaN."""
    loss = build_loss("mse", (0.5,), "point")
    assert loss(forecast([1.0]), torch.tensor([[torch.nan]]), ~SEEN, NO_FLOOR).item() == 0.0


@pytest.mark.parametrize(("name", "expected"), [("mse", 4.0), ("huber", 1.5), ("frequency", 0.2 * 1.5 + 0.8 * 2.0)])
def test_squared_errors_are_measured_in_the_spread_of_the_series(name: str, expected: float) -> None:
    """Spread 4, so floor 0.04: an error of 8 is 2 spreads, in a window of scale 0.5 as in one of scale 16."""
    loss = build_loss(name, (0.5,), "point")
    for scale in (0.5, 16.0):
        value = loss(forecast([0.0], 10.0, scale), torch.tensor([[18.0]]), SEEN, torch.tensor([[0.04]]))
        assert value.item() == pytest.approx(expected)


def test_the_fourier_coefficients_of_the_errors_by_hand() -> None:
    """Errors 1, 0, -1, 0 are a wave of 4 steps: coefficients 0, (1 + 1) / sqrt(4) = 1, 0; Huber 1/2, 0, 1/2, 0."""
    loss = build_loss("frequency", (0.5,), "point")
    seen = torch.ones(1, 4, dtype=torch.bool)
    scaled = ScaledForecast(torch.tensor([[[1.0], [0.0], [-1.0], [0.0]]]), torch.zeros(1, 1), torch.ones(1, 1))
    assert loss(scaled, torch.zeros(1, 4), seen, NO_FLOOR).item() == pytest.approx(0.2 * 0.25 + 0.8 / 3)


def test_a_missing_target_has_no_fourier_coefficient() -> None:
    """No gradient comes from its step, whatever was forecast there."""
    prediction = torch.tensor([[[1.0], [70.0], [-1.0], [0.5]]], requires_grad=True)
    scaled = ScaledForecast(prediction, torch.zeros(1, 1), torch.ones(1, 1))
    mask = torch.tensor([[True, False, True, True]])
    loss = build_loss("frequency", (0.5,), "point")
    value = loss(scaled, torch.tensor([[0.0, torch.nan, 0.0, 0.0]]), mask, NO_FLOOR)
    value.backward()
    assert prediction.grad is not None
    assert prediction.grad[0, 1].item() == 0.0
    hit = ScaledForecast(torch.tensor([[[1.0], [0.0], [-1.0], [0.5]]]), torch.zeros(1, 1), torch.ones(1, 1))
    assert value.item() == pytest.approx(loss(hit, torch.zeros(1, 4), mask, NO_FLOOR).item())
