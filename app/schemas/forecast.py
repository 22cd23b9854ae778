"""Request and response of `POST /forecast`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_LEVELS = 99

# A series may hold a hundred thousand steps: the first one at fault is enough to say.
NumberOrText = Annotated[float | str, Field(union_mode="left_to_right")]
Timestamp = Annotated[str | int, Field(union_mode="left_to_right")]
Values = Annotated[list[float | None], Field(fail_fast=True)]
Covariate = Annotated[list[NumberOrText | None], Field(fail_fast=True)]
Timestamps = Annotated[list[Timestamp], Field(fail_fast=True)]
Name = Annotated[str, Field(min_length=1, max_length=256)]

REQUEST_EXAMPLE: dict[str, Any] = {
    "model": "bike",
    "horizon": 3,
    "level": [80],
    "series": [
        {
            "unique_id": "a",
            "start": "2026-01-01T00:00:00",
            "freq": "h",
            "y": [1.0, None, 3.0],
            "futr_exog": {"temp": [3.1, 3.0, 2.8, 2.5, 2.5, 2.4]},
        }
    ],
}


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class SeriesRequest(_Strict):
    """One series: its past as `start` (+ `freq`) or `ds`, with `y`; or `unique_id` alone if the model was trained on it."""

    unique_id: Name
    """Name of the series, unique in the request."""
    start: Timestamp | None = None
    """Timestamp of the first `y` (ISO 8601, or an integer for integer time)."""
    freq: Annotated[str, Field(max_length=32)] | None = None
    """Step as a pandas offset alias; must be the model's, which is also the default."""
    ds: Timestamps | None = None
    """Timestamp of every `y`, instead of `start`; gaps count as missing."""
    y: Values | None = None
    """Observations, oldest first; null is missing."""
    futr_exog: Annotated[dict[Name, Covariate], Field(max_length=1000)] = Field(default_factory=dict)
    """Known-future covariates: one value per `y` and then per step of the requested horizon (more, up to the model's
    horizon, is accepted). Without `y`: the steps of the horizon alone."""
    hist_exog: Annotated[dict[Name, Covariate], Field(max_length=1000)] = Field(default_factory=dict)
    """Past-only covariates: one value per `y`."""
    stat_exog: Annotated[dict[Name, NumberOrText], Field(max_length=1000)] = Field(default_factory=dict)
    """Covariates constant over the series."""


class ForecastRequest(_Strict):
    """What to forecast, and with which model."""

    model_config = ConfigDict(json_schema_extra={"examples": [REQUEST_EXAMPLE]})

    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """`name`, `name@alias` or `name/version`; null = the default model."""
    horizon: Annotated[int, Field(ge=1)] | None = None
    """Steps to forecast, at most the model's horizon; null = all of them."""
    level: Annotated[list[Annotated[float, Field(gt=0, lt=100)]], Field(max_length=MAX_LEVELS)] | None = None
    """Central intervals in percent, such as 80; null = none."""
    quantiles: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=MAX_LEVELS)] | None = None
    """Quantile levels; null = those the model was trained for, [] = none. Others are interpolated between them."""
    series: Annotated[list[SeriesRequest], Field(min_length=1)]
    """The series."""


class ServedModel(BaseModel):
    """Which model answered."""

    name: str
    version: int
    alias: str | None
    """Alias by which it was asked for; null if by version."""
    run_id: str | None
    verdict: str | None
    """Verdict of the gradient's diagnosis."""
    reach_steps: int | None
    """How far back the gradient reached in training, in steps."""
    trained_until: str
    """Last timestamp trained on."""


class SeriesWarning(BaseModel):
    """Something to know about one forecast."""

    code: str
    message: str


class SeriesErrorBody(BaseModel):
    """Why one series has no forecast."""

    code: str
    message: str
    path: str
    """Dotted path into the request."""


class SeriesForecast(BaseModel):
    """Forecast of one series; either arrays of the requested horizon, or `error`."""

    unique_id: str
    ds: list[str] | list[int]
    """Timestamps of the forecast."""
    mean: list[float]
    """The point forecast: the median of the predicted distribution."""
    intervals: dict[str, list[float]]
    """`lo-80`, `hi-80` for level 80."""
    quantiles: dict[str, list[float]]
    """Values by quantile level."""
    warnings: list[SeriesWarning]
    error: SeriesErrorBody | None


class ForecastResponse(BaseModel):
    """Forecasts in the order of the request's series."""

    model: ServedModel
    status: Literal["completed", "partial"]
    """partial: some series carry an error."""
    forecasts: list[SeriesForecast]
