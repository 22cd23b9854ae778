"""A limit on the size and the slowness of every body, before anything reads it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """Counts bytes and seconds while a body is received; routes that limit their bodies themselves are left alone.

    Args:
        app: The application.
        max_bytes: Largest body.
        seconds: Longest time from the first byte to the last.
        exempt: Paths of the routes that do it themselves.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, exempt: frozenset[str]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        deadline, num_bytes, is_complete = time.monotonic() + self._seconds, 0, False

        async def limited() -> Message:
            nonlocal num_bytes, is_complete
            if is_complete:  # what follows the body is the client's leaving, however late
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers={"Connection": "close"}) from None
            num_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if num_bytes > self._max_bytes:
                raise HTTPException(413, headers={"Connection": "close"})
            return message

        await self._app(scope, limited, send)
