"""Problems the service answers with: RFC 9457 documents with a stable `code`, never an echo of the data."""

from __future__ import annotations

import errno
import logging
import os
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app.services.metrics import ServiceMetrics
from models.errors import GradcastError
from training.errors import ModelNotFoundError, TrackingError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_SHOWN = 5
MAX_PATH_PART = 64
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class ProblemKind(NamedTuple):
    """What a code means."""

    status: int
    title: str


PROBLEMS: Mapping[str, ProblemKind] = {
    "json_invalid": ProblemKind(400, "The body is not valid JSON"),
    "request_unreadable": ProblemKind(400, "The body cannot be read"),
    "client_disconnected": ProblemKind(400, "The client left before its request was complete"),
    "key_missing": ProblemKind(401, "The service asks for a key"),
    "key_invalid": ProblemKind(401, "The key is unknown, revoked or expired"),
    "scope_missing": ProblemKind(403, "The key is not for this"),
    "cross_site_request": ProblemKind(403, "Another web site sent this request"),
    "model_not_found": ProblemKind(404, "No such model, version or alias"),
    "dataset_not_found": ProblemKind(404, "No such data set"),
    "job_not_found": ProblemKind(404, "No such job"),
    "run_not_found": ProblemKind(404, "No such run, or none whose gradients were recorded"),
    "route_not_found": ProblemKind(404, "No such route"),
    "method_not_allowed": ProblemKind(405, "The route does not know this method"),
    "dataset_in_use": ProblemKind(409, "A job needs the data set"),
    "job_ended": ProblemKind(409, "The job has ended"),
    "job_not_resumable": ProblemKind(409, "The job cannot be resumed"),
    "promotion_refused": ProblemKind(409, "The gate keeps the present champion"),
    "body_too_large": ProblemKind(413, "The body is too large"),
    "too_many_series": ProblemKind(413, "The request holds too many series"),
    "encoding_invalid": ProblemKind(400, "The body is not compressed as it says"),
    "content_encoding_unsupported": ProblemKind(415, "The body's encoding is not understood"),
    "host_not_allowed": ProblemKind(421, "The service does not answer to this host name"),
    "request_invalid": ProblemKind(422, "The request is not valid"),
    "dataset_invalid": ProblemKind(422, "The file cannot be trained on as it stands"),
    "horizon_too_long": ProblemKind(422, "The model does not forecast that far"),
    "level_unavailable": ProblemKind(422, "The model was not trained for these levels"),
    "nothing_to_forecast": ProblemKind(422, "None of the series can be forecast"),
    "queue_full": ProblemKind(429, "The queue is full"),
    "rate_limited": ProblemKind(429, "The key has used up its requests"),
    "internal_error": ProblemKind(500, "The service failed"),
    "model_unavailable": ProblemKind(503, "The model cannot be loaded"),
    "not_ready": ProblemKind(503, "No model is loaded"),
    "draining": ProblemKind(503, "The service is shutting down"),
    "deadline_exceeded": ProblemKind(504, "The deadline has passed"),
    "storage_full": ProblemKind(507, "There is no room for the upload"),
    "storage_unwritable": ProblemKind(507, "The service cannot write to its disk"),
}
"""Every code the service answers a request with."""

SERIES_PROBLEMS: Mapping[str, str] = {
    "unique_id_duplicate": "The unique_id stands in the request twice.",
    "series_unknown": "A series without y must be one the model was trained on, and the bundle must hold its context.",
    "series_empty": "y holds no observed value in the model's context.",
    "series_too_long": "The series spans more steps than the service accepts.",
    "timestamps_missing": "A series with y needs start or ds.",
    "timestamps_conflict": "start and ds are given together.",
    "timestamps_invalid": "start or ds cannot be read as timestamps of the model's kind.",
    "timestamps_unordered": "ds must increase strictly.",
    "length_mismatch": "An array's length does not fit y and the horizon.",
    "target_missing": "y has a gap, and the model was trained with data.fill: error.",
    "frequency_mismatch": "freq, or the spacing of ds, differs from the model's.",
    "value_out_of_range": "A number is beyond what float32 holds.",
    "covariate_missing": "A covariate the model reads is not given.",
    "covariate_unknown": "The model does not read this covariate.",
    "covariate_invalid": "A covariate has text where the model reads numbers, or the reverse.",
    "data_invalid": "The series cannot be encoded for the model.",
    "forecast_not_finite": "The network's output for this series is not finite.",
}
"""Every code in a series' `error`."""

WARNINGS: Mapping[str, str] = {
    "context_short": "Fewer observations than context_length: the start of the window is empty.",
    "context_missing": "Values inside the context are missing: shown to the network as such, or filled as in training.",
    "covariate_gaps": "A covariate has missing values; the last known one was carried on.",
    "category_unknown": "A category was never seen in training and reads as none.",
    "series_unseen": "The model has a vector per trained series; this one has that of a series it does not know.",
}
"""Every code in a series' `warnings`."""


