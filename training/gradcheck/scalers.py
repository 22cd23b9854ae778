"""The derivatives of every window scaler, by hand.

A scaler turns a window into one level and one spread, so each of them has exactly one derivative per past value.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from models.config import ScalerName
from models.scaling import NORMAL_IQR, RELATIVE_FLOOR, ROBUST_FLOOR
from training.gradcheck.cells import Array


class WindowStatistics(NamedTuple):
    """Level and spread of every window, and how they move with each of its values.

    Attributes:
        loc: Level, in the unit of `y`.
        scale: Spread, in the unit of `y`.
        d_loc: Derivative of the level with respect to each value, 0 where not observed.
        d_scale: Derivative of the spread with respect to each value, 0 where not observed.
    """

    loc: Float[Array, "B 1"]
    scale: Float[Array, "B 1"]
    d_loc: Float[Array, "B L"]
    d_scale: Float[Array, "B L"]


def window_statistics(
    name: ScalerName, context: Float[Array, "B L"], observed: Bool[NDArray[np.bool_], "B L"]
) -> WindowStatistics:
    """Level, spread and derivatives of the scaler of that name.

    Args:
        name: The scaler.
        context: Windows in the unit of `y`.
        observed: True where a value is real; at least one in every window.

    Returns:
        Statistics of every window.

    Raises:
        ValueError: If a window is so nearly constant that its scale is floored: there the derivative is another one.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant window is refused below
        rows = [_ROWS[name](values[seen]) for values, seen in zip(context, observed, strict=True)]
    d_loc, d_scale = np.zeros_like(context), np.zeros_like(context)
    for index, (seen, row) in enumerate(zip(observed, rows, strict=True)):
        d_loc[index, seen], d_scale[index, seen] = row.d_loc, row.d_scale
        if name != "none" and row.scale <= RELATIVE_FLOOR * np.abs(context[index, seen]).max():
            raise ValueError(f"window {index} must have a spread, but is nearly constant instead")
    loc, scale = np.array([[row.loc] for row in rows]), np.array([[row.scale] for row in rows])
    return WindowStatistics(loc, scale, d_loc, d_scale)


class _Row(NamedTuple):
    loc: float
    scale: float
    d_loc: Float[Array, " N"]
    d_scale: Float[Array, " N"]


def _standard(x: Float[Array, " N"]) -> _Row:
    """m = mean x; s = sqrt(mean (x - m)^2), so ds/dx_k = (x_k - m) / (N s): the term through m sums to zero."""
    mean, deviation = float(x.mean()), float(x.std())
    return _Row(mean, deviation, np.full_like(x, 1.0 / x.size), (x - mean) / (x.size * deviation))


def _mean_abs(x: Float[Array, " N"]) -> _Row:
    return _Row(0.0, float(np.abs(x).mean()), np.zeros_like(x), np.sign(x) / x.size)


def _last(x: Float[Array, " N"]) -> _Row:
    """The last value moves every distance to it, each against its sign."""
    last, signs = float(x[-1]), np.sign(x - x[-1])
    is_last = np.zeros_like(x)
    is_last[-1] = 1.0
    return _Row(last, float(np.abs(x - last).mean()), is_last, (signs - is_last * signs.sum()) / x.size)


def _offset(x: Float[Array, " N"]) -> _Row:
    return _last(x)._replace(scale=1.0, d_scale=np.zeros_like(x))


def _robust(x: Float[Array, " N"]) -> _Row:
    """A quantile between two order statistics moves with these two alone."""
    levels = np.stack([_quantile_weights(x, level) for level in (0.25, 0.5, 0.75)])
    low, median, high = levels @ x
    standard = _standard(x)
    if (high - low) / NORMAL_IQR >= ROBUST_FLOOR * standard.scale:
        return _Row(float(median), float((high - low) / NORMAL_IQR), levels[1], (levels[2] - levels[0]) / NORMAL_IQR)
    return _Row(float(median), ROBUST_FLOOR * standard.scale, levels[1], ROBUST_FLOOR * standard.d_scale)


def _quantile_weights(x: Float[Array, " N"], level: float) -> Float[Array, " N"]:
    order, position = np.argsort(x), level * (x.size - 1)
    below, above = int(np.floor(position)), int(np.ceil(position))
    weights = np.zeros_like(x)
    weights[order[below]] += 1.0 - (position - below)
    weights[order[above]] += position - below
    return weights


def _none(x: Float[Array, " N"]) -> _Row:
    return _Row(0.0, 1.0, np.zeros_like(x), np.zeros_like(x))


# RevIN scales like `standard`; its learned gain and shift stand in `training.gradcheck.forecasters`.
_ROWS = {
    "standard": _standard,
    "mean_abs": _mean_abs,
    "robust": _robust,
    "last": _last,
    "offset": _offset,
    "revin": _standard,
    "none": _none,
}
