"""The time-series protocol of KServe (its `v1/timeseries`, read from its own schema)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from app.errors import ProblemError
from app.protocols.exchange import Exchange, Find, invalid, pinned
from app.schemas.forecast import MAX_LEVELS, Covariate, ForecastRequest, Name, NumberOrText, SeriesRequest, Values
from app.services.answer import Answer
from app.services.forecasting import parse_json
from app.services.rendering import render_model
from app.services.series_error import SeriesError

UNIVARIATE = "univariate_time_series"
# The protocol's units by how pandas' names of them begin; the name of the model's own step is understood too.
UNITS: Mapping[str, tuple[str, ...]] = {
    "second": ("s",), "S": ("s",), "minute": ("min",), "T": ("min",), "hour": ("h",), "H": ("h",), "day": ("D",), "D": ("D",),
    "week": ("W",), "W": ("W",), "month": ("MS", "ME"), "M": ("MS", "ME"), "quarter": ("QS", "QE"), "Q": ("QS", "QE"),
    "year": ("YS", "YE"), "Y": ("YS", "YE"),
}  # fmt: skip


class _Document(BaseModel):
    model_config = ConfigDict(
        extra="allow", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class KServeInput(_Document):
    """One series."""

    type: Literal["univariate_time_series", "multivariate_time_series"]
    """Only `univariate_time_series` is forecast; further variables are covariates."""
    name: Name
    """Name of the series, unique in the request."""
    series: Values
    """Observations, oldest first; null is missing."""
    frequency: str = Field(min_length=1, max_length=32)
    """A unit of the protocol, or the model's own step as a pandas offset alias."""
    start_timestamp: str | int | None = None
    """Timestamp of the first observation."""
    futr_exog: Annotated[dict[Name, Covariate], Field(max_length=1000)] = Field(default_factory=dict)
    """Known-future covariates, as in `POST /forecast`; not part of the protocol, which allows more."""
    hist_exog: Annotated[dict[Name, Covariate], Field(max_length=1000)] = Field(default_factory=dict)
    """Past-only covariates."""
    stat_exog: Annotated[dict[Name, NumberOrText], Field(max_length=1000)] = Field(default_factory=dict)
    """Covariates constant over the series."""


class KServeOptions(_Document):
    """What to forecast."""

    horizon: int = Field(ge=1)
    """Steps."""
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(default=None, max_length=MAX_LEVELS)
    """Quantile levels; null = none."""


class KServeRequest(_Document):
    """`POST /v1/timeseries/forecast`."""

    model: str = Field(min_length=1, max_length=512)
    """`name`, `name@alias` or `name/version`."""
    inputs: list[KServeInput] = Field(min_length=1)
    options: KServeOptions
    metadata: dict[str, Any] | None = None
    """Not read."""


class KServeError(BaseModel):
    """Why a series has no forecast."""

    code: str | None
    message: str
    param: str | None
    type: str


class KServeForecast(BaseModel):
    """Forecast of one series."""

    type: str
    name: str
    mean_forecast: list[float]
    """The median, as everywhere in this service."""
    frequency: str
    start_timestamp: str | int
    quantiles: dict[str, list[float]] | None


class KServeOutput(BaseModel):
    """What became of one series."""

    type: str
    id: str
    status: Literal["completed", "error"]
    content: list[KServeForecast]
    error: KServeError | None


class KServeResponse(BaseModel):
    """Answer of `POST /v1/timeseries/forecast`."""

    id: str
    created_at: int
    status: Literal["completed", "partial"]
    error: KServeError | None
    model: str
    outputs: list[KServeOutput]
    """One per input, in their order."""


class KServeExchange(Exchange):
    """One request of the protocol."""

    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """One series per input."""
        self._document = document = parse_json(KServeRequest, body)
        found = find(document.model)
        freq = found.model.manifest.freq
        series = []
        for index, given in enumerate(document.inputs):
            path = f"inputs.{index}"
            if given.type != UNIVARIATE:
                detail = f"{path}.type must be {UNIVARIATE}. Send further variables as futr_exog, hist_exog or stat_exog."
                raise ProblemError("protocol_unsupported", detail)
            if given.start_timestamp is None:
                message = "must be given: the model forecasts timestamps."
                raise invalid(f"{path}.start_timestamp", message)
            alias = given.frequency
            if alias in UNITS and freq.startswith(UNITS[alias]):
                alias = freq
            series.append(
                SeriesRequest.model_construct(
                    unique_id=given.name, start=given.start_timestamp, freq=alias, y=given.series,
                    futr_exog=given.futr_exog, hist_exog=given.hist_exog, stat_exog=given.stat_exog,
                )
            )  # fmt: skip
        quantiles = list(document.options.quantiles or [])
        return ForecastRequest(model=pinned(found), horizon=document.options.horizon, quantiles=quantiles, series=series)

    def write(self, answer: Answer) -> bytes:
        """One output per input."""
        identity = uuid.uuid4().hex
        document = {
            "id": f"forecast-{identity}",
            "created_at": int(time.time()),
            "status": "partial" if answer.is_partial else "completed",
            "error": None,
            "model": render_model(answer.found)["name"],
            "outputs": self._outputs(answer, identity),
        }
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)

    def _outputs(self, answer: Answer, identity: str) -> list[dict[str, Any]]:
        outputs = []
        for number, (name, outcome, row) in enumerate(answer.rows()):
            output: dict[str, Any] = {"type": "time_series_forecast", "id": f"{identity}-{number}"}
            if isinstance(outcome, SeriesError):
                error = {"code": outcome.code, "message": outcome.message, "param": f"inputs.{number}", "type": "series_error"}
                outputs.append(output | {"status": "error", "content": [], "error": error})
                continue
            values = {key: rows[row] for key, rows in zip(answer.levels.keys, answer.values, strict=True)}
            forecast = {
                "type": UNIVARIATE,
                "name": name,
                "mean_forecast": values.pop("mean"),
                "frequency": self._document.inputs[number].frequency,
                "start_timestamp": answer.times(outcome)[0],
                "quantiles": values or None,
            }
            outputs.append(output | {"status": "completed", "content": [forecast], "error": None})
        return outputs