class FieldProblem(NamedTuple):
    """One field at fault.

    Attributes:
        path: Dotted path into the request, such as `series.0.y.3`.
        code: Stable identifier.
        message: The sentence for the user, without data.
    """

    path: str
    code: str
    message: str


class ProblemError(Exception):
    """A request that ends in a problem document.

    Attributes:
        code: Key of `PROBLEMS`.
        detail: The sentence for the user, without data.
        errors: The fields at fault.
        headers: Response headers, such as `Retry-After`.
        extensions: Further members of the document.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})
        super().__init__(code, detail)


def build_document(problem: ProblemError, status: int | None = None) -> dict[str, Any]:
    """The RFC 9457 members of a problem."""
    kind = PROBLEMS[problem.code]
    document: dict[str, Any] = {
        "type": f"urn:gradcast:problem:{problem.code}",
        "title": kind.title,
        "status": status or kind.status,
        "detail": problem.detail,
        "code": problem.code,
    }
    if problem.errors:
        document["errors"] = [field._asdict() for field in problem.errors[:MAX_SHOWN]]
        document["num_errors"] = len(problem.errors)
    return document | problem.extensions


def build_problem_response(request: Request, problem: ProblemError, status: int | None = None) -> Response:
    """Render a problem and count it."""
    metrics: ServiceMetrics = request.app.state.metrics
    metrics.errors.labels(problem.code).inc()
    document = build_document(problem, status)
    return Response(orjson.dumps(document), document["status"], problem.headers, MEDIA_TYPE)


def _normalize_path(location: Sequence[Any], kind: str) -> str:
    """A dotted path from pydantic's location: without the branch of a union, and with every part of bounded length."""
    is_branch = len(location) > 1 and location[-1] in ("str", "int", "float") and kind != "extra_forbidden"
    parts = location[:-1] if is_branch else location
    return ".".join(str(part)[:MAX_PATH_PART] for part in parts)


def normalize_field_problems(details: Iterable[Mapping[str, Any]]) -> list[FieldProblem]:
    """pydantic's error details without inputs: one per path, since a union reports each of its branches.

    Args:
        details: `ValidationError.errors(include_input=False, include_context=False)`.
    """
    problems: dict[str, FieldProblem] = {}
    for detail in details:
        path = _normalize_path(detail["loc"], detail["type"])
        message = str(detail["msg"]).removeprefix("Value error, ")
        problems.setdefault(path, FieldProblem(path, str(detail["type"]), message))
    return list(problems.values())


def as_problem(error: GradcastError) -> ProblemError:
    """The one translation of the project's own errors into problems."""
    if isinstance(error, ModelNotFoundError):
        return ProblemError("model_not_found", str(error))
    if isinstance(error, TrackingError):
        return ProblemError("model_unavailable", str(error), headers={"Retry-After": "2"})
    return ProblemError("internal_error", "The service failed on this request.")


def install_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def respond_to(request: Request, error: Exception) -> Response:
    """The answer to an error that no framework has caught."""
    handler = next(handler for kind, handler in _HANDLERS.items() if isinstance(error, kind))
    return await handler(request, error)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return build_problem_response(request, error)


async def _on_gradcast_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GradcastError)
    problem = as_problem(error)
    if problem.code == "internal_error":
        return await _on_unexpected(request, error)
    return build_problem_response(request, problem)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = normalize_field_problems(error.errors())
    return build_problem_response(request, ProblemError("request_invalid", "The request must fit the schema.", fields))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {
        400: "request_unreadable", 404: "route_not_found", 405: "method_not_allowed", 408: "deadline_exceeded",
        413: "body_too_large",
    }  # fmt: skip
    code = codes.get(error.status_code, "request_invalid" if error.status_code < 500 else "internal_error")
    detail = HTTPStatus(error.status_code).description or PROBLEMS[code].title
    problem = ProblemError(code, f"{detail.rstrip('.')}. See /docs for the routes.", headers=error.headers)
    return build_problem_response(request, problem, error.status_code)


async def _on_os_error(request: Request, error: Exception) -> Response:
    """A disk that is full or read-only is no fault of the program: whoever runs the service can mend it."""
    if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
        return await _on_unexpected(request, error)
    logger.error("the disk refuses %s %s: %s", request.method, request.url.path, error)
    reason = os.strerror(error.errno)
    detail = f"The service's disk refuses to be written ({reason}). Nothing was kept; try again when there is room."
    return build_problem_response(request, ProblemError("storage_unwritable", detail, headers={"Retry-After": "60"}))


async def _on_unexpected(request: Request, error: Exception) -> Response:
    incident = uuid.uuid4().hex
    logger.error("incident %s: %s %s", incident, request.method, request.url.path, exc_info=error)
    detail = "The service failed on this request; the log holds the incident."
    return build_problem_response(request, ProblemError("internal_error", detail, extensions={"incident": incident}))


_HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ProblemError: _on_problem,
    GradcastError: _on_gradcast_error,
    RequestValidationError: _on_validation_error,
    HTTPException: _on_http_exception,
    OSError: _on_os_error,
    Exception: _on_unexpected,
}
