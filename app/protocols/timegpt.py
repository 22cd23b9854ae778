"""The TimeGPT API, as the public `nixtla` client speaks it (read from its version 0.7).

Its requests hold neither timestamps nor names: series are lengths in one array, covariates are rows in the order of the
client's columns, known-future ones first. So a model that reads the calendar cannot be asked this way, and covariates
must come in the order of the model's own columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import ProblemError
from app.protocols.exchange import Exchange, Find, invalid, pinned, validate_complete
from app.schemas.forecast import MAX_LEVELS, ForecastRequest, SeriesRequest, Timestamps, Values
from app.services.answer import Answer
from app.services.forecasting import parse_json
from app.services.loading import Resolved
from app.services.series_error import SeriesError
from app.services.times import Grid
from models.bundle import BundleManifest

# Windows overlap, and each is a copy of the context before it: so many values in all, whatever the body's size.
MAX_WINDOW_VALUES = 10_000_000
# The client's own names for models; here they stand for the default model.
DEFAULT_MODELS = "timegpt"
# What TimeGPT does and this service does not; the client sends these, empty, with every request.
_REFUSED = ("finetune_steps", "finetuned_model_id", "feature_contributions", "multivariate", "model_parameters")
# Of no meaning here: they say how TimeGPT fine-tunes, and how it cleans covariates.
_IGNORED = ("finetune_depth", "finetune_loss", "clean_ex_first", "refit")

# The client asks for the quantile 0.5 as the level 0, and reads it from `mean`.
Level = Annotated[float, Field(ge=0, lt=100)]
OneLevel = Annotated[float, Field(gt=0, lt=100)]
Sizes = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, fail_fast=True)]
Covariates = Annotated[list[Values], Field(max_length=1000)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="after")
    def _nothing_else(self) -> _Document:
        """What is not known may be there, as long as it asks for nothing."""
        for name, value in (self.model_extra or {}).items():
            if value and name not in _IGNORED:
                kind = "does not do this" if name in _REFUSED else "does not know this field"
                raise ValueError(f"{name} must be left out or empty: the service {kind}")
        return self


class TimeGPTSeries(BaseModel):
    """Series behind each other in one array."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True)

    y: Values
    """Observations of all series, oldest first; null is missing."""
    sizes: Sizes
    """Observations of each series."""
    X: Covariates | None = None
    """Covariates by row, as long as `y`: known-future ones in the model's order, then past-only ones."""
    X_future: Covariates | None = None
    """Known-future covariates of every series' horizon, behind each other."""
    start_datetime: Timestamps | None = None
    """First timestamp of each series, for a model that reads the calendar; the public client does not send it."""


class TimeGPTForecast(_Document):
    """`POST /v2/forecast`."""

    series: TimeGPTSeries
    model: str | None = Field(default=None, min_length=1, max_length=512)
    """`name`, `name@alias` or `name/version`; a name that begins with `timegpt` is the default model."""
    h: int = Field(ge=1)
    """Steps to forecast."""
    freq: str = Field(min_length=1, max_length=32)
    """Step of the series; must be the model's."""
    level: list[Level] | None = Field(default=None, max_length=MAX_LEVELS)
    """Central intervals in percent."""


class TimeGPTCrossValidation(TimeGPTForecast):
    """`POST /v2/cross_validation`."""

    n_windows: int = Field(default=1, ge=1, le=100_000)
    """Forecasts per series."""
    step_size: int | None = Field(default=None, ge=1)
    """Steps between them; null = the horizon."""
    hist_exog: list[int] | None = None
    """Rows of `X` that are known for the past only."""


class TimeGPTAnomalies(_Document):
    """`POST /v2/anomaly_detection`."""

    series: TimeGPTSeries
    model: str | None = Field(default=None, min_length=1, max_length=512)
    freq: str = Field(min_length=1, max_length=32)
    level: OneLevel | Annotated[list[OneLevel], Field(min_length=1, max_length=1)] = 80
    """Interval outside of which a value is an anomaly, in percent."""


