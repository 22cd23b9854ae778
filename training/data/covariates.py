"""Covariate columns of a frame as float32 channels: numbers as they are, text as one 0/1 channel per category."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.columns import Columns
from training.config import DataConfig
from training.data.rows import place
from training.errors import MAX_SHOWN, DataError, Problem

MAX_CATEGORIES = 64
ROLES = ("futr_exog", "hist_exog", "stat_exog")


def missing_columns(frame: pd.DataFrame, columns: DataConfig | Columns) -> list[Problem]:
    """One problem for each covariate that the frame lacks."""
    problems = []
    for role in ROLES:
        for name in getattr(columns, role):
            if name not in frame.columns:
                have = [str(column) for column in frame.columns if column not in ("unique_id", "ds", "y")]
                some = ", ".join(repr(column) for column in have[:MAX_SHOWN]) or "no other columns"
                more = f" and {len(have) - MAX_SHOWN} more" if len(have) > MAX_SHOWN else ""
                message = f"names column {name!r}, which the data does not have; it has {some}{more}."
                problems.append(
                    Problem("covariate_missing", f"data.{role}", message, "Correct the name, or add the column.")
                )
    return problems


@dataclass(frozen=True)
class EncodedColumn:
    """One covariate before it is put on the grid.

    Attributes:
        name: Column of the frame.
        codes: Category of each row: -1 missing, -2 unseen in training; None for numbers.
        numbers: Value of each row, NaN where missing; None for text.
        width: Channels it becomes.
    """

    name: str
    codes: NDArray[np.int64] | None
    numbers: NDArray[np.float32] | None
    width: int

    @property
    def is_missing(self) -> NDArray[np.bool_]:
        """True for rows without a value."""
        if self.codes is not None:
            return self.codes == -1
        assert self.numbers is not None
        return np.isnan(self.numbers)

    def channels(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Channels (R, width) of the chosen rows; row -1 stands for a missing value: zeros for text, NaN for numbers."""
        if self.codes is None:
            assert self.numbers is not None
            if not len(self.numbers):
                return np.full((len(rows), 1), np.nan, np.float32)
            return np.where(rows >= 0, self.numbers[rows], np.float32(np.nan))[:, None]
        if not len(self.codes):
            return np.zeros((len(rows), self.width), np.float32)
        codes = np.where(rows >= 0, self.codes[rows], -1)
        return (codes[:, None] == np.arange(self.width)).astype(np.float32)


def is_text(column: pd.Series) -> bool:
    """Whether a covariate is categorical: neither numbers nor true and false, nor a column without any value."""
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        return False
    values = column.dropna()
    return not all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in values.unique())


def build_vocabulary(column: pd.Series, is_training: NDArray[np.bool_]) -> tuple[str, ...]:
    """Categories that occur in training rows, in alphabetical order.

    Raises:
        DataError: If there are too many to be categories.
    """
    found = sorted({str(value) for value in column[is_training].dropna().unique()})
    if len(found) <= MAX_CATEGORIES:
        return tuple(found)
    numbers = pd.to_numeric(pd.Series(found), errors="coerce")
    if numbers.notna().mean() > 0.5:
        bad = str(pd.Series(found)[numbers.isna()].iloc[0])
        message = f"holds numbers, but also text such as {bad[:40]!r}."
        remedy = "Replace the text by empty fields."
    else:
        message = f"has {len(found)} different texts, more than {MAX_CATEGORIES} categories."
        remedy = "Group the rare ones, turn the column into numbers, or leave it out."
    raise DataError([Problem("covariate_categories", f"column {column.name!r}", message, remedy)])


def encode_column(column: pd.Series, categories: tuple[str, ...] | None, frame: pd.DataFrame) -> EncodedColumn:
    """Read one covariate with the vocabulary of training.

    Args:
        column: Values by frame row.
        categories: Vocabulary, or None for a column of numbers.
        frame: Where the column comes from, to name rows.

    Raises:
        DataError: If a column of numbers holds text or infinities.
    """
    name = str(column.name)
    if categories is not None:
        return EncodedColumn(name, _category_codes(column, categories), None, len(categories))
    numbers = pd.to_numeric(column, errors="coerce") if column.dtype == object or is_text(column) else column
    values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.isnan(values) & column.notna().to_numpy()
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    bad |= np.isinf(narrow)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        message = f"must hold finite numbers, but {int(bad.sum())} row(s) do not, first on {place(frame, row)}."
        remedy = "Replace them by numbers or empty fields."
        raise DataError([Problem("covariate_not_numeric", f"column {name!r}", message, remedy)])
    return EncodedColumn(name, None, narrow, 1)


def _category_codes(column: pd.Series, categories: tuple[str, ...]) -> NDArray[np.int64]:
    codes, uniques = pd.factorize(column)
    known = {category: code for code, category in enumerate(categories)}
    table = np.array([*(known.get(_category_name(value, known), -2) for value in uniques), -1], np.int64)
    return table[codes]


def _category_name(value: object, known: Mapping[str, int]) -> str:
    text = str(value)
    return str(int(value)) if text not in known and isinstance(value, float) and value.is_integer() else text


def unseen_notes(column: EncodedColumn) -> list[str]:
    """Say that categories of a column were not part of training."""
    count = 0 if column.codes is None else int((column.codes == -2).sum())
    return (
        [f"{column.name}: {count} row(s) hold a category unseen in training; all its channels are 0"] if count else []
    )


def last_seen(is_missing: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every row of the store the newest row of its series, itself included, that has a value; -1 where none has."""
    rows = np.where(is_missing, -1, np.arange(len(is_missing), dtype=np.int64))
    np.maximum.accumulate(rows, out=rows)
    rows[rows < np.repeat(offsets[:-1], np.diff(offsets))] = -1
    return rows
