"""`POST /forecast`."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request, Response

from app.dependencies import (
    DirectRoute,
    deadline_of,
    declared_bytes,
    encoding_of,
    forecasting_of,
    read_body,
    settings_of,
)
from app.errors import ProblemError
from app.protocols.bulk import JSON, TableExchange, TableQuery, accepted_type, media_type_of, read_query
from app.protocols.exchange import answer_exchange
from app.protocols.tables import MEDIA_TYPES
from app.schemas.forecast import ForecastResponse
from app.schemas.problem import build_problem_docs

router = APIRouter(tags=["forecast"], route_class=DirectRoute)

DESCRIPTION = """
Forecast many series in one request.

- **Past**: `y` with `start` (and `freq`) or `ds`; null is missing. Only the last `context_length` steps are read.
  A series the model was trained on may be asked for by `unique_id` alone: its forecast starts after the training data.
- **Known-future covariates** cover `y` and the horizon: `len(y) + horizon` values (up to the model's horizon is
  accepted). By `unique_id` alone: only the values of the horizon. `hist_exog` has `len(y)` values.
- **`mean`** is the point forecast: the median of the predicted distribution.
- **`level` and `quantiles`** are read off the trained levels, in between by interpolation; beyond the outermost trained
  level nothing is invented: that is an error naming what there is.
- One bad series does not sink the request: it carries its `error`, and `status` is `partial`. If nothing can be forecast
  the answer is a 422.
- The body may be compressed: `Content-Encoding: gzip` or `zstd`; the limit on its size holds before and after.
- Numbers must be finite; unknown fields are refused.
- **Tables**: `Content-Type` and `Accept` may be `text/csv`, `application/vnd.apache.parquet` or
  `application/vnd.apache.arrow.stream`: long rows `unique_id, ds, y` and covariates in, where rows after the last `y` carry
  the known future; rows `unique_id, ds, mean, lo-80, hi-80, ...` out. `model`, `horizon`, `level` and `quantiles` stand in
  the query then. A table answers for all series or for none.
"""


@router.post(
    "/forecast",
    summary="Forecast series",
    description=DESCRIPTION,
    response_model=ForecastResponse,
    responses=build_problem_docs(
        "json_invalid", "model_not_found", "body_too_large", "body_too_slow", "too_many_series", "encoding_invalid",
        "content_encoding_unsupported", "request_invalid", "horizon_too_long", "level_unavailable", "nothing_to_forecast",
        "table_invalid", "queue_full", "internal_error", "model_unavailable", "not_ready", "draining", "deadline_exceeded",
    ),
    openapi_extra={
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": "For tables alone."}
            for name in TableQuery.model_fields
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/ForecastRequest"}},
                **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES},
            },
        },
    },
)  # fmt: skip
async def forecast(request: Request) -> Response:
    """Read, forecast, answer, all before the deadline."""
    source = media_type_of(request)
    target = accepted_type(request, source)
    if (source, target) != (JSON, JSON):
        settings = settings_of(request)
        query = read_query(request) if source != JSON else TableQuery()
        exchange = TableExchange(source, target, query, settings.max_body_bytes, settings.max_series)
        return Response(await answer_exchange(request, exchange), media_type=target)
    service, deadline = forecasting_of(request), deadline_of(request)
    service.validate_open(declared_bytes(request))
    encoding = encoding_of(request)
    body = await read_body(request)
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            content = await service.forecast_json(body, encoding, deadline)
    except TimeoutError:
        raise ProblemError("deadline_exceeded", "The request's time was up before its forecast was done.") from None
    return Response(content, media_type="application/json")
