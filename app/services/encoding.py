"""From the series of a request to the windows a network reads, the way the training data was encoded.

The rules are those of `training.data`: one regular grid, missing targets masked, covariates carried forward, padding
before the first observation masked and with the first row's covariates. `tests` hold both to the same forecast. It is
written out in arrays, without a data frame, because a frame costs more than the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from app.schemas.forecast import SeriesRequest
from app.services.channels import ChannelReader
from app.services.context import ContextStore
from app.services.filling import fill_values, is_whole
from app.services.series_error import SeriesError
from app.services.timeline import Timeline
from app.services.times import Grid
from models.bundle import BundleManifest
from models.forecaster import Forecaster, ForecastInputs
from training.config import FillPolicy
from training.data.calendar_features import encode_calendar

# Stretches of time whose calendar is remembered.
MAX_CALENDARS = 256
_NO_ROWS = np.empty(0, np.int64)
_NO_VALUES = np.empty(0, np.float32)

Warnings = dict[str, str]
FILL_POLICY: TypeAdapter[FillPolicy] = TypeAdapter(FillPolicy)
Scalar = TypeVar("Scalar", np.float32, np.bool_)


class History(NamedTuple):
    """One series on the model's grid, before it is cut to the window.

    Attributes:
        start: Timestamp of the first row.
        y: One value per row, NaN where missing.
        rows: Row of each value as given; None if they are the rows themselves.
        futr_exog: Known-future values: one per given row, then per future step.
        hist_exog: Past-only values: one per given row.
        stat_exog: Static values.
    """

    start: int
    y: NDArray[np.float32]
    rows: NDArray[np.int64] | None
    futr_exog: Mapping[str, Sequence[object]]
    hist_exog: Mapping[str, Sequence[object]]
    stat_exog: Mapping[str, object]


@dataclass(frozen=True)
class EncodedSeries:
    """One window without its calendar.

    Attributes:
        context: Last L values, 0 where missing.
        observed: True where real.
        futr: Known-future channels of the rows (L + H, Kf).
        hist: Past-only channels (L, Kh).
        static: Static channels (S,).
        start: Timestamp of the series' first row.
        count: Rows of its past: the forecast begins with row `count`.
        stamps: Timestamps of the window's real rows, context and horizon.
        warnings: Message by code.
    """

    context: NDArray[np.float32]
    observed: NDArray[np.bool_]
    futr: NDArray[np.float32]
    hist: NDArray[np.float32]
    static: NDArray[np.float32]
    start: int
    count: int
    stamps: NDArray[np.int64]
    warnings: Warnings


class RequestEncoder:
    """Encodes series for one model.

    Args:
        manifest: The model's description.
        forecaster: The network, whose covariate means fill what was never seen.
        context: Stored rows of the series it was trained on.
        max_length: Steps of one series at most.
    """

    def __init__(
        self, manifest: BundleManifest, forecaster: Forecaster, context: ContextStore, max_length: int
    ) -> None:
        self.timeline = Timeline(Grid.of(manifest), manifest.columns.holidays)
        self.grid = self.timeline.grid
        self._network = manifest.network
        self._columns = manifest.columns
        self._timezone = manifest.timezone
        self._fill: FillPolicy = FILL_POLICY.validate_python(manifest.fill)
        self._context = context
        self._max_length = max_length
        # Replaced, never changed, because small and large requests are encoded in different threads.
        self._calendars: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._channels = ChannelReader(manifest.columns, forecaster)
        self._numbers = {name: number for number, name in enumerate(manifest.columns.series, start=1)}
        self._has_covariates = bool(
            manifest.columns.futr_exog or manifest.columns.hist_exog or manifest.columns.stat_exog
        )
        self._all_observed = np.ones(manifest.network.context_length, np.bool_)

    def encode(self, series: SeriesRequest, path: str, horizon: int) -> EncodedSeries:
        """Encode one series.

        Args:
            series: As it stands in the request.
            path: Its place there, such as `series.0`.
            horizon: Steps asked for.

        Raises:
            SeriesError: If it cannot be forecast.
        """
        history = self._known(series, path, horizon) if series.y is None else self._given(series, path, horizon)
        encoded = self._window(history, path)
        return self._numbered(encoded, series.unique_id) if self._numbers else encoded

    def _numbered(self, encoded: EncodedSeries, unique_id: str) -> EncodedSeries:
        """With the number of the series as the last static channel."""
        number = self._numbers.get(unique_id, 0)
        if not number:
            encoded.warnings["series_unseen"] = "The model was not trained on this series; it has no vector of its own."
        return replace(encoded, static=np.append(encoded.static, np.float32(number)))

    def build_inputs(self, encoded: Sequence[EncodedSeries]) -> ForecastInputs:
        """Join windows into what the network reads.

        Args:
            encoded: At least one series.
        """
        length, width = self._network.context_length, self._network.context_length + self._network.horizon
        futr = _stack([series.futr for series in encoded])
        shared = futr
        if self._columns.calendar:
            shared = np.concatenate((futr, self._calendar(encoded, width)), axis=2)
        past = shared[:, :length]
        if self._columns.hist_exog:
            past = np.concatenate((past, _stack([series.hist for series in encoded])), axis=2)
        arrays = (
            _stack([series.context for series in encoded]),
            _stack([series.observed for series in encoded]),
            np.ascontiguousarray(past),
            np.ascontiguousarray(shared[:, length:]),
            _stack([series.static for series in encoded]),
        )
        return ForecastInputs(*(torch.from_numpy(array) for array in arrays))

    def _given(self, series: SeriesRequest, path: str, horizon: int) -> History:
        assert series.y is not None
        count = len(series.y)
        self._validate_length(count, f"{path}.y")
        start, rows = self._times(series, path, count)
        values = self._channels.read_target(series.y, f"{path}.y")
        if self._has_covariates or series.futr_exog or series.hist_exog or series.stat_exog:
            self._channels.validate_names(series, path)
            limits = (count + horizon, count + self._network.horizon)
            self._channels.validate_lengths(series.futr_exog, f"{path}.futr_exog", limits, "y and the horizon")
            self._channels.validate_lengths(series.hist_exog, f"{path}.hist_exog", (count, count), "y")
        y = values
        if rows is not None:
            self._validate_length(int(rows[-1]) + 1, f"{path}.ds")
            y = np.full(int(rows[-1]) + 1, np.nan, np.float32)
            y[rows] = values
        return History(start, y, rows, series.futr_exog, series.hist_exog, series.stat_exog)

    def _times(self, series: SeriesRequest, path: str, count: int) -> tuple[int, NDArray[np.int64] | None]:
        """First timestamp, and the row of every value unless they follow each other."""
        if series.freq is not None:
            self.timeline.validate_frequency(series.freq, f"{path}.freq")
        if (series.start is None) == (series.ds is None):
            both = series.ds is not None
            code, say = ("timestamps_conflict", "only one of") if both else ("timestamps_missing", "one of")
            raise SeriesError(code, f"{path}.{'ds' if both else 'start'}", f"Give {say} start and ds with y.")
        if series.ds is None:
            assert series.start is not None
            return self.timeline.start(series.start, f"{path}.start"), None
        if len(series.ds) != count:
            raise SeriesError("length_mismatch", f"{path}.ds", f"ds must have one time per y, that is {count}.")
        if not count:
            raise SeriesError("series_empty", f"{path}.y", "y must hold at least one value.")
        stamps = self.grid.parse_all(series.ds, f"{path}.ds")
        rows = self.grid.positions(stamps, f"{path}.ds")
        return int(stamps[0]), rows if rows[-1] + 1 != count else None

    def _known(self, series: SeriesRequest, path: str, horizon: int) -> History:
        extra = [name for name in ("start", "ds", "hist_exog", "stat_exog") if getattr(series, name)]
        if extra:
            raise SeriesError("timestamps_conflict", f"{path}.{extra[0]}", "Give it with y, or leave y and it out.")
        if series.freq is not None:
            self.timeline.validate_frequency(series.freq, f"{path}.freq")
        known = self._context.read(series.unique_id)
        if known is None:
            kept = "the model was not trained on it" if len(self._context) else "the bundle keeps no context"
            raise SeriesError("series_unknown", f"{path}.unique_id", f"y must be given: {kept}.")
        columns = self._columns
        absent = {*columns.futr_exog, *columns.hist_exog, *columns.stat_exog} - set(known.covariates)
        if absent:
            message = f"y and its covariates must be given: the bundle's context lacks {min(absent)!r}."
            raise SeriesError("series_unknown", f"{path}.unique_id", message)
        self._channels.validate_names(series, path, is_known=True)
        limits = (horizon, self._network.horizon)
        self._channels.validate_lengths(series.futr_exog, f"{path}.futr_exog", limits, "the horizon")
        rows = self.grid.positions(known.stamps, f"{path}.unique_id")
        y = np.full(int(rows[-1]) + 1, np.nan, np.float32)
        y[rows] = known.y
        return History(
            int(known.stamps[0]),
            y,
            rows,
            {name: [*known.covariates[name], *series.futr_exog[name]] for name in columns.futr_exog},
            {name: known.covariates[name] for name in columns.hist_exog},
            {name: known.covariates[name][-1] for name in columns.stat_exog},
        )

    def _validate_length(self, count: int, path: str) -> None:
        if count > self._max_length:
            message = f"A series must span at most {self._max_length} steps. The last {self._network.context_length} are read."
            raise SeriesError("series_too_long", path, message)

    def _window(self, history: History, path: str) -> EncodedSeries:
        length, horizon = self._network.context_length, self._network.horizon
        count = len(history.y)
        if count >= length and is_whole(history.y):
            # Whole and long enough, as most are: the last rows are the window.
            first, observed, context = count - length, self._all_observed, history.y[count - length :]
            rows = np.arange(first, count + horizon) if self._has_covariates else _NO_ROWS
            warnings: Warnings = {}
        else:
            y, is_given = fill_values(history.y, self._fill, f"{path}.y")
            seen = ~np.isnan(y)
            first_seen = int(seen.argmax()) if seen.any() else count
            if not seen[max(0, count - length) :].any():
                message = f"y must hold at least one value in its last {length} steps."
                raise SeriesError("series_empty", f"{path}.y", message)
            # Rows before the first observation are padding, as in training.
            rows = np.maximum(np.arange(count - length, count + horizon), first_seen)
            is_real = np.arange(count - length, count) >= first_seen
            observed = is_real & seen[rows[:length]]
            first, warnings = int(rows[0]), self._count_missing(is_real & is_given[rows[:length]], is_real)
            context = np.where(observed, y[rows[:length]], np.float32(0.0))
        futr, hist, static = self._read_channels(history, count, rows, path, warnings)
        stamps = self.timeline.stamps(history.start, first, count + horizon, path)
        return EncodedSeries(context, observed, futr, hist, static, history.start, count, stamps, warnings)

    def _read_channels(
        self, history: History, count: int, rows: NDArray[np.int64], path: str, warnings: Warnings
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Known-future (L + H, Kf), past-only (L, Kh) and static (S,) channels."""
        length, horizon = self._network.context_length, self._network.horizon
        if not self._has_covariates:
            return np.empty((length + horizon, 0), np.float32), np.empty((length, 0), np.float32), _NO_VALUES
        futr = self._channels.read_futr(history, count, horizon, rows, f"{path}.futr_exog", warnings)
        hist = self._channels.read_hist(history, count, rows[:length], f"{path}.hist_exog", warnings)
        return futr, hist, self._channels.read_static(history.stat_exog, f"{path}.stat_exog", warnings)

    def _count_missing(self, observed: NDArray[np.bool_], is_real: NDArray[np.bool_]) -> Warnings:
        length, num_real, num_observed = len(observed), int(is_real.sum()), int(observed.sum())
        warnings: Warnings = {}
        if num_real < length:
            warnings["context_short"] = f"The model reads {length} steps; the series has {num_real}."
        if num_observed < num_real:
            filled = "" if self._fill == "mask" else f" They are filled as in training: {self._fill}."
            warnings["context_missing"] = f"{num_real - num_observed} of the last {num_real} steps have no value.{filled}"
        return warnings

    def _calendar(self, encoded: Sequence[EncodedSeries], width: int) -> NDArray[np.float32]:
        """Calendar channels (N, L + H, C); clients that ask at the same hour share what was computed for the first."""
        features = self._columns.calendar
        known = dict(self._calendars)
        keys = [(int(series.stamps[0]), len(series.stamps)) for series in encoded]
        new = {key: series.stamps for key, series in zip(keys, encoded, strict=True) if key not in known}
        if new:
            table = encode_calendar(
                features, np.concatenate(list(new.values())), self._timezone, self._columns.holidays
            )
            ends = np.cumsum([len(stamps) for stamps in new.values()])
            known.update(zip(new, np.split(table, ends[:-1]), strict=True))
            self._calendars = dict(list(known.items())[-MAX_CALENDARS:])
        return np.stack([_padded(known[key], width) for key in keys])


def _padded(block: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    if len(block) == width:
        return block
    return np.concatenate((np.repeat(block[:1], width - len(block), axis=0), block))


def _stack(arrays: Sequence[NDArray[Scalar]]) -> NDArray[Scalar]:
    if not arrays[0].size:  # no channels: nothing to copy
        return np.empty((len(arrays), *arrays[0].shape), arrays[0].dtype)
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
