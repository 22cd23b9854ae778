"""Distributions by hand: parameters from raw channels, and the derivative of the negative log likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from models.config import COUNT_HEADS, DistributionName
from models.distributions import MAX_EXTRA_DEGREES, MIN_DEGREES, MIN_DISPERSION, MIN_RATE, MIN_SPREAD
from training.gradcheck.cells import Array, sigmoid
from training.gradcheck.pullbacks import LossGradients, ScaledTarget


class LikelihoodGradients(NamedTuple):
    """Value and derivatives of -log p for every step.

    Attributes:
        value: The negative log likelihood.
        parameters: Derivative with respect to each parameter.
        target: With respect to the scaled target.
        scale: With respect to the scale itself, which only counts read.
    """

    value: Float[Array, "B H"]
    parameters: Float[Array, "B H K"]
    target: Float[Array, "B H"]
    scale: Float[Array, "B H"]


def constrained(name: DistributionName, raw: Float[Array, "B H K"]) -> tuple[Array, Callable[[Array], Array]]:
    """Parameters of the family, and their pullback: a location as it is, the others a softplus above their floor."""
    floors = {
        "normal": (None, MIN_SPREAD),
        "student_t": (None, MIN_SPREAD, MIN_DEGREES),
        "poisson": (MIN_RATE,),
        "negative_binomial": (MIN_RATE, MIN_DISPERSION),
    }[name]
    slopes, columns = np.ones_like(raw), []
    for index, floor in enumerate(floors):
        value = raw[..., index]
        if floor is not None:
            slopes[..., index] = sigmoid(value)
            value = np.logaddexp(0.0, value)
            if floor == MIN_DEGREES:
                slopes[..., index] *= value < MAX_EXTRA_DEGREES
                value = np.minimum(value, MAX_EXTRA_DEGREES)
            value = value + floor
        columns.append(value)
    return np.stack(columns, axis=-1), lambda d_parameters: d_parameters * slopes


def masked_likelihood(
    name: DistributionName,
    parameters: Float[Array, "B H K"],
    loc: Float[Array, "B 1"],
    scale: Float[Array, "B 1"],
    truth: ScaledTarget,
) -> tuple[float, LossGradients]:
    """Mean over the observed targets, and its derivatives.

    With the scaled target t = (y - l)/s and the weight w = (s/u)^2, u = max(s, floor), a step costs w nll(t). So
    dl = -w nll_t / s, ds = -w nll_t t / s + 2 nll w / s where u is not s. Counts have weight 1 and the count t s = y - l.

    Args:
        name: The family.
        parameters: From `constrained`.
        loc: Level of each window.
        scale: Scale of each window.
        truth: What is compared with.

    Returns:
        The loss and its derivatives.
    """
    unit = np.maximum(scale, truth.scale_floor)
    known = np.where(truth.mask, truth.target, loc)
    step = _FAMILIES[name](parameters, (known - loc) / scale, scale)
    is_count = name in COUNT_HEADS
    weight = np.ones_like(scale) if is_count else (scale / unit) ** 2
    share = truth.mask / max(truth.mask.sum(), 1)
    g = step.target * share * weight
    d_loc = -(g / scale).sum(axis=1, keepdims=True)
    d_scale = -(g * (known - loc) / scale**2).sum(axis=1, keepdims=True) + (step.scale * share).sum(
        axis=1, keepdims=True
    )
    if not is_count:
        d_weight = 2.0 * scale / unit**2 * (unit > scale)
        d_scale = d_scale + (step.value * share).sum(axis=1, keepdims=True) * d_weight
    d_parameters = step.parameters * (share * weight)[..., None]
    return float((step.value * share * weight).sum()), LossGradients(d_parameters, d_loc, d_scale)


def _normal(parameters: Array, target: Array, _scale: Array) -> LikelihoodGradients:
    location, deviation = parameters[..., 0], parameters[..., 1]
    z = (target - location) / deviation
    value = 0.5 * z**2 + np.log(deviation) + 0.5 * np.log(2 * np.pi)
    d_parameters = np.stack((-z / deviation, (1.0 - z**2) / deviation), axis=-1)
    return LikelihoodGradients(value, d_parameters, z / deviation, np.zeros_like(z))


def _student_t(parameters: Array, target: Array, _scale: Array) -> LikelihoodGradients:
    location, spread, n = (parameters[..., index] for index in range(3))
    z = (target - location) / spread
    pull = (n + 1.0) / (n + z**2)  # how much an outlier still pulls
    normaliser = special.gammaln(0.5 * n) - special.gammaln(0.5 * (n + 1.0)) + 0.5 * np.log(n * np.pi)
    value = 0.5 * (n + 1.0) * np.log1p(z**2 / n) + normaliser + np.log(spread)
    d_n = 0.5 * (np.log1p(z**2 / n) - pull * z**2 / n + 1.0 / n)
    d_n += 0.5 * (special.psi(0.5 * n) - special.psi(0.5 * (n + 1.0)))
    d_parameters = np.stack((-pull * z / spread, (1.0 - pull * z**2) / spread, d_n), axis=-1)
    return LikelihoodGradients(value, d_parameters, pull * z / spread, np.zeros_like(z))


def _poisson(parameters: Array, target: Array, scale: Array) -> LikelihoodGradients:
    rate, count = parameters[..., 0], target * scale
    mean = rate * scale
    value = mean - count * np.log(mean) + special.gammaln(count + 1.0)
    d_mean = 1.0 - count / mean
    d_count = special.psi(count + 1.0) - np.log(mean)
    return LikelihoodGradients(value, (d_mean * scale)[..., None], d_count * scale, d_mean * rate + d_count * target)


def _negative_binomial(parameters: Array, target: Array, scale: Array) -> LikelihoodGradients:
    rate, a, count = parameters[..., 0], parameters[..., 1], target * scale
    mean, r = rate * scale, 1.0 / a
    value = (count + r) * np.log1p(a * mean) - count * np.log(a * mean)
    value -= special.gammaln(count + r) - special.gammaln(count + 1.0) - special.gammaln(r)
    d_mean = (count + r) * a / (1.0 + a * mean) - count / mean
    d_r = np.log1p(a * mean) - special.psi(count + r) + special.psi(r)
    d_a = (count + r) * mean / (1.0 + a * mean) - count / a - d_r / a**2
    d_count = np.log1p(a * mean) - np.log(a * mean) - special.psi(count + r) + special.psi(count + 1.0)
    d_parameters = np.stack((d_mean * scale, d_a), axis=-1)
    return LikelihoodGradients(value, d_parameters, d_count * scale, d_mean * rate + d_count * target)


_FAMILIES: dict[DistributionName, Callable[[Array, Array, Array], LikelihoodGradients]] = {
    "normal": _normal,
    "student_t": _student_t,
    "poisson": _poisson,
    "negative_binomial": _negative_binomial,
}
