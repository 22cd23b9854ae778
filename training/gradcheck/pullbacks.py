"""The pieces around the recurrence, each with its derivative by hand: matrix products, quantile head, losses.

Every function returns its value and its *pullback*: what turns the derivative with respect to the value into derivatives
with respect to the arguments. Running the pullbacks in reverse order is backpropagation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from training.config import LossName
from training.gradcheck.cells import Array, sigmoid
from training.losses import FREQUENCY_SHARE, HUBER_DELTA

# Beyond this torch takes softplus(x) = x; the derivative it leaves out is 2e-9, twenty times the tolerance of the check.
SOFTPLUS_LINEAR = 20.0


class AffineGradients(NamedTuple):
    """Derivatives of `x W^T + b` with respect to its arguments."""

    x: Float[Array, "... I"]
    weight: Float[Array, "O I"]
    bias: Float[Array, " O"]


def affine(
    x: Float[Array, "... I"], weight: Float[Array, "O I"], bias: Float[Array, " O"] | float = 0.0
) -> tuple[Float[Array, "... O"], Callable[[Float[Array, "... O"]], AffineGradients]]:
    """x W^T + b; the pullback sums the weight's derivative over all leading axes."""

    def pullback(d_y: Float[Array, "... O"]) -> AffineGradients:
        leading = tuple(range(x.ndim - 1))
        return AffineGradients(d_y @ weight, np.tensordot(d_y, x, (leading, leading)), d_y.sum(axis=leading))

    return x @ weight.T + bias, pullback


def relu(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Callable[[Array], Array]]:
    """max(x, 0); the pullback passes where x > 0."""
    return np.maximum(x, 0.0), lambda d_y: d_y * (x > 0.0)


def non_crossing(raw: Float[Array, "B H Q"], center: int) -> tuple[Float[Array, "B H Q"], Callable[[Array], Array]]:
    """Quantiles that never cross: the center as it is, the others a softplus further away each.

    Args:
        raw: Unconstrained outputs.
        center: Position that stays untouched.

    Returns:
        Values non-decreasing along Q. A step between two levels moves every level beyond it, so its derivative is the
        sum of theirs, times softplus' = sigma.
    """
    steps = np.where(raw > SOFTPLUS_LINEAR, raw, np.logaddexp(0.0, raw))
    slopes = np.where(raw > SOFTPLUS_LINEAR, 1.0, sigmoid(raw))
    below, above = steps[..., :center], steps[..., center + 1 :]
    middle = raw[..., center : center + 1]
    down = middle - np.flip(np.cumsum(np.flip(below, -1), -1), -1)
    up = middle + np.cumsum(above, -1)

    def pullback(d_y: Array) -> Array:
        d_raw = np.zeros_like(raw)
        d_raw[..., :center] = -np.cumsum(d_y[..., :center], -1) * slopes[..., :center]
        d_raw[..., center] = d_y.sum(-1)
        beyond = np.flip(np.cumsum(np.flip(d_y[..., center + 1 :], -1), -1), -1)
        d_raw[..., center + 1 :] = beyond * slopes[..., center + 1 :]
        return d_raw

    return np.concatenate((down, middle, up), axis=-1), pullback


class ScaledTarget(NamedTuple):
    """What a scaled forecast is compared with.

    Attributes:
        target: Future values in the unit of `y`.
        mask: True where observed.
        scale_floor: Smallest unit of an error, in the unit of `y`.
    """

    target: Float[Array, "B H"]
    mask: Bool[NDArray[np.bool_], "B H"]
    scale_floor: Float[Array, "B 1"]


class LossGradients(NamedTuple):
    """Derivatives of the loss with respect to the forecast and to the window's level and scale."""

    prediction: Float[Array, "B H Q"]
    loc: Float[Array, "B 1"]
    scale: Float[Array, "B 1"]


