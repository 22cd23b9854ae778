"""The panel: many series in one contiguous float32 store. Windows are gathered from it by index."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Container
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.columns import Columns
from training.config import FillPolicy
from training.data.calendar_features import build_calendar
from training.data.steps import Frequency, parse_frequency
from training.data.timestamps import TimeKind, as_times


class Storage:
    """A temporary directory for memory-mapped arrays, removed when the last panel that uses it is gone."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gradcast-panel-"))
        weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Panel:
    """Many series on a regular grid, from the first to the last observed value of each.

    Rows of a series lie together; row `i` of series `n` is row `offsets[n] + i` of the store and `starts[n]` plus `i`
    steps in time. Steps that the file lacks are rows with `observed` False. Rows before the first and after the last
    observed value are no part of the store: a forecast starts after the last value really seen. Known-future
    covariates of later rows are kept in `future_extra`.

    Attributes:
        ids: Series names.
        offsets: First row of each series in the store, and the end (N + 1).
        values: `y`, in its own unit; 0 where missing.
        observed: True where `y` is real.
        filled: True where `values` holds a guess (fill ffill or linear): context for the network, never a target;
            None if nothing is guessed.
        fill: How missing targets were filled.
        covariates: Channels of the known-future columns, then of the past-only ones, without the calendar (T, K).
        covariate_fill: Value per channel used before a covariate is first seen: its mean over training rows (K,).
        static: Channels of the static columns (N, S).
        future_extra: Known-future channels of the steps after the last row (N, E, K of the known-future columns).
        num_future: Steps after the last row of each series for which every known-future column has a value (N,).
        calendar: Calendar channels of all steps of all series, shared where series overlap (G, C).
        calendar_start: Row of `calendar` at which each series starts (N,).
        horizon: Rows that `calendar` goes on past the end of every series.
        starts: First timestamp per series (datetime64[us], UTC where `timezone` is given; or int64).
        freq: Step between rows: a pandas offset alias, or a number for integer time.
        season_length: Steps per season.
        time_kind: Dates or integers.
        timezone: Zone in which timestamps are shown and calendar features computed; None for times without offset.
        columns: Names and roles of the covariates.
        target: Name of `y` in the file.
        notes: What was decided, dropped or left out, to be said aloud.
        storage: Keeps the files of memory-mapped arrays alive.
    """

    ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    values: NDArray[np.float32]
    observed: NDArray[np.bool_]
    filled: NDArray[np.bool_] | None
    fill: FillPolicy
    covariates: NDArray[np.float32]
    covariate_fill: NDArray[np.float32]
    static: NDArray[np.float32]
    future_extra: NDArray[np.float32]
    num_future: NDArray[np.int64]
    calendar: NDArray[np.float32]
    calendar_start: NDArray[np.int64]
    horizon: int
    starts: NDArray[np.generic]
    freq: str
    season_length: int
    time_kind: TimeKind
    timezone: str | None
    columns: Columns
    target: str
    notes: tuple[str, ...] = ()
    storage: Storage | None = None

    @property
    def num_series(self) -> int:
        """Number of series N."""
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Rows of each series (N,)."""
        return np.diff(self.offsets)

    @property
    def num_future_channels(self) -> int:
        """Channels of `covariates` that are known into the future."""
        return self.future_extra.shape[2]

    @cached_property
    def frequency(self) -> Frequency:
        """The step between rows, ready for arithmetic."""
        return parse_frequency(self.freq)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of everything a network can learn from: equal data has equal fingerprints, whatever the file format."""
        digest = hashlib.sha256()
        digest.update("\x00".join(self.ids).encode())
        # Numbers of series are no data; data without holidays keeps the fingerprint that it had before there were any.
        unused = {"series"} if self.columns.holidays else {"series", "holidays"}
        digest.update(f"|{self.freq}|{self.timezone}|{self.columns.model_dump_json(exclude=unused)}|".encode())
        for array in (
            self.offsets,
            self.starts.view(np.int64),
            self.values,
            self.observed,
            self.covariates,
            self.static[:, : len(self.columns.static_features)],
        ):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def timestamps(self, series_index: int, start: int, stop: int) -> pd.DatetimeIndex | NDArray[np.int64]:
        """Timestamps of the rows `start .. stop - 1` of a series; rows beyond its end are its future."""
        first = int(self.starts.view(np.int64)[series_index])
        return as_times(self.frequency.range(first, start, stop), self.time_kind, self.timezone)

    def series_without_future(self, horizon: int) -> tuple[str, ...]:
        """Series that lack a known-future covariate for one of the next `horizon` steps; their last value is repeated."""
        if not self.columns.futr_exog:
            return ()
        return tuple(self.ids[i] for i in np.flatnonzero(self.num_future < horizon))

    def numbered(self, excluded: Container[str] = ()) -> Panel:
        """The same panel with the number of every series as its last static channel, so that each can have a vector.

        Args:
            excluded: Series that are not trained on: theirs is 0.
        """
        columns = self.columns.model_copy(update={"series": tuple(name for name in self.ids if name not in excluded)})
        numbers = np.array(columns.series_numbers(self.ids), np.float32)
        return replace(self, columns=columns, static=np.column_stack((self.static, numbers)))

    def extended(self, horizon: int) -> Panel:
        """The same panel with calendar rows for at least `horizon` steps past the end of every series."""
        if horizon <= self.horizon or not self.columns.calendar:
            return self
        starts = self.starts.view(np.int64)
        calendar, first = build_calendar(
            self.columns.calendar, self.frequency, starts, self.lengths, horizon, self.timezone, self.columns.holidays
        )
        return replace(self, calendar=calendar, calendar_start=first, horizon=horizon)
