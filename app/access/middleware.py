"""What stands in front of every route: guard, id of the request, and headers that browsers obey."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.guard import STRANGER, Caller, Guard
from app.access.scopes import PUBLIC
from app.errors import ProblemError, build_problem_response, respond_to
from app.logs import REQUEST_ID, choose_request_id
from app.services.metrics import ServiceMetrics

access_logger = logging.getLogger("gradcast.access")
Header = tuple[bytes, bytes]

# A page brings its own policy; everything else is no document, and may load nothing and stand in no frame.
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class AccessMiddleware:
    """Admits and labels every request.

    Args:
        app: The application.
        guard: Who may come in.
        metrics: Where requests are counted by key.
        has_access_log: Whether every request has a line in the log.
    """

    def __init__(
        self, app: ASGIApp, guard: Guard, metrics: ServiceMetrics, has_access_log: bool = False
    ) -> None:
        self._app = app
        self._guard = guard
        self._metrics = metrics
        self._has_access_log = has_access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        # Of a header that was sent twice, the first counts.
        headers = dict(reversed(scope["headers"]))
        request_id = choose_request_id(headers.get(b"x-request-id"))
        token = REQUEST_ID.set(request_id)
        labels = (*SECURITY_HEADERS, (b"x-request-id", request_id.encode()))
        status = 0

        async def send_labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = complete(message.get("headers", ()), labels)
            await send(message)

        caller, problem = self._admit(scope, headers)
        scope.setdefault("state", {}).update(caller=caller, request_id=request_id)
        try:
            if problem is not None:
                self._guard.note_refusal(caller, f"{scope['method']} {scope['path']}", problem, request_id)
                await build_problem_response(Request(scope), problem)(scope, receive, send_labelled)
            else:
                await self._answer(scope, receive, send_labelled, lambda: status > 0)
        finally:
            if problem is None and caller is not STRANGER:
                self._guard.note_answer(caller, scope["method"], scope["path"], status, request_id)
            if caller.key is not None:
                self._metrics.observe_key(caller.key.id, problem is not None)
            if self._has_access_log:
                log_access(scope, caller, status, time.perf_counter() - begin)
            REQUEST_ID.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, has_begun: Callable[[], bool]) -> None:
        """Let the application answer; what it does not catch is answered here, so that this answer is labelled too."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if has_begun():
                raise
            request = Request(scope)
            await (await respond_to(request, error))(scope, receive, send)

    def _admit(self, scope: Scope, headers: Mapping[bytes, bytes]) -> tuple[Caller, ProblemError | None]:
        """Who asks, and why it may not."""
        caller = STRANGER
        try:
            self._guard.validate_host(headers)
            needed = self._guard.needed_scopes(scope["method"], scope["path"])
            if needed is not PUBLIC:
                caller = self._guard.identify(headers)
                self._guard.validate_allowed(caller, needed)
        except ProblemError as problem:
            return caller, problem
        return caller, None


def complete(headers: Iterable[Header], labels: Iterable[Header]) -> list[Header]:
    """An answer's headers, and those of `labels` that it does not set itself."""
    own = list(headers)
    names = {name for name, _ in own}
    return own + [label for label in labels if label[0] not in names]


def log_access(scope: Scope, caller: Caller, status: int, seconds: float) -> None:
    """One line about one request: its route's template, no query, no body."""
    route = getattr(scope.get("route"), "path", "unmatched")
    facts = {
        "method": scope["method"], "route": route, "status": status, "seconds": round(seconds, 6), "who": caller.name or None,
    }  # fmt: skip
    text = "%s %s answered with %d in %.1f ms"
    access_logger.info(text, scope["method"], route, status, 1000.0 * seconds, extra={"facts": facts})
