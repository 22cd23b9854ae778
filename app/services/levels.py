"""Which quantiles a request wants, and how they are read off the trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import FieldProblem, ProblemError
from app.schemas.forecast import ForecastRequest
from training.forecasting import interpolate_levels

# 0.5 - 80 / 200 is 0.09999999999999998; ten digits bring back the level the user means.
_DIGITS = 10
_TOLERANCE = 1e-9


class Levels(NamedTuple):
    """Outputs by their key in the response.

    Attributes:
        keys: `mean`, then `lo-80`, `hi-80`, ..., then quantile levels as text.
        wanted: Quantile level of each key.
        num_intervals: Keys that belong to `intervals`.
    """

    keys: tuple[str, ...]
    wanted: tuple[float, ...]
    num_intervals: int

    def read(self, quantiles: NDArray[np.float32], trained: Sequence[float]) -> NDArray[np.float32]:
        """Values per key (K, B, H), from quantiles (B, H, Q) at the trained levels."""
        with np.errstate(invalid="ignore"):  # a forecast that overflowed is refused by the caller
            values = interpolate_levels(quantiles, trained, self.wanted)
        return np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32)


def build_levels(request: ForecastRequest, trained: Sequence[float]) -> Levels:
    """Decide on the outputs of a request.

    Args:
        request: Its `level` and `quantiles`.
        trained: Levels of the network, increasing.

    Raises:
        ProblemError: `level_unavailable`, naming what there is.
    """
    # A network without a median serves the closest it can.
    keys, wanted = ["mean"], [min(max(0.5, trained[0]), trained[-1])]
    fields: list[FieldProblem] = []
    for index, level in enumerate(dict.fromkeys(request.level or ())):
        pair = (round(0.5 - level / 200, _DIGITS), round(0.5 + level / 200, _DIGITS))
        keys += [f"lo-{level:g}", f"hi-{level:g}"]
        wanted += pair
        if not all(_is_inside(quantile, trained) for quantile in pair):
            fields.append(FieldProblem(f"level.{index}", "level_unavailable", _available(trained)))
    num_intervals = len(keys) - 1
    for index, quantile in enumerate(dict.fromkeys(trained if request.quantiles is None else request.quantiles)):
        keys.append(f"{quantile:g}")
        wanted.append(quantile)
        if not _is_inside(quantile, trained):
            fields.append(FieldProblem(f"quantiles.{index}", "level_unavailable", _available(trained)))
    if fields:
        raise ProblemError("level_unavailable", _available(trained), fields)
    return Levels(tuple(keys), tuple(wanted), num_intervals)


def _is_inside(quantile: float, trained: Sequence[float]) -> bool:
    return trained[0] - _TOLERANCE <= quantile <= trained[-1] + _TOLERANCE


def _available(trained: Sequence[float]) -> str:
    levels = ", ".join(f"{level:g}" for level in trained[:20]) + (", ..." if len(trained) > 20 else "")
    widest = round(100 * min(1 - 2 * trained[0], 2 * trained[-1] - 1), 6)
    intervals = f"level up to {widest:g}" if widest > 0 else "no interval"
    return f"The model was trained for the quantiles {levels}: it has {intervals}, and quantiles between the outermost."