def masked_loss(
    name: LossName,
    levels: tuple[float, ...],
    prediction: Float[Array, "B H Q"],
    loc: Float[Array, "B 1"],
    scale: Float[Array, "B 1"],
    truth: ScaledTarget,
) -> tuple[float, LossGradients]:
    """Mean loss over the observed targets, and its derivatives.

    Every loss is a function of the error e = p s/u - (y - l)/u alone, with prediction p, level l, scale s and unit
    u = max(s, floor); for `mse`, `huber` and `frequency` u is the series' spread, a hundred floors. With g = loss'(e):
    dp = g s/u, dl = g/u, ds = g p/u, du = -g e/u; and du joins ds where u is s.

    Args:
        name: `quantile`, `mae`, `mse`, `huber` or `frequency`.
        levels: Quantile levels along Q.
        prediction: Forecast in units of `scale` around `loc`.
        loc: Level of each window.
        scale: Scale of each window.
        truth: What is compared with.

    Returns:
        The loss and its derivatives.
    """
    is_in_spread = name in ("mse", "huber", "frequency")
    unit = 100.0 * truth.scale_floor if is_in_spread else np.maximum(scale, truth.scale_floor)
    known = np.where(truth.mask, truth.target, loc)
    error = prediction * (scale / unit)[..., None] - ((known - loc) / unit)[..., None]
    value, slope = _pointwise("huber" if name == "frequency" else name, np.asarray(levels), error)
    if name == "frequency":
        size, size_slope = _fourier(error[..., 0] * truth.mask, truth.mask.sum(axis=1, keepdims=True))
        value = (1.0 - FREQUENCY_SHARE) * value + FREQUENCY_SHARE * size[..., None]
        slope = (1.0 - FREQUENCY_SHARE) * slope + FREQUENCY_SHARE * size_slope[..., None]
    weight = truth.mask[..., None] / (max(truth.mask.sum(), 1) * prediction.shape[-1])
    g, column = slope * weight, unit[..., None]
    d_loc = (g / column).sum(axis=(1, 2))[:, None]
    d_scale = (g * prediction / column).sum(axis=(1, 2))[:, None]
    d_unit = -(g * error / column).sum(axis=(1, 2))[:, None]
    if not is_in_spread:
        d_scale = d_scale + d_unit * (scale > truth.scale_floor)
    return float((value * weight).sum()), LossGradients(g * (scale / unit)[..., None], d_loc, d_scale)


def _fourier(error: Float[Array, "B H"], count: Float[Array, "B 1"]) -> tuple[Array, Array]:
    """Mean size of the K coefficients c_k = H^-1/2 sum_t e_t exp(-2 pi i k t / H), for every step, and its slope.

    d|c_k|/de_t = Re(conj(c_k)/|c_k| exp(-2 pi i k t / H)) / sqrt(H); every one of `count` steps has the same size, and
    the sum over them depends on each error.
    """
    horizon = error.shape[1]
    steps = np.arange(horizon)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(horizon // 2 + 1), steps) / horizon) / np.sqrt(horizon)
    coefficients = error @ waves.T
    size = np.abs(coefficients)
    direction = np.conj(coefficients) / np.where(size > 0, size, 1.0)
    slope = (direction @ waves).real / len(waves)
    return np.repeat(size.mean(axis=1, keepdims=True), horizon, axis=1), slope * count


def _pointwise(name: LossName, levels: Float[Array, " Q"], error: Float[Array, "B H Q"]) -> tuple[Array, Array]:
    """Loss and its slope for every error (forecast minus truth)."""
    if name == "quantile":
        # Too low costs the level, too high costs its complement.
        slope = np.where(error < 0.0, -2.0 * levels, 2.0 * (1.0 - levels))
        return slope * error, slope
    if name == "mse":
        return error**2, 2.0 * error
    if name == "huber":
        clipped = np.clip(error, -HUBER_DELTA, HUBER_DELTA)
        return clipped * (error - 0.5 * clipped), clipped
    return np.abs(error), np.sign(error)
