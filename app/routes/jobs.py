"""`POST /jobs`, `GET /jobs`, one job, its events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import StreamingResponse

from app.dependencies import NEW_WORK, SAME_SITE, engine_of, jobs_of
from app.jobs.board import JobBoard
from app.jobs.events import watch
from app.schemas.jobs import JobBody, JobList, JobRequest
from app.schemas.problem import build_problem_docs

router = APIRouter(tags=["jobs"])
Jobs = Annotated[JobBoard, Depends(jobs_of)]

DESCRIPTION = """
`config` is what the YAML file of `gradcast train` holds; everything left out is chosen from the data, and said in the job's
log. `data.path` and `tracking.uri` are the service's own and refused. The training is `gradcast train` in a process of its
own with limits on time and memory. After a crash it goes on from its last checkpoint.
"""


EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@router.post(
    "/jobs",
    dependencies=NEW_WORK,
    summary="Train a model",
    description=DESCRIPTION,
    status_code=202,
    responses=build_problem_docs(
        "cross_site_request", "dataset_not_found", "request_invalid", "queue_full", "draining", "internal_error"
    ),
)
def submit_job(body: JobRequest, jobs: Jobs) -> JobBody:
    """Queue a training job."""
    return jobs.submit(body)


@router.get("/jobs", summary="List training jobs")
def list_jobs(jobs: Jobs) -> JobList:
    """The newest two hundred, with step, loss, reach and verdict."""
    return jobs.list_jobs()


@router.get("/jobs/{job_id}", summary="Show a training job", responses=build_problem_docs("job_not_found"))
def show_job(job_id: str, jobs: Jobs) -> JobBody:
    """One job with its configuration, its scores and the end of its log."""
    return jobs.show(job_id)


@router.post(
    "/jobs/{job_id}/cancel",
    dependencies=SAME_SITE,
    summary="Stop a training job",
    status_code=202,
    responses=build_problem_docs("cross_site_request", "job_not_found", "job_ended"),
)
def cancel_job(job_id: str, jobs: Jobs) -> JobBody:
    """A running job writes a checkpoint first; it is `cancelled` some seconds later and can be resumed."""
    return jobs.cancel(job_id)


@router.post(
    "/jobs/{job_id}/resume",
    dependencies=SAME_SITE,
    summary="Go on with a stopped training job",
    status_code=202,
    responses=build_problem_docs("cross_site_request", "job_not_found", "job_not_resumable"),
)
def resume_job(job_id: str, jobs: Jobs) -> JobBody:
    """A cancelled or failed job is queued again and goes on from its last checkpoint."""
    return jobs.resume(job_id)


@router.get(
    "/jobs/{job_id}/events",
    summary="Watch a training job",
    response_class=StreamingResponse,
    responses=EVENTS | build_problem_docs("job_not_found"),
)
async def watch_job(
    job_id: str, request: Request, jobs: Jobs, last_event_id: Annotated[str, Header()] = ""
) -> StreamingResponse:
    """Server-sent events: `progress` (loss, gradient norm, reach), `view` (verdict and curves), `job`, `end`."""
    jobs.find(job_id)
    offset = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 16 else 0
    engine = engine_of(request)

    async def texts() -> AsyncIterator[str]:
        async for text in watch(jobs, job_id, offset, lambda: engine.is_draining):
            yield text

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(texts(), media_type="text/event-stream", headers=headers)
