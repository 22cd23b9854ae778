"""Which quantiles a request wants, and how they are read off the trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import FieldProblem, ProblemError
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

    def read(self, quantiles: NDArray[np.float32], trained: tuple[float, ...]) -> list[NDArray[np.float32]]:
        """Values (B, H) per key, from quantiles (B, Q, H) at the trained levels.

        A trained level is a view of its row: nothing is copied.
        """
        if all(level in trained for level in self.wanted):
            return [quantiles[:, trained.index(level)] for level in self.wanted]
        with np.errstate(invalid="ignore"):  # a forecast that overflowed is refused by the caller
            values = interpolate_levels(np.moveaxis(quantiles, 1, -1), trained, self.wanted)
        return list(np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32))


def build_levels(
    level: Sequence[float] | None, quantiles: Sequence[float] | None, trained: tuple[float, ...]
) -> Levels:
    """Decide on the outputs of a request.

    Args:
        level: Central intervals in percent; None = none.
        quantiles: Quantile levels; None = the trained ones.
        trained: Levels of the network, increasing.

    Raises:
        ProblemError: `level_unavailable`, naming what there is.
    """
    return _build_levels(tuple(level or ()), trained if quantiles is None else tuple(quantiles), trained)


@lru_cache(256)  # clients ask for the same few again and again
def _build_levels(intervals: tuple[float, ...], quantiles: tuple[float, ...], trained: tuple[float, ...]) -> Levels:
    # A network without a median serves the closest it can.
    keys, wanted = ["mean"], [min(max(0.5, trained[0]), trained[-1])]
    fields: list[FieldProblem] = []
    for index, level in enumerate(dict.fromkeys(intervals)):
        pair = (round(0.5 - level / 200, _DIGITS), round(0.5 + level / 200, _DIGITS))
        keys += [f"lo-{level:g}", f"hi-{level:g}"]
        wanted += pair
        if not all(_is_inside(quantile, trained) for quantile in pair):
            fields.append(FieldProblem(f"level.{index}", "level_unavailable", _available(trained)))
    num_intervals = len(keys) - 1
    for index, quantile in enumerate(dict.fromkeys(quantiles)):
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
