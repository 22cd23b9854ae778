"""`POST /jobs`, `GET /jobs`, one job, its events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import StreamingResponse

from app.access.guard import Caller
from app.dependencies import NEW_WORK, SAME_SITE, caller_of, engine_of, jobs_of
from app.jobs.board import JobBoard
from app.jobs.events import watch
from app.jobs.job_directory import ANONYMOUS
from app.schemas.jobs import JobBody, JobList, JobRequest, JobSummary
from app.schemas.problem import build_problem_docs

router = APIRouter(tags=["jobs"])
Jobs = Annotated[JobBoard, Depends(jobs_of)]
Asker = Annotated[Caller, Depends(caller_of)]
Job = TypeVar("Job", bound=JobSummary)

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
def submit_job(body: JobRequest, jobs: Jobs, caller: Asker) -> JobBody:
    """Queue a training job."""
    return _as_told(jobs.submit(body, caller.key.name if caller.key is not None else ANONYMOUS), caller)


@router.get("/jobs", summary="List training jobs")
def list_jobs(jobs: Jobs, caller: Asker) -> JobList:
    """The newest two hundred, with step, loss, reach and verdict; those that wait with their place in the queue."""
    found = jobs.list_jobs()
    return JobList(jobs=[_as_told(job, caller) for job in found.jobs], has_worker=found.has_worker)


@router.get("/jobs/{job_id}", summary="Show a training job", responses=build_problem_docs("job_not_found"))
def show_job(job_id: str, jobs: Jobs, caller: Asker) -> JobBody:
    """One job with its configuration, its scores and the end of its log."""
    return _as_told(jobs.show(job_id), caller)


@router.post(
    "/jobs/{job_id}/cancel",
    dependencies=SAME_SITE,
    summary="Stop a training job",
    status_code=202,
    responses=build_problem_docs("cross_site_request", "job_not_found", "job_ended"),
)
def cancel_job(job_id: str, jobs: Jobs, caller: Asker) -> JobBody:
    """A running job writes a checkpoint first; it is `cancelled` some seconds later and can be resumed."""
    return _as_told(jobs.cancel(job_id), caller)


@router.post(
    "/jobs/{job_id}/resume",
    dependencies=SAME_SITE,
    summary="Go on with a stopped training job",
    status_code=202,
    responses=build_problem_docs("cross_site_request", "job_not_found", "job_not_resumable"),
)
def resume_job(job_id: str, jobs: Jobs, caller: Asker) -> JobBody:
    """A cancelled or failed job is queued again and goes on from its last checkpoint."""
    return _as_told(jobs.resume(job_id), caller)


@router.get(
    "/jobs/{job_id}/events",
    summary="Watch a training job",
    response_class=StreamingResponse,
    responses=EVENTS | build_problem_docs("job_not_found"),
)
async def watch_job(
    job_id: str, request: Request, jobs: Jobs, caller: Asker, last_event_id: Annotated[str, Header()] = ""
) -> StreamingResponse:
    """Server-sent events: `progress` (loss, gradient norm, reach), `view` (verdict and curves), `job`, `end`."""
    jobs.find(job_id)
    offset = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 16 else 0
    engine = engine_of(request)

    async def texts() -> AsyncIterator[str]:
        async for text in watch(
            lambda: _as_told(jobs.summarize(job_id), caller), jobs.find(job_id).run, offset, lambda: engine.is_draining
        ):
            yield text

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(texts(), media_type="text/event-stream", headers=headers)


def _as_told(job: Job, caller: Caller) -> Job:
    """A job as this caller may see it: names of keys are for their owners and for `admin`."""
    return job if caller.knows(job.user) else job.model_copy(update={"user": None})
