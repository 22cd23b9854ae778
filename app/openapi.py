"""The OpenAPI document: FastAPI's, with what its annotations cannot say: keys, problems every route shares, examples."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.access.scopes import PUBLIC, required_scopes
from app.protocols.deepar import DeepARRequest
from app.protocols.kserve import KServeRequest
from app.protocols.mlflow_scoring import ScoringRequest
from app.protocols.timegpt import TimeGPTAnomalies, TimeGPTCrossValidation, TimeGPTForecast
from app.schemas.examples import ANSWERS, PARAMETERS
from app.schemas.forecast import ForecastRequest
from app.schemas.problem import ProblemBody, build_problem_docs

DESCRIPTION = """
Errors are `application/problem+json` (RFC 9457) with a stable `code`; they never echo data. Every answer carries
`X-Request-Id`, and takes over the one that was sent. Unless the service is open, send a key:
`Authorization: Bearer gradcast_...`.
"""
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `gradcast keys create`. Each route says which scopes open it; `admin` opens all.",
}
PROTOCOL_BODIES = (
    TimeGPTForecast, TimeGPTCrossValidation, TimeGPTAnomalies, KServeRequest, DeepARRequest, ScoringRequest,
)  # fmt: skip
# The router, the guard and the limits in front of every route answer with these.
_EVERYWHERE = ("host_not_allowed", "internal_error")
_GUARDED = ("key_missing", "key_invalid", "scope_missing", "rate_limited")


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """The document of an application; built once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=DESCRIPTION, routes=app.routes,
            openapi_version=app.openapi_version,
        )  # fmt: skip
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"key": BEARER}
        _complete_schemas(components.setdefault("schemas", {}))
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _complete_operation(operation, method.upper(), path)
        app.openapi_schema = document
    return app.openapi_schema


def _complete_schemas(schemas: dict[str, Any]) -> None:
    """Add those of what the routes read and refuse by hand."""
    for model in (ForecastRequest, *PROTOCOL_BODIES, ProblemBody):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    # Validation answers with problem+json; FastAPI's own description of a 422 would be untrue.
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)


def _complete_operation(operation: dict[str, Any], method: str, path: str) -> None:
    responses = operation["responses"]
    codes = list(_EVERYWHERE)
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
        codes.append("request_invalid")
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        codes += ["request_unreadable", "body_too_large", "body_too_slow"]
    scopes = required_scopes(method, path)
    if scopes is not PUBLIC:
        operation["security"] = [{"key": sorted(scopes)}]
        codes += _GUARDED
    else:
        operation["security"] = []
    _add_problems(responses, codes)
    _add_examples(operation, method, path)


def _add_problems(responses: dict[str, Any], codes: list[str]) -> None:
    for status, added in build_problem_docs(*codes).items():
        known = responses.setdefault(str(status), added)
        if known is added:
            continue
        (content,), (more,) = known["content"].values(), added["content"].values()
        if fresh := {code: example for code, example in more["examples"].items() if code not in content["examples"]}:
            content["examples"].update(fresh)
            known["description"] += "; " + added["description"]
            known.setdefault("headers", {}).update(added.get("headers", {}))


def _add_examples(operation: dict[str, Any], method: str, path: str) -> None:
    for status, example in ANSWERS.get(f"{method} {path}", {}).items():
        for content in operation["responses"][status].get("content", {}).values():
            content["example"] = example
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in PARAMETERS:
            parameter["example"] = PARAMETERS[parameter["name"]]
