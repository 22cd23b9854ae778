"""Families of distributions that a network can forecast: likelihood for training, inverse CDF for quantiles and paths.

Parameters and values are without unit, in units of a window's `scale` around its `loc`, so that a family neither knows
nor changes the level of a series. Counts are the exception that needs the scale itself: three of something are
three whatever the window's size, so their likelihood is that of the value in its own unit (with `loc` 0).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.config import DistributionName

# A spread cannot vanish: the likelihood of a target that is forecast exactly would be infinite.
MIN_SPREAD = 1e-3
# Finite variance below; indistinguishable from a normal distribution above.
MIN_DEGREES, MAX_EXTRA_DEGREES = 2.0, 1000.0
# A rate of exactly zero could never be observed to be wrong without an infinite loss.
MIN_RATE = 1e-6
# Beyond this a negative binomial is a Poisson, and lgamma(1 / dispersion) would lose its digits in float32.
MIN_DISPERSION = 1e-3
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
# Probabilities drawn for paths stay inside of what float32 can tell from 0 and 1.
SMALLEST_PROBABILITY = 1e-6


class Distribution(ABC):
    """A family with its parameters along the last axis."""

    num_parameters: ClassVar[int]
    is_count: ClassVar[bool] = False

    @abstractmethod
    def constrain(self, raw: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Parameters from unconstrained numbers."""

    @abstractmethod
    def negative_log_likelihood(
        self, parameters: Float[Tensor, "*shape K"], target: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Of a target without unit; up to the logarithm of the scale, which no parameter can change.

        Args:
            parameters: From `constrain`.
            target: (y - loc) / scale.
            scale: Broadcasts against the target.
        """

    @abstractmethod
    def inverse_cdf(
        self,
        parameters: Float[Tensor, "*shape K"],
        probability: Float[Tensor, "*shape"],
        scale: Float[Tensor, "*shape"],
    ) -> Float[Tensor, "*shape"]:
        """The smallest value, without unit, below or at which a share `probability` of the distribution lies.

        Args:
            parameters: From `constrain`.
            probability: In (0, 1); broadcasts against the parameters.
            scale: Broadcasts likewise.
        """

    def mean(self, parameters: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape"]:
        """Expected value, without unit; the first parameter in every family here."""
        return parameters[..., 0]

    def undo_affine(
        self,
        parameters: Float[Tensor, "*shape K"],
        undo: Callable[[Tensor], Tensor],
        undo_spread: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "*shape K"]:
        """Parameters of `undo(x)` for an affine map: the first is a location, the second a spread.

        Args:
            parameters: Of x.
            undo: The map.
            undo_spread: The same without its shift.
        """
        location, spread, shape = parameters[..., :1], parameters[..., 1:2], parameters[..., 2:]
        return torch.cat((undo(location), undo_spread(spread), shape), dim=-1)


@final
class Normal(Distribution):
    """Location and standard deviation."""

    num_parameters = 2

    def constrain(self, raw: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
        """Location as it is; standard deviation by softplus."""
        return torch.stack((raw[..., 0], functional.softplus(raw[..., 1]) + MIN_SPREAD), dim=-1)

    def negative_log_likelihood(
        self, parameters: Float[Tensor, "*shape 2"], target: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """z^2 / 2 + log sd + log sqrt(2 pi), z = (target - location) / sd."""
        location, deviation = parameters.unbind(-1)
        return 0.5 * ((target - location) / deviation).square() + deviation.log() + HALF_LOG_2_PI

    def inverse_cdf(
        self,
        parameters: Float[Tensor, "*shape 2"],
        probability: Float[Tensor, "*shape"],
        scale: Float[Tensor, "*shape"],
    ) -> Float[Tensor, "*shape"]:
        """Location plus sd times the standard normal quantile."""
        location, deviation = parameters.unbind(-1)
        return location + deviation * torch.special.ndtri(probability)


@final
class StudentT(Distribution):
    """Location, spread and degrees of freedom (Lange et al. 1989): heavy tails, so that an outlier costs its logarithm."""

    num_parameters = 3

    def constrain(self, raw: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
        """Location as it is; spread by softplus; more than two degrees of freedom, so that there is a variance."""
        spread = functional.softplus(raw[..., 1]) + MIN_SPREAD
        degrees = MIN_DEGREES + functional.softplus(raw[..., 2]).clamp(max=MAX_EXTRA_DEGREES)
        return torch.stack((raw[..., 0], spread, degrees), dim=-1)

    def negative_log_likelihood(
        self, parameters: Float[Tensor, "*shape 3"], target: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Of the density of location + spread t_n."""
        location, spread, degrees = parameters.unbind(-1)
        tail = 0.5 * (degrees + 1.0) * torch.log1p(((target - location) / spread).square() / degrees)
        normaliser = torch.lgamma(0.5 * degrees) - torch.lgamma(0.5 * (degrees + 1.0))
        return tail + normaliser + 0.5 * (degrees * math.pi).log() + spread.log()

    def inverse_cdf(
        self,
        parameters: Float[Tensor, "*shape 3"],
        probability: Float[Tensor, "*shape"],
        scale: Float[Tensor, "*shape"],
    ) -> Float[Tensor, "*shape"]:
        """Location plus spread times the quantile of t_n."""
        from scipy import special

        location, spread, degrees = parameters.unbind(-1)
        return location + spread * _in_numpy(special.stdtrit, degrees, probability)


class Counts(Distribution):
    """Distributions over 0, 1, 2, ...: the rate is in units of the window's scale, the counts are in their own unit."""

    is_count = True

    @abstractmethod
    def variance(
        self, parameters: Float[Tensor, "*shape K"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Variance of the count, in its own unit."""

    @abstractmethod
    def cdf(
        self, parameters: NDArray[np.float64], count: NDArray[np.float64], scale: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Probability of at most `count`."""

    @torch.no_grad()
    def inverse_cdf(
        self,
        parameters: Float[Tensor, "*shape K"],
        probability: Float[Tensor, "*shape"],
        scale: Float[Tensor, "*shape"],
    ) -> Float[Tensor, "*shape"]:
        """The smallest count at which the CDF arrives at the probability, found by bisection; divided by the scale."""
        mean = (self.mean(parameters) * scale).double()
        deviation = self.variance(parameters, scale).double().sqrt()
        odds = (probability / (1.0 - probability)).double()
        # Cantelli's inequality brackets every quantile: P(X >= mean + t) <= var / (var + t^2), and below likewise.
        low = (mean - deviation / odds.sqrt()).floor().sub(1.0).clamp(min=-1.0)
        high = (mean + deviation * odds.sqrt()).ceil()
        bounds = np.broadcast_arrays(*(part.cpu().numpy() for part in (low, high, probability.double())))
        below, above, level = (np.array(bound, dtype=np.float64) for bound in bounds)
        fixed = parameters.detach().double().cpu().numpy(), scale.detach().double().cpu().numpy()
        while np.any(above - below > 1.0):
            middle = np.floor(0.5 * (below + above))
            arrives = (middle >= 0.0) & (self.cdf(fixed[0], np.maximum(middle, 0.0), fixed[1]) >= level)
            below, above = np.where(arrives, below, middle), np.where(arrives, middle, above)
        return torch.from_numpy(above).to(parameters) / scale


@final
class Poisson(Counts):
    """One rate; the variance equals the mean."""

    num_parameters = 1

    def constrain(self, raw: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 1"]:
        """Rate by softplus."""
        return functional.softplus(raw) + MIN_RATE

    def negative_log_likelihood(
        self, parameters: Float[Tensor, "*shape 1"], target: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """m - k log m + log k!, with m = rate scale and k = target scale."""
        mean, count = parameters[..., 0] * scale, target * scale
        return mean - count * mean.log() + torch.lgamma(count + 1.0)

    def variance(
        self, parameters: Float[Tensor, "*shape 1"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """The mean."""
        return parameters[..., 0] * scale

    def cdf(
        self, parameters: NDArray[np.float64], count: NDArray[np.float64], scale: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Regularised upper incomplete gamma function."""
        from scipy import special

        return np.asarray(special.gammaincc(count + 1.0, parameters[..., 0] * scale))


@final
class NegativeBinomial(Counts):
    """Rate and dispersion a: the variance is m + a m^2, a Poisson whose rate is itself uncertain (Salinas et al. 2020)."""

    num_parameters = 2

    def constrain(self, raw: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 2"]:
        """Both by softplus."""
        dispersion = functional.softplus(raw[..., 1]) + MIN_DISPERSION
        return torch.stack((functional.softplus(raw[..., 0]) + MIN_RATE, dispersion), dim=-1)

    def negative_log_likelihood(
        self, parameters: Float[Tensor, "*shape 2"], target: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """-log of Gamma(k + r) / (k! Gamma(r)) (1 + a m)^-r (a m / (1 + a m))^k, r = 1 / a."""
        rate, dispersion = parameters.unbind(-1)
        mean, count, shape = rate * scale, target * scale, 1.0 / dispersion
        ways = torch.lgamma(count + shape) - torch.lgamma(count + 1.0) - torch.lgamma(shape)
        spread = dispersion * mean
        return (count + shape) * torch.log1p(spread) - count * spread.log() - ways

    def variance(
        self, parameters: Float[Tensor, "*shape 2"], scale: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """m + a m^2."""
        mean = parameters[..., 0] * scale
        return mean + parameters[..., 1] * mean.square()

    def cdf(
        self, parameters: NDArray[np.float64], count: NDArray[np.float64], scale: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Regularised incomplete beta function."""
        from scipy import special

        rate, dispersion = parameters[..., 0], parameters[..., 1]
        return np.asarray(special.betainc(1.0 / dispersion, count + 1.0, 1.0 / (1.0 + dispersion * rate * scale)))


_DISTRIBUTIONS: dict[DistributionName, type[Distribution]] = {
    "normal": Normal,
    "student_t": StudentT,
    "negative_binomial": NegativeBinomial,
    "poisson": Poisson,
}


def build_distribution(name: DistributionName) -> Distribution:
    """The family of that name."""
    return _DISTRIBUTIONS[name]()


def _in_numpy(function: Callable[..., NDArray[np.float64]], *arguments: Tensor) -> Tensor:
    """A function that torch does not have; its result has the first argument's dtype and device."""
    result = function(*(argument.detach().double().cpu().numpy() for argument in arguments))
    return torch.from_numpy(np.asarray(result)).to(arguments[0])
