"""Covariates of a request as float32 channels: numbers as they are, text as one 0/1 channel per category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.schemas.forecast import SeriesRequest
from app.services.series_error import SeriesError
from models.columns import Columns
from models.forecaster import Forecaster

if TYPE_CHECKING:
    from app.services.encoding import History, Warnings

ROLES = ("futr_exog", "hist_exog", "stat_exog")
FLOAT32_MAX = float(np.finfo(np.float32).max)
_MISSING, _UNSEEN = -1, -2


class ChannelReader:
    """Reads covariates with the vocabulary and the means of training.

    Args:
        columns: Roles and vocabulary.
        forecaster: Holds the mean of every channel, which stands for what was never seen.
    """

    def __init__(self, columns: Columns, forecaster: Forecaster) -> None:
        self._columns = columns
        self._codes = {
            name: {category: code for code, category in enumerate(categories)}
            for name, categories in columns.categories.items()
        }
        features = columns.past_features
        means = forecaster.past_loc.detach().float().numpy()
        static = forecaster.static_loc.detach().float().numpy()
        self._static_means = {name: np.float32(static[index]) for index, name in enumerate(columns.static_features)}
        self._means = {feature: np.float32(means[index]) for index, feature in enumerate(features)}

    def validate_names(self, series: SeriesRequest, path: str, is_known: bool = False) -> None:
        """Refuse covariates that the model does not read, and the absence of those it does.

        Args:
            series: The series.
            path: Its place in the request.
            is_known: Whether its past is stored, so that the known future alone is due.

        Raises:
            SeriesError: `covariate_unknown` or `covariate_missing`.
        """
        for role in ROLES:
            wanted, given = getattr(self._columns, role), getattr(series, role)
            for name in given:
                if name not in wanted:
                    reads = ", ".join(wanted[:5]) + (" ..." if len(wanted) > 5 else "") or "none"
                    message = f"The model does not read this covariate; its {role} are: {reads}."
                    raise SeriesError("covariate_unknown", f"{path}.{role}.{name[:64]}", message)
            for name in wanted if role == "futr_exog" or not is_known else ():
                if name not in given:
                    raise SeriesError("covariate_missing", f"{path}.{role}.{name}", "The model reads this covariate.")

    def validate_lengths(
        self, covariates: Mapping[str, Sequence[object]], path: str, limits: tuple[int, int], what: str
    ) -> None:
        """Refuse arrays that do not fit.

        Raises:
            SeriesError: `length_mismatch`.
        """
        low, high = limits
        for name, values in covariates.items():
            if not low <= len(values) <= high:
                need = f"{low} values" if low == high else f"{low} to {high} values"
                message = f"It must cover {what}: {need}, but has {len(values)}."
                raise SeriesError("length_mismatch", f"{path}.{name}", message)

    def read_target(self, values: Sequence[float | None], path: str) -> NDArray[np.float32]:
        """Values of `y` as float32, NaN where null.

        Raises:
            SeriesError: `value_out_of_range` beyond float32.
        """
        return _narrow(np.array(values, np.float64), path)

    def read_numbers(self, values: Sequence[object], path: str) -> NDArray[np.float32]:
        """Numbers as float32, NaN where null.

        Raises:
            SeriesError: `covariate_invalid` for text, `value_out_of_range` beyond float32.
        """
        try:
            wide = np.array(values, dtype=np.float64) if len(values) else np.zeros(0)
        except (ValueError, TypeError):
            wide = None
        if wide is None or any(type(value) is str for value in values):
            index = next(index for index, value in enumerate(values) if isinstance(value, str))
            raise SeriesError("covariate_invalid", f"{path}.{index}", "The model reads numbers here, not text.")
        return _narrow(wide, path)

    def read_futr(
        self, history: History, count: int, horizon: int, rows: NDArray[np.int64], path: str, warnings: Warnings
    ) -> NDArray[np.float32]:
        """Known-future channels of the window's rows.

        Args:
            history: The series.
            count: Its rows.
            horizon: Steps the network forecasts.
            rows: Row of each step of context and horizon.
            path: Place in the request.
            warnings: Receives what was filled.
        """
        blocks = [np.zeros((len(rows), 0), np.float32)]
        for name in self._columns.futr_exog:
            values = history.futr_exog[name]
            given = len(history.rows) if history.rows is not None else count
            past = np.arange(count) if history.rows is None else history.rows
            places = np.concatenate((past, count + np.arange(len(values) - given)))
            blocks.append(self._read(name, values, places, count + horizon, rows, path, warnings, len(values) - given))
        return np.concatenate(blocks, axis=1)

    def read_hist(
        self, history: History, count: int, rows: NDArray[np.int64], path: str, warnings: Warnings
    ) -> NDArray[np.float32]:
        """Past-only channels of the context's rows."""
        blocks = [np.zeros((len(rows), 0), np.float32)]
        places = np.arange(count) if history.rows is None else history.rows
        for name in self._columns.hist_exog:
            blocks.append(self._read(name, history.hist_exog[name], places, count, rows, path, warnings, 0))
        return np.concatenate(blocks, axis=1)

    def read_static(self, values: Mapping[str, object], path: str, warnings: Warnings) -> NDArray[np.float32]:
        """Static channels."""
        blocks = [np.zeros(0, np.float32)]
        for name in self._columns.stat_exog:
            codes = self._codes.get(name)
            if codes is None:
                number = self.read_numbers([values[name]], f"{path}.{name}")
                blocks.append(np.where(np.isnan(number), self._static_means[name], number).astype(np.float32))
                continue
            code = self._code(codes, values[name])
            if code == _UNSEEN:
                _warn_unseen(warnings, name)
            blocks.append((np.arange(len(codes)) == code).astype(np.float32))
        return np.concatenate(blocks)

    def _read(
        self,
        name: str,
        values: Sequence[object],
        places: NDArray[np.int64],
        size: int,
        rows: NDArray[np.int64],
        path: str,
        warnings: Warnings,
        num_future: int,
    ) -> NDArray[np.float32]:
        """Channels of one column at `rows`, each carried forward over what is missing."""
        codes = self._codes.get(name)
        if codes is None:
            column = np.full(size, np.nan, np.float32)
            column[places] = self.read_numbers(values, f"{path}.{name}")
            is_missing = np.isnan(column)
        else:
            encoded = np.array([self._code(codes, value) for value in values], np.int64)
            column = np.full(size, _MISSING, np.int64)
            column[places] = encoded
            is_missing = column == _MISSING
            if (column[rows] == _UNSEEN).any():
                _warn_unseen(warnings, name)
        # Steps after the last one asked for repeat it without a word: they do not reach the answer.
        last = size if not num_future else int(places[-1]) + 1
        if is_missing[rows[rows < last]].any():
            warnings["covariate_gaps"] = f"{name[:64]} has missing values; the last known one was carried on."
        newest = np.maximum.accumulate(np.where(is_missing, -1, np.arange(size)))[rows]
        filled = column[newest]
        if codes is None:
            known = np.where(newest >= 0, filled, self._means[name])
            return np.asarray(known[:, None], np.float32)
        filled = np.where(newest >= 0, filled, _MISSING)
        return np.asarray(filled[:, None] == np.arange(len(codes)), np.float32)

    @staticmethod
    def _code(codes: Mapping[str, int], value: object) -> int:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return _MISSING
        text = str(value)
        if text not in codes and isinstance(value, float) and value.is_integer():
            text = str(int(value))
        return codes.get(text, _UNSEEN)


def _warn_unseen(warnings: Warnings, name: str) -> None:
    warnings["category_unknown"] = f"{name[:64]} holds a category that training never saw; it reads as none."


def _narrow(wide: NDArray[np.float64], path: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        if wide.dot(wide) < FLOAT32_MAX:  # of whole and ordinary values, as most are: none can overflow
            return wide.astype(np.float32)
        narrow = wide.astype(np.float32)
    if np.isinf(narrow).any():
        index = int(np.isinf(narrow).argmax())
        raise SeriesError("value_out_of_range", f"{path}.{index}", "The number is beyond what float32 holds.")
    return narrow