class TimeGPTAnswer(BaseModel):
    """Answer of `POST /v2/forecast`."""

    mean: list[float]
    """The median of every series' horizon, behind each other."""
    intervals: dict[str, list[float]] | None
    """`lo-80`, `hi-80` for level 80."""
    weights_x: None
    """TimeGPT's importance of covariates; not known here."""


class TimeGPTWindowsAnswer(TimeGPTAnswer):
    """Answer of `POST /v2/cross_validation`."""

    sizes: list[int]
    """Forecast values of each series."""
    idxs: list[int]
    """Place in `y` of each."""
    feature_contributions: None


class TimeGPTAnomalyAnswer(TimeGPTAnswer):
    """Answer of `POST /v2/anomaly_detection`."""

    sizes: list[int]
    """Values of each series that a forecast covers: its last ones."""
    anomaly: list[bool]
    """Whether the value lies outside of its interval."""


class ModelParameters(BaseModel):
    """`GET /model_params`."""

    detail: Mapping[str, int]
    """`input_size` and `horizon` of the model, in steps."""


class KeyValidity(BaseModel):
    """`GET /validate_api_key`."""

    detail: str


def model_reference(name: str | None) -> str | None:
    """The reference that the client's name of a model stands for."""
    return None if name is None or name.startswith(DEFAULT_MODELS) else name


class ForecastExchange(Exchange):
    """`POST /v2/forecast`."""

    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """One request per series."""
        document = parse_json(TimeGPTForecast, body)
        found = find(model_reference(document.model))
        manifest = found.model.manifest
        series = _Series.of(document.series, manifest, document.h)
        requests = [
            series.request(index, document.freq, 0, size, document.h, future=index)
            for index, size in enumerate(document.series.sizes)
        ]
        level = _real(document.level)
        return ForecastRequest(model=pinned(found), horizon=document.h, level=level, quantiles=[], series=requests)

    def write(self, answer: Answer) -> bytes:
        """All forecasts behind each other."""
        validate_complete(answer)
        return _dump(answer, {})


class CrossValidationExchange(Exchange):
    """`POST /v2/cross_validation`: one forecast per series and cutoff, from what lay before it.

    Args:
        max_windows: Most forecasts of one request.
    """

    def __init__(self, max_windows: int) -> None:
        self._max_windows = max_windows

    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """One request per window."""
        document = parse_json(TimeGPTCrossValidation, body)
        step = document.step_size or document.h
        _validate_count(document.n_windows * len(document.series.sizes), self._max_windows)
        found = find(model_reference(document.model))
        self._windows = [
            _Window(index, size - document.h - step * back, document.h)
            for index, size in enumerate(document.series.sizes)
            for back in reversed(range(document.n_windows))
        ]
        self._sizes = [document.h * document.n_windows] * len(document.series.sizes)
        self._series = _Series.of(document.series, found.model.manifest, None)
        return _request_windows(found, document.freq, document.level, self._series, self._windows)

    def write(self, answer: Answer) -> bytes:
        """Forecasts of all windows behind each other, with their places in `y`."""
        validate_complete(answer)
        places = self._series.places(self._windows)
        return _dump(answer, {"sizes": self._sizes, "idxs": places, "feature_contributions": None})


