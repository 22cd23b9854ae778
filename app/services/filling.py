"""Missing values of a request, filled the way the training data was."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.services.series_error import SeriesError
from training.config import FillPolicy
from training.data.assembly import fill_missing


def is_whole(values: NDArray[Any]) -> bool:
    """Whether every value is a number, found in one product: a missing or infinite one spoils it.

    Numbers whose squares overflow spoil it as well: a yes is certain, a no is a reason to look at each.
    """
    flat = values.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(flat.dot(flat) < np.inf)


class FilledValues(NamedTuple):
    """Values with what was filled in.

    Attributes:
        y: One value per row, NaN where the network is shown nothing.
        is_real: True where the value was given.
    """

    y: NDArray[np.float32]
    is_real: NDArray[np.bool_]


def fill_values(y: NDArray[np.float32], policy: FillPolicy, path: str) -> FilledValues:
    """Fill the gaps after the first given value; before it nothing is known, in training as here.

    Args:
        y: One value per row, NaN where missing.
        policy: How the training data was filled.
        path: Place in the request.

    Raises:
        SeriesError: `target_missing` if the model was trained to refuse gaps.
    """
    is_real = ~np.isnan(y)
    if policy == "mask" or is_real.all():
        return FilledValues(y, is_real)
    given = np.flatnonzero(is_real)
    if not len(given) or is_real[given[0] :].all():
        return FilledValues(y, is_real)
    if policy == "error":
        message = "The model was trained with data.fill: error; y must have no missing value after its first."
        raise SeriesError("target_missing", path, message)
    first, stop = int(given[0]), int(given[-1]) + 1
    filled = y.copy()
    inside = np.nan_to_num(y[first:stop])
    fill_missing(inside, is_real[first:stop].copy(), np.array([0, stop - first], np.int64), policy)
    filled[first:stop] = inside
    # What comes after the gap that the forecast starts in is not known: nothing to interpolate to.
    filled[stop:] = 0.0 if policy == "zero" else y[stop - 1]
    return FilledValues(filled, is_real)
