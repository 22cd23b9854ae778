"""The application: `create_app(settings)` puts the parts together, its lifespan starts and stops them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.guard import Guard
from app.access.middleware import AccessMiddleware
from app.errors import install_handlers
from app.jobs.board import JobBoard
from app.jobs.datasets import DatasetStore
from app.jobs.limits import inspection_limits
from app.openapi import build_openapi
from app.routes import datasets, forecast, health, jobs, metrics, models, runs, web
from app.services.catalog import Catalog
from app.services.engine import InferenceEngine
from app.services.forecasting import ForecastService
from app.services.metrics import ServiceMetrics
from app.services.sources import DirectorySource, ModelSource
from app.settings import ServiceSettings, load_settings
from app.tracing import TracingMiddleware, build_provider

logger = logging.getLogger(__name__)


def create_app(settings: ServiceSettings | None = None, source: ModelSource | None = None) -> FastAPI:
    """Build the application; nothing is started or loaded before its lifespan begins.

    Args:
        settings: How to serve; from the environment if None.
        source: Where models come from; from the settings if None.
    """
    settings = settings or load_settings()
    app = FastAPI(
        title="gradcast", version=_version(), summary="Probabilistic forecasts of many time series.", lifespan=_lifespan,
        # The page of the documentation is our own: it works offline.
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.settings = settings
    app.state.guard = guard = Guard(settings)
    app.state.metrics = service_metrics = ServiceMetrics()
    app.state.catalog = catalog = Catalog(
        source or build_source(settings),
        service_metrics,
        names=settings.models,
        alias=settings.alias,
        poll_seconds=settings.poll_seconds,
        max_pinned_models=settings.max_pinned_models,
        # A directory needs no copy of itself.
        cache_directory=None if settings.bundle is not None else settings.cache_directory,
    )
    app.state.engine = engine = InferenceEngine(
        service_metrics, settings.max_queue_windows, settings.max_batch_windows, settings.num_threads
    )
    app.state.forecasting = ForecastService(catalog, engine, service_metrics, settings)
    app.state.datasets = dataset_store = DatasetStore(
        settings.jobs_directory / "datasets",
        settings.max_dataset_bytes,
        settings.max_datasets_bytes,
        inspection_limits(settings),
    )
    app.state.jobs = JobBoard(settings, dataset_store)
    app.state.views = OrderedDict()
    for module in (forecast, models, datasets, jobs, runs, web, health, metrics):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=web.STATIC))
    install_handlers(app)
    app.add_middleware(AccessMiddleware, guard=guard, has_access_log=settings.access_log)
    app.add_middleware(MeasuringMiddleware, metrics=service_metrics)
    if settings.tracing:
        app.add_middleware(TracingMiddleware, provider=build_provider())
    app.openapi = lambda: build_openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
    return app


def build_source(settings: ServiceSettings) -> ModelSource:
    """The registry, or the bundle directory that the settings name instead."""
    if settings.bundle is not None:
        name = settings.models[0] if settings.models else None
        return DirectorySource(settings.bundle, name, settings.alias)
    from app.services.registry_source import RegistrySource

    return RegistrySource(settings.tracking_uri, settings.cache_directory)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.loop = asyncio.get_running_loop()
    app.state.engine.start()
    app.state.catalog.start()
    app.state.jobs.start()
    try:
        yield
    finally:
        app.state.jobs.stop()
        app.state.catalog.stop()
        app.state.engine.stop()
        app.state.forecasting.close()


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
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if route != "unmatched" else "ANY"
        self._metrics.request_seconds.labels(route, method).observe(seconds)
        self._metrics.requests.labels(route, method, str(status)).inc()


def _version() -> str:
    try:
        return metadata.version("gradcast")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return "0"