class AnomalyExchange(Exchange):
    """`POST /v2/anomaly_detection`: every value that one forecast after the other covers, beside its interval.

    Args:
        max_windows: Most forecasts of one request.
    """

    def __init__(self, max_windows: int) -> None:
        self._max_windows = max_windows

    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """Windows of the model's horizon, back from the end as far as there is a whole context."""
        document = parse_json(TimeGPTAnomalies, body)
        level = document.level if isinstance(document.level, list) else [document.level]
        found = find(model_reference(document.model))
        network = found.model.manifest.network
        self._windows = []
        self._sizes = []
        for index, size in enumerate(document.series.sizes):
            count = (size - network.context_length) // network.horizon
            if count < 1:
                shortest = network.context_length + network.horizon
                raise invalid(f"series.sizes.{index}", f"must be at least {shortest}: a context and a horizon of the model.")
            cutoffs = [size - network.horizon * back for back in reversed(range(1, count + 1))]
            self._windows += [_Window(index, cutoff, network.horizon) for cutoff in cutoffs]
            self._sizes.append(count * network.horizon)
            _validate_count(len(self._windows), self._max_windows)
        self._series = _Series.of(document.series, found.model.manifest, None)
        return _request_windows(found, document.freq, level, self._series, self._windows)

    def write(self, answer: Answer) -> bytes:
        """Forecasts, intervals, and whether the value lies outside of them; a missing value is no anomaly."""
        validate_complete(answer)
        places = self._series.places(self._windows)
        values = np.asarray([self._series.y[place] for place in places], dtype=np.float64)  # None becomes NaN
        low, high = (answer.values[key].reshape(-1).astype(np.float64) for key in (1, 2))
        return _dump(answer, {"sizes": self._sizes, "anomaly": (values < low) | (values > high)})


class _Window(NamedTuple):
    """One forecast: number of the series, observations before it, its steps."""

    series: int
    cutoff: int
    steps: int


class _Series(NamedTuple):
    """The arrays of a request, cut by series.

    Attributes:
        y: Observations of all series.
        starts: Where each series begins.
        futr: Known-future rows of `X` by the model's name.
        hist: Past-only rows by name.
        future: Known-future rows of the horizon by name.
        first: First timestamp of each series; None where the model reads no calendar and none was sent.
        start: A timestamp on the model's grid, which then takes its place.
        grid: How the model counts time.
    """

    y: Sequence[float | None]
    starts: Sequence[int]
    futr: Mapping[str, Sequence[float | None]]
    hist: Mapping[str, Sequence[float | None]]
    future: Mapping[str, Sequence[float | None]]
    first: Sequence[str | int] | None
    start: str | int
    grid: Grid

    @classmethod
    def of(cls, series: TimeGPTSeries, manifest: BundleManifest, horizon: int | None) -> _Series:
        """Check the lengths and give the rows their names.

        Args:
            series: As sent.
            manifest: Of the model.
            horizon: Steps of `X_future`; None where there is none and `X` covers the future too.

        Raises:
            ProblemError: `request_invalid`, or `protocol_unsupported` for a model that reads the calendar.
        """
        columns = manifest.columns
        first = series.start_datetime
        if first is None and (columns.calendar or columns.holidays):
            detail = (
                "The client sends no timestamps, and the model reads the calendar. Use POST /forecast, or a model trained "
                "with data.calendar=none (the client's date_features can take its place as data.futr_exog)."
            )
            raise ProblemError("protocol_unsupported", detail)
        if first is not None and len(first) != len(series.sizes):
            raise invalid("series.start_datetime", f"must hold {len(series.sizes)} timestamps, one per series.")
        total = sum(series.sizes)
        if total != len(series.y):
            raise invalid("series.sizes", f"must add up to the {len(series.y)} values of y.")
        names = (*columns.futr_exog, *columns.hist_exog)
        rows = _named(names, series.X, total, "series.X")
        steps = (horizon or 0) * len(series.sizes)
        future = _named(columns.futr_exog if horizon else (), series.X_future, steps, "series.X_future")
        starts = [0, *np.cumsum(series.sizes).tolist()]
        last = manifest.trained_until
        return cls(
            series.y, starts, {name: rows[name] for name in columns.futr_exog}, {name: rows[name] for name in columns.hist_exog},
            future, first, int(last) if manifest.time_kind == "integer" else last, Grid.of(manifest),
        )  # fmt: skip

    def request(
        self, index: int, freq: str, begin: int, end: int, horizon: int, future: int | None = None, name: str = ""
    ) -> SeriesRequest:
        """Rows `begin .. end - 1` of one series, and what is known of the `horizon` steps after them.

        Args:
            index: Number of the series.
            freq: Step.
            begin: First row.
            end: One past the last.
            horizon: Steps to forecast.
            future: Number of the series in `X_future`; None = the steps follow in `X` itself.
            name: Of the series in the request.
        """
        offset = self.starts[index]
        past, ahead = slice(offset + begin, offset + end), slice(offset + end, offset + end + horizon)
        if future is not None:
            ahead = slice(future * horizon, (future + 1) * horizon)
        source = self.futr if future is None else self.future
        start = self._time_of(index, begin)
        return SeriesRequest.model_construct(
            unique_id=name or f"series {index + 1}", start=start, freq=freq, y=list(self.y[past]),
            futr_exog={name: [*row[past], *source[name][ahead]] for name, row in self.futr.items()},
            hist_exog={name: list(row[past]) for name, row in self.hist.items()},
        )  # fmt: skip

    def _time_of(self, index: int, row: int) -> str | int:
        """Timestamp of a row of a series."""
        if self.first is None:
            return self.start
        if row == 0:
            return self.first[index]
        path = f"series.start_datetime.{index}"
        try:
            first = self.grid.parse(self.first[index], path)
            return self.grid.render(self.grid.stamps(first, row, row + 1, path))[0]
        except SeriesError as error:
            raise invalid(path, error.message) from None

    def places(self, windows: Sequence[_Window]) -> list[int]:
        """Places in `y` of every step of the windows."""
        return list(self._places(windows))

    def _places(self, windows: Sequence[_Window]) -> Iterator[int]:
        for window in windows:
            first = self.starts[window.series] + window.cutoff
            yield from range(first, first + window.steps)


