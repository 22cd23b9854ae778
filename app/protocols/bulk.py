"""`POST /forecast` with tables: CSV, Parquet or Arrow in, out, or both."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import ProblemError, normalize_field_problems
from app.protocols.exchange import Exchange, Find, pinned, validate_complete
from app.protocols.frames import series_of
from app.protocols.tables import MEDIA_TYPES, answer_table, read_table, write_table
from app.schemas.forecast import MAX_LEVELS, ForecastRequest
from app.services.answer import Answer
from app.services.forecasting import parse_request
from app.services.rendering import render_json

JSON = "application/json"
FORMATS = (JSON, *MEDIA_TYPES)


class TableQuery(BaseModel):
    """What a table has no place for, in the query."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

    model: str | None = Field(default=None, min_length=1, max_length=512)
    """`name`, `name@alias` or `name/version`; left out = the default model."""
    horizon: int | None = Field(default=None, ge=1)
    """Steps to forecast; left out = all of the model's."""
    level: list[Annotated[float, Field(gt=0, lt=100)]] | None = Field(default=None, max_length=MAX_LEVELS)
    """Central intervals in percent, comma-separated or repeated."""
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] | None = Field(default=None, max_length=MAX_LEVELS)
    """Quantile levels, likewise; left out = those the model was trained for."""


class TableExchange(Exchange):
    """One request whose body or answer is a table.

    Args:
        source: Format of the body, one of `FORMATS`.
        target: Format of the answer.
        query: For a body that is a table.
        max_bytes: Most that the body may unpack to.
        max_series: Most series.
    """

    def __init__(self, source: str, target: str, query: TableQuery, max_bytes: int, max_series: int) -> None:
        self._source, self._target, self._query = source, target, query
        self._max_bytes, self._max_series = max_bytes, max_series

    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """One series per `unique_id`."""
        if self._source == JSON:
            return parse_request(body)
        query = self._query
        table = read_table(body, self._source, self._max_bytes)
        found = find(query.model)
        series = series_of(table, found.model.manifest, self._max_series)
        return ForecastRequest(
            model=pinned(found), horizon=query.horizon, level=query.level, quantiles=query.quantiles, series=series
        )

    def write(self, answer: Answer) -> bytes:
        """A row per series and step, or the JSON of `POST /forecast`; a table has no place for a series' error."""
        if self._target == JSON:
            return render_json(answer)
        validate_complete(answer)
        return write_table(answer_table(answer), self._target)


def media_type_of(request: Request) -> str:
    """Format of the body.

    Raises:
        ProblemError: `media_type_unsupported`.
    """
    given = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if given in MEDIA_TYPES:
        return given
    if given.endswith(("/parquet", "/x-parquet")):
        return MEDIA_TYPES[1]
    return JSON


def accepted_type(request: Request, source: str) -> str:
    """Format of the answer: the first of the caller's that there is, else that of the body."""
    for part in request.headers.get("accept", "").split(","):
        name = part.partition(";")[0].strip().lower()
        if name in FORMATS:
            return name
    return source


def read_query(request: Request) -> TableQuery:
    """The parameters of a table.

    Raises:
        ProblemError: `request_invalid`.
    """
    given: dict[str, object] = {}
    for name in request.query_params:
        texts = request.query_params.getlist(name)
        parts = [part for text in texts for part in text.split(",") if part]
        given[name] = parts if name in ("level", "quantiles") else texts[-1]
    try:
        return TableQuery.model_validate(given)
    except ValidationError as error:
        fields = normalize_field_problems(error.errors(include_url=False, include_context=False, include_input=False))
        raise ProblemError("request_invalid", "The query must fit the documentation; see /docs.", fields) from None
