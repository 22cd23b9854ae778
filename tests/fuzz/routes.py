"""Every route of the service, fed without sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import patch

from fastapi import FastAPI

from app.jobs import inspection
from app.jobs.subprocesses import Ended, Limits
from app.main import create_app
from app.settings import ServiceSettings
from models.columns import Columns
from tests.fuzz.mutations import forecast_body
from tests.fuzz.targets import CrashError
from tests.integration.service.service_bundles import build_context, write_bundle

MAX_ANSWER_BYTES = 1 << 20
# Routes that take the most decisions are fed more often.
FORECAST_SHARE = 8


@dataclass(frozen=True)
class Route:
    """A method and a path whose `{}` are filled from the input."""

    method: str
    path: str


class RoutesTarget:
    """First byte: route; up to a line feed: what its path and query hold; the rest is the body.

    The routes are those of the OpenAPI document, so a new one is fed from its first day. An upload is audited in this process,
    for a process per input would measure the system; what the process around it limits has its own tests.
    """

    def __init__(self, folder: Path) -> None:
        columns = Columns(futr_exog=("temp",))
        write_bundle(folder / "bundles" / "plain" / "1")
        write_bundle(folder / "bundles" / "known" / "1", columns, context=build_context(columns))
        settings = ServiceSettings(
            bundle=folder / "bundles", poll_seconds=1000.0, jobs_directory=folder / "jobs", job_workers=0, open="always",
            keys_directory=folder / "keys", max_body_bytes=1 << 18, request_timeout_seconds=4.0, max_waiting_jobs=5,
            max_dataset_bytes=1 << 15, max_datasets_bytes=1 << 17,
        )  # fmt: skip
        self._app = create_app(settings)
        self.routes = _routes(self._app)
        self._patch = patch("app.jobs.datasets.run_limited", _inspect_here)
        self._patch.start()
        self._loop = asyncio.new_event_loop()
        self._lifespan = self._app.router.lifespan_context(self._app)
        self._loop.run_until_complete(self._lifespan.__aenter__())
        self._loop.run_until_complete(self._wait_ready())

    def seeds(self) -> list[bytes]:
        """Every route with a path that exists and one that does not, and bodies that are answered."""
        job = json.dumps({"dataset_id": "0" * 32, "config": {"fit": {"max_steps": 5}}}).encode()
        rows = b"ds,y\n" + b"".join(b"2026-01-%02d,%d\n" % (day, day % 7) for day in range(1, 29))
        known = json.dumps({"model": "known", "series": [{"unique_id": "known", "futr_exog": {"temp": [1.0] * 5}}]}).encode()
        bodies = (forecast_body(), known, job, b'{"version": 1, "override": "because"}', rows)
        return [
            bytes([number]) + filled + b"\n" + body
            for number, route in enumerate(self.routes)
            for filled in ((b"plain", b"0" * 32) if "{}" in route.path else (b"",))
            for body in (bodies if route.method == "POST" else (b"",))
        ]

    def close(self) -> None:
        """End the application."""
        self._patch.stop()
        self._loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __call__(self, data: bytes) -> str:
        route = self.routes[data[0] % len(self.routes)] if data else self.routes[0]
        filled, _, body = data[1:].partition(b"\n")
        text = filled.decode("utf-8", "replace")
        status, headers, content = self._loop.run_until_complete(self._request(route, text, body))
        answer = self._judge(status, headers, content)
        if status == 201:  # room for the next one
            kept = Route("DELETE", f"/datasets/{json.loads(content)['id']}")
            self._loop.run_until_complete(self._request(kept, "", b""))
        return f"{route.method} {route.path} {answer}"

    @staticmethod
    def _judge(status: int, headers: Mapping[str, str], content: bytes) -> str:
        if status == 500 or status < 200:
            raise CrashError(f"status {status}: {content[:300]!r}")
        if len(content) > MAX_ANSWER_BYTES:
            raise CrashError(f"an answer of {len(content)} bytes")
        if status >= 400:
            document = json.loads(content)
            if headers.get("content-type") != "application/problem+json" or not document.get("code"):
                raise CrashError(f"an error that is no problem document: {content[:200]!r}")
            return f"{status} {document['code']}"
        if "json" in headers.get("content-type", ""):
            json.loads(content, parse_constant=_refuse_constant)
        return str(status)

    async def _request(self, route: Route, text: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        path, _, query = route.path.replace("{}", text).partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": route.method, "scheme": "http",
            "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": query.encode("utf-8", "replace"),
            "root_path": "", "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "state": {},
        }  # fmt: skip
        pieces = [body[start : start + 4096] for start in range(0, len(body), 4096)] or [b""]
        sent = iter([{"type": "http.request", "body": piece, "more_body": True} for piece in pieces])
        answer: dict[str, Any] = {"status": 0, "headers": {}, "content": b""}

        async def receive() -> dict[str, Any]:
            return next(sent, None) or {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                answer["headers"] = {key.decode().lower(): value.decode() for key, value in message["headers"]}
            else:
                answer["content"] += message.get("body", b"")

        # What the server reports after an answer with 500 is raised again by the framework; the answer is what counts.
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            raise CrashError(f"{route.method} {route.path}: {type(error).__name__}: {error}"[:500]) from error
        return answer["status"], answer["headers"], answer["content"]

    async def _wait_ready(self) -> None:
        for _ in range(2000):
            status, _, _ = await self._request(Route("GET", "/readyz"), "", b"")
            if status == 200:
                return
            await asyncio.sleep(0.02)
        raise RuntimeError("the service never became ready")


def _refuse_constant(name: str) -> float:
    raise CrashError(f"{name} in an answer")


def _routes(app: FastAPI) -> list[Route]:
    """Every operation of the OpenAPI document, the forecast several times, and what has no route."""
    described = [
        Route(method.upper(), re.sub(r"\{[^}]*\}", "{}", path))
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    ]
    return [*described, Route("GET", "/{}"), Route("POST", "/v1/{}"), *[Route("POST", "/forecast")] * FORECAST_SHARE]


def _inspect_here(command: Sequence[str], _limits: Limits, _stdout: BinaryIO | int, _stderr: BinaryIO | int) -> Ended:
    inspection.main(list(command)[-4:])
    return Ended(0, "exit", 0.0)
