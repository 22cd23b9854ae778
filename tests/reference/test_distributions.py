"""Distribution heads against scipy, and their parameters recovered from draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from models.config import COUNT_HEADS, DISTRIBUTION_NAMES, DistributionName
from models.distributions import build_distribution
from models.heads import DistributionOutput
from models.scaling import RevINScaler

LEVELS = (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
# Parameters of each family and the same thing in scipy, in the unit of y, with the window's scale.
CASES = [
    ("normal", (3.0, 2.0), 1.0, stats.norm(3.0, 2.0)),
    ("student_t", (-1.0, 0.5, 2.5), 1.0, stats.t(2.5, -1.0, 0.5)),
    ("student_t", (0.0, 2.0, 400.0), 1.0, stats.t(400.0, 0.0, 2.0)),
    ("poisson", (0.05,), 2.0, stats.poisson(0.1)),
    ("poisson", (3.5,), 2.0, stats.poisson(7.0)),
    ("poisson", (1.0,), 50_000.0, stats.poisson(50_000.0)),
    ("negative_binomial", (2.0, 0.5), 4.0, stats.nbinom(2.0, 1 / (1 + 0.5 * 8.0))),
    ("negative_binomial", (0.02, 3.0), 5.0, stats.nbinom(1 / 3.0, 1 / (1 + 3.0 * 0.1))),
    ("negative_binomial", (1.0, 0.01), 20_000.0, stats.nbinom(100.0, 1 / (1 + 200.0))),
]


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("name", "parameters", "scale", "known"), CASES)
def test_quantiles_are_those_of_scipy(
    name: DistributionName, parameters: tuple[float, ...], scale: float, known: object
) -> None:
    """In the unit of y, out into the tails; whole numbers for counts."""
    forecast = DistributionOutput(name, LEVELS).quantiles(tensor([[parameters]]), tensor([[0.0]]), tensor([[scale]]))
    np.testing.assert_allclose(forecast[0, 0].numpy(), known.ppf(LEVELS), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("name", "parameters", "scale", "known"), CASES)
def test_the_likelihood_is_that_of_scipy(
    name: DistributionName, parameters: tuple[float, ...], scale: float, known: object
) -> None:
    """Of values in the middle and in the tails."""
    values = known.ppf(LEVELS)
    loss = build_distribution(name).negative_log_likelihood(tensor(parameters), tensor(values / scale), tensor(scale))
    expected = -(known.logpmf(values) if name in COUNT_HEADS else known.logpdf(values))
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "true", "draws"),
    [
        ("normal", (3.0, 2.0), stats.norm(3.0, 2.0)),
        ("student_t", (-1.0, 0.5, 4.0), stats.t(4.0, -1.0, 0.5)),
        ("poisson", (3.5,), stats.poisson(7.0)),
        ("negative_binomial", (2.0, 0.5), stats.nbinom(2.0, 1 / (1 + 0.5 * 4.0))),
    ],
)
def test_minimising_the_likelihood_recovers_the_parameters(
    name: DistributionName, true: tuple[float, ...], draws: object
) -> None:
    """From 20,000 draws to within a few standard errors."""
    scale = 2.0 if name == "poisson" else 1.0
    values = tensor(draws.rvs(20_000, random_state=np.random.default_rng(0))) / scale
    if name == "negative_binomial":
        true = (4.0, 0.5)
    family = build_distribution(name)
    raw = torch.zeros(family.num_parameters, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = family.negative_log_likelihood(family.constrain(raw), values, tensor(scale)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(family.constrain(raw).detach().numpy(), true, rtol=0.06)


@pytest.mark.parametrize("name", DISTRIBUTION_NAMES)
def test_gradients_of_the_likelihood_equal_finite_differences(name: DistributionName) -> None:
    """With respect to the raw channels and the scale."""
    family = build_distribution(name)
    raw = torch.randn(6, family.num_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target, scale = torch.arange(6, dtype=torch.float64) / 2.0, torch.full((6,), 2.0, dtype=torch.float64)

    def loss(raw: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        return family.negative_log_likelihood(family.constrain(raw), target, scale)

    arguments = tuple(part.clone().requires_grad_() for part in (raw, target + 0.1, scale))
    assert torch.autograd.gradcheck(loss, arguments)


@pytest.mark.parametrize("name", ["normal", "student_t"])
def test_a_learned_scaling_is_undone_in_location_and_spread(name: DistributionName) -> None:
    """Quantiles of the undone parameters are the undone quantiles."""
    scaler = RevINScaler().double()
    with torch.no_grad():
        scaler.log_gain.fill_(0.7)
        scaler.shift.fill_(-2.0)
    output = DistributionOutput(name, (0.1, 0.5, 0.9))
    prediction = output.constrain(torch.randn(2, 3, output.num_channels, dtype=torch.float64))
    zero, one = torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    undone = output.quantiles(output.undo_learned(prediction, scaler), zero, one)
    torch.testing.assert_close(undone, scaler.undo_learned(output.quantiles(prediction, zero, one)))


@pytest.mark.parametrize("name", DISTRIBUTION_NAMES)
def test_the_likelihood_stays_finite_in_float32(name: DistributionName) -> None:
    """Whatever the network says, a target of zero and a large one cost a finite number with finite gradients."""
    family = build_distribution(name)
    raw = torch.tensor([-80.0, 0.0, 80.0])[:, None].repeat(1, family.num_parameters).requires_grad_()
    for target in (0.0, 1e4):
        loss = family.negative_log_likelihood(family.constrain(raw), torch.full((3,), target), torch.ones(3))
        (gradient,) = torch.autograd.grad(loss.sum(), raw)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()