def _validate_count(num_windows: int, max_windows: int) -> None:
    if num_windows > max_windows:
        raise ProblemError("too_many_series", f"A request must ask for at most {max_windows} forecasts. Send several requests.")


def _request_windows(
    found: Resolved, freq: str, level: list[float] | None, series: _Series, windows: Sequence[_Window]
) -> ForecastRequest:
    length = found.model.manifest.network.context_length
    _validate_count(len(windows), MAX_WINDOW_VALUES // length)
    requests = []
    for window in windows:
        if window.cutoff < 1:
            raise invalid(f"series.sizes.{window.series}", "must leave at least one value before the first window.")
        name = f"series {window.series + 1}, {window.cutoff}"
        begin = max(0, window.cutoff - length)  # no more is read
        requests.append(series.request(window.series, freq, begin, window.cutoff, window.steps, name=name))
    return ForecastRequest(model=pinned(found), horizon=windows[0].steps, level=_real(level), quantiles=[], series=requests)


def _real(level: list[float] | None) -> list[float] | None:
    return None if level is None else [value for value in level if value]


def _named(
    names: Sequence[str], rows: Sequence[Sequence[float | None]] | None, length: int, path: str
) -> dict[str, Sequence[float | None]]:
    given = rows or []
    if len(given) != len(names):
        listed = f" ({', '.join(names)}, in this order)" if names else ""
        raise invalid(path, f"must hold {len(names)} rows{listed}, but holds {len(given)}.")
    for index, row in enumerate(given):
        if len(row) != length:
            raise invalid(f"{path}.{index}", f"must hold {length} values, but holds {len(row)}.")
    return dict(zip(names, given, strict=True))


def _dump(answer: Answer, more: Mapping[str, Any]) -> bytes:
    named = {key: values.reshape(-1) for key, values in zip(answer.levels.keys, answer.values, strict=True)}
    mean = named.pop("mean")
    document: dict[str, Any] = {"mean": mean, "intervals": named or None, "weights_x": None, **more}
    contiguous = {key: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value for key, value in document.items()}
    return orjson.dumps(contiguous, option=orjson.OPT_SERIALIZE_NUMPY)
