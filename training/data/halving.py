"""Finds the series that spoil a table: what refuses the whole is tried again with half of the series."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pandas as pd

from training.errors import DataError, Problem

T = TypeVar("T")


def try_series(
    frame: pd.DataFrame, attempt: Callable[[pd.DataFrame], T], max_refused: int
) -> tuple[list[T], list[tuple[str, Problem]]]:
    """Do something with a table, without the series that make it impossible.

    Args:
        frame: Rows with a column `unique_id`.
        attempt: Raises `DataError` if something is wrong with a series.
        max_refused: Series to do without at most.

    Returns:
        Results, of the whole table or of parts of it in order; and the series left out, each with its first problem.

    Raises:
        DataError: If more series would have to be left out.
    """
    results: list[T] = []
    refused: list[tuple[str, Problem]] = []
    waiting = [frame]
    while waiting:
        rows = waiting.pop()
        try:
            results.append(attempt(rows))
        except DataError as error:
            codes, names = pd.factorize(rows["unique_id"], use_na_sentinel=False)
            if len(names) > 1:
                waiting += [rows[codes >= len(names) // 2], rows[codes < len(names) // 2]]
                continue
            if len(refused) == max_refused:
                raise
            refused.append((str(names[0]), error.problems[0]))
    return results, refused


def absent_series(frame: pd.DataFrame, ids: tuple[str, ...]) -> list[str]:
    """Series of a table that are not among `ids`."""
    names = pd.unique(frame["unique_id"])
    return [] if len(names) == len(ids) else sorted(set(np.asarray(names, dtype=str)) - set(ids))
