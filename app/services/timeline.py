"""A model's grid of time with a memory: the series of a panel, and clients of the same hour, share what was computed once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import orjson
from numpy.typing import NDArray

from app.services.series_error import SeriesError
from app.services.times import Grid
from training.data.calendar_features import NO_DATES
from training.data.holiday_dates import Dates, validate_years
from training.data.timestamps import wall_clock

MAX_REMEMBERED = 1024


class Timeline:
    """First timestamps, the timestamps of windows, and their texts.

    Args:
        grid: How the model counts time.
        holidays: Dates that the model's calendar reads; windows must lie in the years they are kept for.
    """

    def __init__(self, grid: Grid, holidays: Dates = NO_DATES) -> None:
        self.grid = grid
        self._holidays = holidays
        # Errors are not remembered, and arrays are handed out read-only.
        self._start = lru_cache(MAX_REMEMBERED)(self._parse_start)
        self._stamps = lru_cache(MAX_REMEMBERED)(self._compute_stamps)
        self._text = lru_cache(MAX_REMEMBERED)(self._render_text)
        self._validate_frequency = lru_cache(64)(self._check_frequency)

    def start(self, value: str | int, path: str) -> int:
        """First timestamp of a series, on the grid.

        Raises:
            SeriesError: `timestamps_invalid`, or `frequency_mismatch` if the grid has no such day.
        """
        try:
            return self._start(value)
        except SeriesError as error:
            raise _placed(error, path) from None

    def validate_frequency(self, alias: str, path: str) -> None:
        """Refuse a step that is not the model's.

        Raises:
            SeriesError: `frequency_mismatch`.
        """
        try:
            self._validate_frequency(alias)
        except SeriesError as error:
            raise _placed(error, path) from None

    def stamps(self, start: int, first: int, stop: int, path: str) -> NDArray[np.int64]:
        """Timestamps of the steps `first .. stop - 1` counted from `start`; not to be written to.

        Raises:
            SeriesError: `timestamps_invalid` if they leave the calendar, or the years of the model's holidays.
        """
        try:
            return self._stamps(start, first, stop)
        except SeriesError as error:
            raise _placed(error, path) from None

    def text(self, start: int, first: int, stop: int) -> orjson.Fragment:
        """The same timestamps as a JSON array."""
        return self._text(start, first, stop)

    def _parse_start(self, value: str | int) -> int:
        stamp = self.grid.parse(value, "")
        self.grid.positions(np.array([stamp], np.int64), "")
        return stamp

    def _check_frequency(self, alias: str) -> None:
        self.grid.validate_frequency(alias, "")

    def _compute_stamps(self, start: int, first: int, stop: int) -> NDArray[np.int64]:
        stamps = self.grid.stamps(start, first, stop, "")
        if self._holidays:
            problem = validate_years(wall_clock(stamps, self.grid.timezone), self._holidays)
            if problem is not None:
                raise SeriesError("timestamps_invalid", "", f"The series {problem.message}")
        stamps.flags.writeable = False
        return stamps

    def _render_text(self, start: int, first: int, stop: int) -> orjson.Fragment:
        return orjson.Fragment(orjson.dumps(self.grid.render(self._stamps(start, first, stop))))


def _placed(error: SeriesError, path: str) -> SeriesError:
    return SeriesError(error.code, f"{path}{error.path}", error.message)
