"""`GET /runs/{run_id}/gradients`, `POST /models/{name}/promote`: how a model learned, and whether it takes over."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from app.dependencies import SAME_SITE, catalog_of, datasets_of, jobs_of, settings_of
from app.errors import ProblemError
from app.jobs.board import JobBoard
from app.jobs.datasets import DatasetStore
from app.jobs.progress import read_view
from app.jobs.promotion import ask_gate
from app.jobs.worker import training_environment
from app.schemas.gradients import GradientsBody
from app.schemas.jobs import PromotionBody
from app.schemas.problem import build_problem_docs
from app.services.catalog import Catalog
from app.settings import ServiceSettings
from training.config import TrackingConfig
from training.errors import ModelNotFoundError
from training.tracking.environment import resolve_uri
from training.tracking.run_files import VIEW, download_run

router = APIRouter(tags=["models"])
_RECORDED_RUN = re.compile(r"[0-9a-f]{32}")
MAX_KEPT = 32
Settings = Annotated[ServiceSettings, Depends(settings_of)]
Jobs = Annotated[JobBoard, Depends(jobs_of)]


class PromotionRequest(BaseModel):
    """Which version is to be champion."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    version: int = Field(ge=1)
    """Number of the version."""
    override: str | None = Field(default=None, min_length=3, max_length=500)
    """Why to promote it against the gate; kept with the version."""


@router.get(
    "/runs/{run_id}/gradients",
    summary="How a run learned",
    responses=build_problem_docs("run_not_found", "model_unavailable"),
)
def show_gradients(run_id: str, request: Request, settings: Settings, jobs: Jobs) -> GradientsBody:
    """Verdict in words, gradient norms, lag curves of every layer over the training, findings with remedies.

    `run_id` is the id of a job, running or finished, or of a recorded run.
    """
    directory = jobs.find_run(run_id)
    view = read_view(directory)[0] if directory is not None else None
    if view is None and _RECORDED_RUN.fullmatch(run_id) and settings.bundle is None:
        view = _recorded_view(request, settings, run_id)
    if view is None:
        detail = "No run of this id has recorded its gradients. A running one does at its first validation check."
        raise ProblemError("run_not_found", detail)
    return GradientsBody.model_validate(view)


def _recorded_view(request: Request, settings: ServiceSettings, run_id: str) -> dict[str, Any] | None:
    """The view of a run that has ended; it does not change any more, so that it is fetched once."""
    kept: OrderedDict[str, dict[str, Any]] = request.app.state.views
    if run_id in kept:
        return kept[run_id]
    try:
        run = download_run(resolve_uri(TrackingConfig(uri=settings.tracking_uri)), run_id, settings.cache_directory)
        view: dict[str, Any] = json.loads((run / VIEW).read_bytes())
    except (ModelNotFoundError, FileNotFoundError):
        return None
    kept[run_id] = view
    while len(kept) > MAX_KEPT:
        kept.popitem(last=False)
    return view


@router.post(
    "/models/{name}/promote",
    dependencies=SAME_SITE,
    summary="Make a version champion",
    responses=build_problem_docs(
        "cross_site_request", "model_not_found", "request_invalid", "promotion_refused", "model_unavailable"
    ),
)
def promote_model(
    name: str,
    body: PromotionRequest,
    settings: Settings,
    jobs: Jobs,
    datasets: Annotated[DatasetStore, Depends(datasets_of)],
    catalog: Annotated[Catalog, Depends(catalog_of)],
) -> PromotionBody:
    """The gate moves `champion` only to a healthy version that beats champion and seasonal naive on one backtest.

    If it refuses, the answer is a 409 whose `decision` gives the reasons. `override` promotes all the same; the reason is kept.
    """
    catalog.refresh()
    listing = next((listing for listing in catalog.listings if listing.name == name), None)
    if listing is None or listing.by_number(body.version) is None:
        raise ModelNotFoundError(f"model {name[:64]!r} version {body.version}", "one that is served", "unknown")
    if settings.bundle is not None:
        raise ProblemError("promotion_refused", "This service serves a directory; there is no registry to promote in.")
    environment = training_environment(settings)
    data = _data_of(jobs, datasets, name, body.version)
    answer = ask_gate(settings, environment, name, body.version, data, body.override)
    if not answer.is_promoted:
        detail = " ".join(answer.reasons)
        raise ProblemError("promotion_refused", detail, extensions={"decision": answer.model_dump()})
    catalog.refresh()
    return answer


def _data_of(jobs: JobBoard, datasets: DatasetStore, name: str, version: int) -> Path | None:
    """The file a version was trained on, if a job of this service did it and the file is still here."""
    job = jobs.find_by_version(name, version)
    if job is None:
        return None
    try:
        return datasets.content_path(job.spec.dataset_id)
    except ProblemError:
        return None
