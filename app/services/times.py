"""Times of a request: ISO 8601 texts or integers in, steps on the model's grid, texts or integers out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.services.series_error import SeriesError
from models.bundle import BundleManifest
from training.data.steps import DAY, Frequency, parse_frequency
from training.data.timestamps import as_times
from training.errors import DataError

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  compared with times that carry no zone
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000
MAX_INTEGER = 2**53


class Grid(NamedTuple):
    """How a model counts time.

    Attributes:
        frequency: Step between rows.
        time_kind: Whether timestamps are microseconds or plain integers.
        timezone: Zone of the training timestamps, or None if they had none.
    """

    frequency: Frequency
    time_kind: str
    timezone: str | None

    @classmethod
    def of(cls, manifest: BundleManifest) -> Grid:
        """The grid of a bundle."""
        return cls(parse_frequency(manifest.freq), manifest.time_kind, manifest.timezone)

    def parse(self, value: str | int, path: str) -> int:
        """One timestamp as microseconds since 1970 (UTC where the model's times have a zone), or as the integer.

        Raises:
            SeriesError: `timestamps_invalid`.
        """
        if self.time_kind == "integer":
            if isinstance(value, str) or abs(value) > MAX_INTEGER:
                raise _invalid(path, "an integer, as in training")
            return value
        try:
            time = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            time = None
        if time is None:
            raise _invalid(path, "an ISO 8601 time, such as 2026-01-31T13:00:00")
        if time.tzinfo is not None and self._is_local:
            time = time.replace(tzinfo=None)
        if (time.tzinfo is None) != (self.timezone is None):
            need = "with a UTC offset" if self.timezone is not None else "without a UTC offset"
            raise _invalid(path, f"a time {need}, as in training")
        return int((time - (_EPOCH if time.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND)

    @property
    def _is_local(self) -> bool:
        """Whether days and more are counted on the local clock, as training does for times with offsets."""
        return self.timezone is None and (self.frequency.kind != "fixed" or self.frequency.step >= DAY)

    def validate_frequency(self, alias: str, path: str) -> None:
        """Refuse a step that is not the model's.

        Raises:
            SeriesError: `frequency_mismatch`.
        """
        try:
            given = parse_frequency(alias, path)
        except DataError:
            given = None
        mine = self.frequency
        anchors_differ = given is not None and None not in (given.anchor, mine.anchor) and given.anchor != mine.anchor
        if given is None or (given.kind, given.step) != (mine.kind, mine.step) or anchors_differ:
            raise SeriesError(
                "frequency_mismatch", path, f"freq must be {mine.alias}, the step the model was trained on."
            )

    def positions(self, stamps: NDArray[np.int64], path: str) -> NDArray[np.int64]:
        """Steps of timestamps counted from the first one.

        Raises:
            SeriesError: `timestamps_unordered`, or `frequency_mismatch` if they do not lie on one grid.
        """
        self._validate_anchor(stamps, path)
        backwards = np.flatnonzero(np.diff(stamps) <= 0)
        if len(backwards):
            raise SeriesError("timestamps_unordered", f"{path}.{backwards[0] + 1}", "ds must increase strictly.")
        units, rest = self.frequency.units(stamps)
        steps, remainder = np.divmod(units - units[0], self.frequency.step)
        off = np.flatnonzero((remainder != 0) | (rest != rest[0]))
        if len(off):
            message = f"ds must lie on a grid of {self.frequency.alias} from its first time on."
            raise SeriesError("frequency_mismatch", f"{path}.{off[0]}", message)
        return np.asarray(steps, np.int64)

    def stamps(self, start: int, first: int, stop: int, path: str) -> NDArray[np.int64]:
        """Timestamps of the steps `first .. stop - 1` counted from `start`.

        Raises:
            SeriesError: `timestamps_invalid` if they leave the years 1 to 9999.
        """
        stamps = self.frequency.range(start, first, stop)
        limits = (-MAX_INTEGER * 2, MAX_INTEGER * 2) if self.time_kind == "integer" else _DATE_LIMITS
        if stamps.min() < limits[0] or stamps.max() > limits[1]:
            raise _invalid(path, "far enough from the ends of the calendar for context and horizon")
        return stamps

    def _validate_anchor(self, stamps: NDArray[np.int64], path: str) -> None:
        if not self.frequency.fits_anchor(stamps).all():
            message = f"Times must lie on the days of {self.frequency.alias}, the step the model was trained on."
            raise SeriesError("frequency_mismatch", path, message)

    def parse_all(self, values: Sequence[str | int], path: str) -> NDArray[np.int64]:
        """Many timestamps; see `parse`."""
        return np.array([self.parse(value, f"{path}.{index}") for index, value in enumerate(values)], np.int64)

    def render(self, stamps: NDArray[np.int64]) -> list[str] | list[int]:
        """Timestamps as the response shows them: ISO 8601 in the model's zone, or integers."""
        if self.time_kind == "integer":
            return [int(stamp) for stamp in stamps]
        if self.timezone is not None:
            return [time.isoformat() for time in as_times(stamps, "datetime", self.timezone)]
        is_whole = not (stamps % _SECOND).any()
        texts: list[str] = np.datetime_as_string(stamps.view("M8[us]"), unit="s" if is_whole else "us").tolist()
        return texts


_DATE_LIMITS = (
    int((datetime(1, 1, 1) - _EPOCH) // _MICROSECOND),  # noqa: DTZ001
    int((datetime(9999, 12, 31) - _EPOCH) // _MICROSECOND),  # noqa: DTZ001
)


def _invalid(path: str, contract: str) -> SeriesError:
    return SeriesError("timestamps_invalid", path, f"The time must be {contract}.")
