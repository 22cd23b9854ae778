"""`GET /livez`, `GET /readyz`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from app.dependencies import catalog_of, engine_of
from app.errors import ProblemError
from app.schemas.models import AliveBody, ModelReadiness, ReadyBody, SourceReadiness
from app.schemas.problem import build_problem_docs
from app.services.catalog import Catalog
from app.services.engine import InferenceEngine

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
async def livez() -> AliveBody:
    """Answers as long as the event loop turns; says nothing about models."""
    return AliveBody()


@router.get("/readyz", summary="Can it forecast?", responses=build_problem_docs("not_ready", "draining"))
async def readyz(
    catalog: Annotated[Catalog, Depends(catalog_of)], engine: Annotated[InferenceEngine, Depends(engine_of)]
) -> ReadyBody:
    """200 while every model asked for is loaded and requests are admitted, else 503 with the same members.

    A model that keeps serving because its newer version is broken is ready: `is_degraded`, and its `last_error` says why.
    """
    body = build_readiness(catalog, engine)
    if body.status != "ready":
        details = {"draining": "The service is shutting down.", "not_ready": "Not every model is loaded."}
        members = body.model_dump(exclude={"status"})
        raise ProblemError(body.status, details[body.status], headers={"Retry-After": "1"}, extensions=members)
    return body


def build_readiness(catalog: Catalog, engine: InferenceEngine) -> ReadyBody:
    """The state of models, source and queue."""
    is_able = catalog.is_ready and engine.is_alive
    models = [_model_readiness(catalog, name) for name in catalog.served_names]
    return ReadyBody(
        status="draining" if engine.is_draining else "ready" if is_able else "not_ready",
        is_degraded=catalog.source_error is not None or any(model.is_ready and model.last_error for model in models),
        models=models,
        source=SourceReadiness(
            kind=catalog.source.kind,
            has_answered=catalog.has_polled and catalog.source_error is None,
            last_error=catalog.source_error,
        ),
        queue_windows=engine.admitted_windows,
    )


def _model_readiness(catalog: Catalog, name: str) -> ModelReadiness:
    loaded = catalog.loaded.get(name)
    return ModelReadiness(
        name=name,
        is_ready=loaded is not None,
        version=loaded.version.version if loaded is not None else None,
        last_error=catalog.last_error(name),
    )
