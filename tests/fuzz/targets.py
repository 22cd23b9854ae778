"""What hostile bytes are fed to. A target returns how the input was answered, and raises only where the product is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.main import create_app
from app.settings import ServiceSettings
from models.bundle import BundleManifest, load_bundle, manifest_hash, save_bundle
from models.config import GRUConfig
from models.errors import BundleError
from models.registry import build_forecaster
from tests.integration.service.service_bundles import write_bundle
from training.config import DataConfig, TrainingConfig, build_config, load_config
from training.data.audit import audit_file
from training.data.panel import load_panel
from training.errors import ConfigurationError, DataError

Target = Callable[[bytes], str]
ENDINGS = (".csv", ".csv", ".csv.gz", ".parquet", ".tsf")
# Statuses that are an answer; 500 is a crash.
MAX_ANSWER_BYTES = 1 << 20


class CrashError(AssertionError):
    """An answer that no input may get."""


class ReaderTarget:
    """First byte: ending of the file; the rest is its content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, data: bytes) -> str:
        path = self._folder / f"input{ENDINGS[data[0] % len(ENDINGS)] if data else '.csv'}"
        path.write_bytes(data[1:])
        config = DataConfig(path=str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            audit = audit_file(path, config)
            audit.to_text()
            try:
                load_panel(config)
            except DataError as error:
                if audit.is_usable:
                    raise CrashError("the audit calls usable what the reader refuses") from error
                return " ".join(sorted({problem.code for problem in error.problems}))
        return "loaded"


class ConfigTarget:
    """A YAML file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "config.yaml"

    def __call__(self, data: bytes) -> str:
        self._path.write_bytes(data)
        try:
            config = load_config(self._path)
        except ConfigurationError as error:
            str(error)
            return f"refused {min(len(error.problems), 6)}"
        again = build_config(config.model_dump(by_alias=True))
        if not isinstance(again, TrainingConfig) or again.to_yaml() != config.to_yaml():
            raise CrashError("a configuration that was read is not what it writes")
        return "valid"


class BundleTarget:
    """A bundle by somebody who knows the format: first byte names the file that the rest replaces; the hashes are made right."""

    FILES = ("bundle.json", "weights.safetensors", "golden.json")

    def __init__(self, folder: Path) -> None:
        self._original, self._victim = folder / "original", folder / "victim"
        config = GRUConfig(context_length=6, horizon=2, hidden_size=3)
        save_bundle(self._original, build_forecaster(config), BundleManifest(network=config, freq="h", season_length=4))

    def seeds(self) -> list[bytes]:
        """Every file as it is."""
        return [bytes([index]) + (self._original / name).read_bytes() for index, name in enumerate(self.FILES)]

    def __call__(self, data: bytes) -> str:
        shutil.rmtree(self._victim, ignore_errors=True)
        shutil.copytree(self._original, self._victim)
        name = self.FILES[data[0] % len(self.FILES)] if data else self.FILES[0]
        (self._victim / name).write_bytes(data[1:])
        self._make_hashes_right()
        try:
            load_bundle(self._victim)
        except BundleError as error:
            return error.where.rpartition("/")[2][:40] + error.contract[:24]
        return "loaded"

    def _make_hashes_right(self) -> None:
        path = self._victim / "bundle.json"
        try:
            document = json.loads(path.read_bytes())
            document["sha256"] = {
                name: hashlib.sha256((self._victim / name).read_bytes()).hexdigest() for name in self.FILES[1:]
            }
            document["manifest_sha256"] = manifest_hash(document)
            path.write_text(json.dumps(document))
        except (ValueError, TypeError, RecursionError):
            return


@dataclass(frozen=True)
class Route:
    """A method and a path whose `{}` are filled from the input."""

    method: str
    path: str


class RoutesTarget:
    """First byte: route; up to a line feed: what its path and query hold; the rest is the body."""

    ROUTES = tuple(
        Route(*words.split())
        for words in (
            "POST /forecast", "POST /forecast", "POST /forecast", "POST /jobs", "GET /jobs/{}", "POST /jobs/{}/cancel",
            "POST /jobs/{}/resume", "GET /datasets/{}", "DELETE /datasets/{}", "GET /models/{}", "POST /models/{}/promote",
            "GET /runs/{}/gradients", "GET /{}", "POST /v1/{}", "GET /jobs/{}/events", "GET /datasets/{}/preview",
            "POST /datasets",
        )
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        write_bundle(folder / "bundles" / "plain" / "1")
        settings = ServiceSettings(
            bundle=folder / "bundles", poll_seconds=1000.0, jobs_directory=folder / "jobs", job_workers=0,
            max_body_bytes=1 << 18, request_timeout_seconds=4.0, max_waiting_jobs=5, max_datasets_bytes=1,
        )  # fmt: skip
        self._app = create_app(settings)
        self._loop = asyncio.new_event_loop()
        self._lifespan = self._app.router.lifespan_context(self._app)
        self._loop.run_until_complete(self._lifespan.__aenter__())
        self._loop.run_until_complete(self._wait_ready())

    def close(self) -> None:
        """End the application."""
        self._loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __call__(self, data: bytes) -> str:
        route = self.ROUTES[data[0] % len(self.ROUTES)] if data else self.ROUTES[0]
        filled, _, body = data[1:].partition(b"\n")
        text = filled.decode("utf-8", "replace")
        status, headers, content = self._loop.run_until_complete(self._request(route, text, body))
        return self._judge(status, headers, content)

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


def build_targets(folder: Path) -> dict[str, Target]:
    """Every target, with a place of its own."""
    makers: dict[str, Callable[[Path], Target]] = {
        "reader": ReaderTarget, "config": ConfigTarget, "bundle": BundleTarget, "routes": RoutesTarget,
    }  # fmt: skip
    targets = {}
    for name, make in makers.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        targets[name] = make(folder / name)
    return targets


