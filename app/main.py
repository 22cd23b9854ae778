"""The application: `create_app(settings)` puts the parts together, its lifespan starts and stops them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from app.access.guard import Guard
from app.access.middleware import AccessMiddleware
from app.body_limit import BodyLimitMiddleware
from app.errors import install_handlers
from app.jobs.board import JobBoard
from app.jobs.datasets import DatasetStore
from app.jobs.limits import inspection_limits
from app.middleware import MeasuringMiddleware, ShortcutMiddleware
from app.openapi import build_openapi
from app.routes import datasets, forecast, health, jobs, metrics, models, protocols, runs, web
from app.services.admission import Admission
from app.services.catalog import Catalog
from app.services.engine import InferenceEngine
from app.services.forecasting import ForecastService
from app.services.metrics import ServiceMetrics
from app.services.shadow import ChallengerShadow
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
        # So are traces and metrics; FastAPI's own would be asked for at every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
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
        service_metrics,
        Admission(settings.max_queue_windows, settings.max_batch_windows, settings.max_wait_seconds),
        settings.max_batch_windows,
        settings.num_threads,
    )
    # The metrics are there, though empty, without one too.
    app.state.shadow = shadow = build_shadow(settings, catalog, engine, service_metrics)
    service_metrics.watch_shadow(shadow.rows if shadow is not None else tuple)
    app.state.forecasting = ForecastService(catalog, engine, service_metrics, settings, shadow)
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
    for router in (protocols.router, protocols.direct):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=web.STATIC))
    install_handlers(app)
    own_limits = frozenset({"/forecast", "/datasets", *protocols.DIRECT_PATHS})
    app.add_middleware(
        BodyLimitMiddleware, max_bytes=settings.max_body_bytes, seconds=settings.request_timeout_seconds, exempt=own_limits
    )
    # The last one added is the outermost.
    app.add_middleware(ShortcutMiddleware, routes={"/forecast": forecast.forecast})
    app.add_middleware(AccessMiddleware, guard=guard, metrics=service_metrics, has_access_log=settings.access_log)
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


def build_shadow(
    settings: ServiceSettings, catalog: Catalog, engine: InferenceEngine, metrics: ServiceMetrics
) -> ChallengerShadow | None:
    """What forecasts with a challenger in the background, if the settings name one."""
    if settings.shadow is None:
        return None
    return ChallengerShadow(
        catalog, engine, metrics, settings.shadow, settings.shadow_forecasts, settings.max_series_length
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.loop = asyncio.get_running_loop()
    app.state.engine.start()
    app.state.catalog.start()
    app.state.jobs.start()
    if app.state.shadow is not None:
        app.state.shadow.start()
    try:
        yield
    finally:
        if app.state.shadow is not None:
            app.state.shadow.stop()
        app.state.jobs.stop()
        app.state.catalog.stop()
        app.state.engine.stop()
        app.state.forecasting.close()


def _version() -> str:
    try:
        return metadata.version("gradcast")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return "0"
