"""What surrounds every request: counting and timing, and a short way to the route that most requests want."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import respond_to
from app.services.metrics import ServiceMetrics

Endpoint = Callable[[Request], Awaitable[Response]]
UNMATCHED = "unmatched"


class MeasuringMiddleware:
    """Counts and times every request by its route's template, so that paths cannot flood the metrics.

    Args:
        app: The application.
        metrics: Where to count.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            self._observe(scope, status, time.perf_counter() - begin)

    def _observe(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", None)
        if path is None:
            self._metrics.observe_request(UNMATCHED, "ANY", status, seconds)
        else:
            self._metrics.observe_request(path, scope["method"], status, seconds)


class ShortcutMiddleware:
    """Hands requests for one route straight to its endpoint.

    Finding the route and unwrapping it costs as much as answering a small request. The route itself stays in the application's
    router, for its documentation; errors are answered by the same handlers.

    Args:
        app: The application, which gets every other request.
        routes: Endpoint by path; each takes `POST` alone.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._routes = {path: (endpoint, ShortRoute(path)) for path, endpoint in routes.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        found = self._routes.get(scope.get("path", ""))
        if found is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        endpoint, scope["route"] = found
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except Exception as error:  # noqa: BLE001  every error has an answer, as in the router
            response = await respond_to(request, error)
        await response(scope, receive, send)


class ShortRoute:
    """Stands in the scope for the route that was not looked up.

    Args:
        path: Its template.
    """

    def __init__(self, path: str) -> None:
        self.path = path
