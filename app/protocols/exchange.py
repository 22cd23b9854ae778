"""What every adapter is: a request of another protocol read as ours, our answer written in its words."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson
from fastapi import Request

from app.dependencies import deadline_of, declared_bytes, encoding_of, forecasting_of, read_body, settings_of
from app.errors import FieldProblem, ProblemError
from app.schemas.forecast import ForecastRequest
from app.services.series_error import SeriesError
from app.services.unpacking import unpack

if TYPE_CHECKING:
    from app.services.answer import Answer
    from app.services.loading import Resolved

Find = Callable[[str | None], "Resolved"]
"""Finds the model of a reference; None = the default model."""

# What every protocol's forecast may end with; the routes add what is their own.
PROBLEMS = (
    "json_invalid", "model_not_found", "body_too_large", "body_too_slow", "too_many_series", "encoding_invalid",
    "content_encoding_unsupported", "request_invalid", "horizon_too_long", "level_unavailable", "protocol_unsupported",
    "nothing_to_forecast", "queue_full", "internal_error", "model_unavailable", "not_ready", "draining",
    "deadline_exceeded",
)  # fmt: skip


class Exchange(ABC):
    """One request and its answer."""

    @abstractmethod
    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """The request as the service knows it.

        Args:
            body: As sent, unpacked.
            find: For what must be known of the model, such as the names of its covariates.

        Raises:
            ProblemError: If it cannot be read, or asks for what there is not.
        """

    @abstractmethod
    def write(self, answer: Answer) -> bytes:
        """The body of the response.

        Raises:
            ProblemError: If the protocol has no words for it.
        """


class Either(Exchange):
    """Two protocols on one path, told apart by a member of the body that the first alone has.

    Args:
        member: Of the first protocol's document.
        first: Its adapter.
        second: For every other body.
    """

    def __init__(self, member: str, first: Exchange, second: Exchange) -> None:
        self._member, self._first, self._second = member, first, second

    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """As the one whose body it is."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            document = None  # either of them says what is wrong with it
        has_member = isinstance(document, dict) and self._member in document
        self._chosen = self._first if has_member else self._second
        return self._chosen.read(body, find)

    def write(self, answer: Answer) -> bytes:
        """As the one that read."""
        return self._chosen.write(answer)


async def answer_exchange(request: Request, exchange: Exchange) -> bytes:
    """Read, forecast, answer, all before the deadline.

    Raises:
        ProblemError: Whatever ended it.
    """
    service, deadline = forecasting_of(request), deadline_of(request)
    limit = settings_of(request).max_body_bytes
    service.validate_open(declared_bytes(request))
    encoding = encoding_of(request)
    body = await read_body(request)

    def parse() -> ForecastRequest:
        return exchange.read(body if encoding is None else unpack(body, encoding, limit), service.look_up)

    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await service.forecast(parse, len(body), False, deadline, exchange.write)
    except TimeoutError:
        raise ProblemError("deadline_exceeded", "The request's time was up before its forecast was done.") from None


def pinned(found: Resolved) -> str:
    """The very version that was looked at, whatever its alias points at by now."""
    return f"{found.model.version.name}/{found.model.version.version}"


def validate_complete(answer: Answer) -> None:
    """Refuse an answer with gaps where the protocol has no place for a series' own error.

    Raises:
        ProblemError: `nothing_to_forecast`, with every series at fault.
    """
    if answer.is_partial:
        fields = [outcome.as_field() for outcome in answer.outcomes if isinstance(outcome, SeriesError)]
        detail = f"{fields[0].message} This protocol answers for all series or for none."
        raise ProblemError("nothing_to_forecast", detail, fields)


def invalid(path: str, message: str) -> ProblemError:
    """One field of the request is wrong in a way that its schema cannot say.

    Args:
        path: Dotted, as in the protocol.
        message: What it must be; never the data.
    """
    return ProblemError("request_invalid", f"{path} {message}", [FieldProblem(path, "request_invalid", message)])
