"""What routes ask for: the parts of the application, the body, the deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from app.errors import ProblemError
from app.services.unpacking import DECODERS
from app.settings import ServiceSettings

if TYPE_CHECKING:
    from app.access.guard import Caller
    from app.jobs.board import JobBoard
    from app.jobs.datasets import DatasetStore
    from app.services.catalog import Catalog
    from app.services.engine import InferenceEngine
    from app.services.forecasting import ForecastService
    from app.services.shadow import ChallengerShadow


def settings_of(request: Request) -> ServiceSettings:
    """The settings the application was built with."""
    return cast("ServiceSettings", request.app.state.settings)


def catalog_of(request: Request) -> Catalog:
    """The application's models."""
    return cast("Catalog", request.app.state.catalog)


def engine_of(request: Request) -> InferenceEngine:
    """The application's engine."""
    return cast("InferenceEngine", request.app.state.engine)


def forecasting_of(request: Request) -> ForecastService:
    """The application's forecasting service."""
    return cast("ForecastService", request.app.state.forecasting)


def shadow_of(request: Request) -> ChallengerShadow | None:
    """The application's watch over challengers, if there is one."""
    return cast("ChallengerShadow | None", request.app.state.shadow)


def datasets_of(request: Request) -> DatasetStore:
    """The application's data sets."""
    return cast("DatasetStore", request.app.state.datasets)


def jobs_of(request: Request) -> JobBoard:
    """The application's jobs."""
    return cast("JobBoard", request.app.state.jobs)


def caller_of(request: Request) -> Caller:
    """Who asks, as the guard found out."""
    return cast("Caller", request.state.caller)


def deadline_of(request: Request) -> float:
    """`time.monotonic()` at which the request's time is up."""
    return time.monotonic() + settings_of(request).request_timeout_seconds


def declared_bytes(request: Request) -> int:
    """Announced size of the body; 0 if unknown."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


def encoding_of(request: Request) -> str | None:
    """How the body is compressed; None if it is not.

    Raises:
        ProblemError: `content_encoding_unsupported`.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return None
    if encoding not in DECODERS:
        detail = f"Content-Encoding must be one of {', '.join(DECODERS)}, or left out."
        raise ProblemError("content_encoding_unsupported", detail, headers={"Accept-Encoding": ", ".join(DECODERS)})
    return encoding


async def read_body(request: Request) -> bytes:
    """Read the body, but never more and never longer than the settings allow.

    Raises:
        ProblemError: `body_too_large`, `body_too_slow` or `client_disconnected`.
    """
    limit = settings_of(request).max_body_bytes
    if declared_bytes(request) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    num_bytes = 0
    try:
        async with asyncio.timeout(max(0.0, deadline_of(request) - time.monotonic())):
            async for chunk in request.stream():
                num_bytes += len(chunk)
                if num_bytes > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise body_too_slow() from None
    except ClientDisconnect:
        raise ProblemError("client_disconnected", "The client left before its request was complete.") from None
    return b"".join(chunks)


def body_too_slow() -> ProblemError:
    """The error of a body that trickles in, or stops coming."""
    # The rest of the body is not read, so the connection cannot be used again.
    detail = "The body must come faster: the time for it was up before its end."
    return ProblemError("body_too_slow", detail, headers={"Connection": "close"})


def _too_large(limit: int) -> ProblemError:
    # The rest of the body is not read, so the connection cannot be used again.
    detail = (
        f"The body must be at most {limit} bytes. Send fewer series per request, or only context_length steps of each."
    )
    return ProblemError("body_too_large", detail, headers={"Connection": "close"})


def validate_same_site(request: Request) -> None:
    """Refuse what a foreign web site makes a browser send: the page of this service and programs may change things.

    Raises:
        ProblemError: `cross_site_request`.
    """
    origin = request.headers.get("origin")
    is_foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
    if is_foreign or (origin is not None and origin.partition("://")[2] != request.headers.get("host")):
        raise ProblemError("cross_site_request", "Only this service's own page, and programs, may change anything here.")


def validate_not_draining(request: Request) -> None:
    """Take no more work while the service shuts down.

    Raises:
        ProblemError: `draining`.
    """
    if engine_of(request).is_draining:
        raise ProblemError("draining", "The service is shutting down.", headers={"Retry-After": "2"})


SAME_SITE = [Depends(validate_same_site)]
NEW_WORK = [*SAME_SITE, Depends(validate_not_draining)]
Deadline = Annotated[float, Depends(deadline_of)]


class DirectRoute(APIRoute):
    """A route whose endpoint takes the request and gives the response: nothing is resolved or validated around it.

    For routes that read their body themselves. The documentation is built from the decorator as for any route.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint
