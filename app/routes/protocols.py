"""The routes of other protocols; `app.protocols` has what they mean."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from app.dependencies import DirectRoute, catalog_of, forecasting_of, settings_of
from app.errors import ProblemError
from app.protocols.bulk import media_type_of
from app.protocols.deepar import DeepARExchange
from app.protocols.exchange import PROBLEMS, Either, Exchange, answer_exchange
from app.protocols.kserve import KServeExchange, KServeResponse
from app.protocols.mlflow_scoring import ScoringExchange
from app.protocols.tables import CSV
from app.protocols.timegpt import (
    AnomalyExchange,
    CrossValidationExchange,
    ForecastExchange,
    KeyValidity,
    ModelParameters,
    TimeGPTAnomalyAnswer,
    TimeGPTAnswer,
    TimeGPTWindowsAnswer,
    model_reference,
)
from app.schemas.problem import build_problem_docs
from app.services.catalog import Catalog
from app.services.forecasting import ForecastService

router = APIRouter(tags=["other protocols"])
direct = APIRouter(tags=["other protocols"], route_class=DirectRoute)

# Their bodies are read, and limited, as that of POST /forecast.
DIRECT_PATHS = (
    "/v2/forecast", "/v2/cross_validation", "/v2/anomaly_detection", "/v1/timeseries/forecast", "/invocations",
)  # fmt: skip
Model = Annotated[str | None, Query(min_length=1, max_length=512)]


def _json_body(schema: str, example: Any) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


_SERIES = {"y": [9.1, 9.3, 9.2, 9.4], "sizes": [2, 2], "X": None, "X_future": None}
_TIMEGPT = {"series": _SERIES, "model": "timegpt-1", "h": 2, "freq": "W-MON", "level": [80]}
_KSERVE = {
    "model": "gasoline", "options": {"horizon": 2, "quantiles": [0.1, 0.9]},
    "inputs": [
        {"type": "univariate_time_series", "name": "us", "series": [9.1, 9.3], "frequency": "week",
         "start_timestamp": "2016-10-31T00:00:00"}
    ],
}  # fmt: skip


@direct.post(
    "/v2/forecast",
    summary="Forecast, as TimeGPT",
    description="For the public `nixtla` client with `base_url` set to this service. A model's name that begins with "
    "`timegpt` is the default model. Covariates come in the order of the model's columns, known-future ones first.",
    response_model=TimeGPTAnswer,
    responses=build_problem_docs(*PROBLEMS),
    openapi_extra=_json_body("TimeGPTForecast", _TIMEGPT),
)
async def timegpt_forecast(request: Request) -> Response:
    """`NixtlaClient.forecast`."""
    return await _answer(request, ForecastExchange())


@direct.post(
    "/v2/cross_validation",
    summary="Forecast from several cutoffs, as TimeGPT",
    description="`NixtlaClient.cross_validation`. The model is not trained again between the cutoffs.",
    response_model=TimeGPTWindowsAnswer,
    responses=build_problem_docs(*PROBLEMS),
    openapi_extra=_json_body("TimeGPTCrossValidation", _TIMEGPT | {"n_windows": 1}),
)
async def timegpt_cross_validation(request: Request) -> Response:
    """`NixtlaClient.cross_validation`."""
    return await _answer(request, CrossValidationExchange(settings_of(request).max_series))


@direct.post(
    "/v2/anomaly_detection",
    summary="Values outside of their interval, as TimeGPT",
    description="`NixtlaClient.detect_anomalies`: forecasts one horizon after the other, and says which values leave the "
    "interval. `level` must be one the model was trained for.",
    response_model=TimeGPTAnomalyAnswer,
    responses=build_problem_docs(*PROBLEMS),
    openapi_extra=_json_body("TimeGPTAnomalies", {"series": _SERIES, "model": "timegpt-1", "freq": "W-MON", "level": 80}),
)
async def timegpt_anomalies(request: Request) -> Response:
    """`NixtlaClient.detect_anomalies`."""
    return await _answer(request, AnomalyExchange(settings_of(request).max_series))


@router.get(
    "/model_params",
    summary="Context and horizon, as TimeGPT",
    responses=build_problem_docs("model_not_found", "model_unavailable"),
)
def timegpt_model_parameters(
    service: Annotated[ForecastService, Depends(forecasting_of)], model: Model = None
) -> ModelParameters:
    """What the client asks before a forecast."""
    network = service.look_up(model_reference(model)).model.manifest.network
    return ModelParameters(detail={"input_size": network.context_length, "horizon": network.horizon})


@router.get("/validate_api_key", summary="Whether the key is good, as TimeGPT")
async def timegpt_validate_key() -> KeyValidity:
    """Whoever gets here has been let in."""
    return KeyValidity(detail="The key is valid.")


@direct.post(
    "/v1/timeseries/forecast",
    summary="Forecast, as KServe",
    description="KServe's time-series protocol. `start_timestamp` is needed; covariates may be given beside `series`.",
    response_model=KServeResponse,
    responses=build_problem_docs(*PROBLEMS),
    openapi_extra=_json_body("KServeRequest", _KSERVE),
)
async def kserve_forecast(request: Request) -> Response:
    """The protocol's one verb."""
    return await _answer(request, KServeExchange())


@router.get("/v1/timeseries/models", summary="Names of models, as KServe")
async def kserve_models(catalog: Annotated[Catalog, Depends(catalog_of)]) -> list[str]:
    """Names that `model` may take."""
    return list(catalog.served_names)


@direct.post(
    "/invocations",
    summary="Forecast, as SageMaker's DeepAR or as `mlflow models serve`",
    description="By its body: `instances` is the request of DeepAR; `dataframe_split`, `dataframe_records` or CSV is the "
    "scoring request of MLflow, with the rows of `gradcast forecast`. The query may name a model: `?model=bike@champion`.",
    responses=build_problem_docs(*PROBLEMS, "table_invalid", "media_type_unsupported") | {200: {"description": "`predictions`"}},
    openapi_extra={
        "parameters": [{"name": "model", "in": "query", "required": False, "schema": {"type": "string"}}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/DeepARRequest"},
                            {"$ref": "#/components/schemas/ScoringRequest"},
                        ]
                    },
                },
                CSV: {"schema": {"type": "string"}, "example": "unique_id,ds,y\nus,2016-10-31,9.1\nus,2016-11-07,9.3\n"},
            },
        },
    },
)
async def invocations(request: Request) -> Response:
    """Two protocols share the path; their bodies tell them apart."""
    settings = settings_of(request)
    model = request.query_params.get("model")
    media_type = media_type_of(request)
    if media_type not in ("application/json", CSV):
        detail = f"Content-Type must be application/json or {CSV}."
        raise ProblemError("media_type_unsupported", detail)
    deepar = DeepARExchange(model)
    scoring = ScoringExchange(model, media_type == CSV, settings.max_body_bytes, settings.max_series)
    return await _answer(request, Either("instances", deepar, scoring) if media_type != CSV else scoring)


@router.get(
    "/ping",
    summary="Whether it can forecast, as SageMaker",
    response_class=Response,
    responses=build_problem_docs("not_ready"),
)
async def ping(catalog: Annotated[Catalog, Depends(catalog_of)]) -> Response:
    """Empty and 200 as soon as a model is loaded."""
    if not catalog.loaded:
        raise ProblemError("not_ready", f"No model is loaded. {catalog.unready_reason}", headers={"Retry-After": "2"})
    return Response()


async def _answer(request: Request, exchange: Exchange) -> Response:
    return Response(await answer_exchange(request, exchange), media_type="application/json")
