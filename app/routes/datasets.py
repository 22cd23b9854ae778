"""`POST /datasets`, `GET /datasets`: what jobs train on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from app.dependencies import NEW_WORK, SAME_SITE, body_too_slow, datasets_of, jobs_of
from app.errors import ProblemError
from app.jobs.board import JobBoard
from app.jobs.datasets import DatasetStore
from app.schemas.datasets import DatasetBody, DatasetList, DatasetPreview, DatasetSummary, UploadOptions
from app.schemas.problem import build_problem_docs

router = APIRouter(tags=["datasets"])
Datasets = Annotated[DatasetStore, Depends(datasets_of)]

IDLE_SECONDS = 30.0
# Beyond the first half minute: slower than any line that carries a file to its end.
MIN_BYTES_PER_SECOND = 16 * 1024
DESCRIPTION = """
The body is the file itself, not a form: `curl --data-binary @sales.csv 'http://127.0.0.1:8000/datasets?name=sales.csv'`.
CSV, CSV.gz, parquet or Monash .tsf.

It is audited as `gradcast validate` does. If training would refuse it, the answer is a 422 with the `audit`, and nothing is
kept. Columns with other names than `unique_id`, `ds` and `y` are found where that is possible without doubt; `columns` says
what was found. The same content has the same id however often it is sent.
"""


KNOWN: dict[int | str, dict[str, Any]] = {200: {"model": DatasetBody, "description": "This content was already here."}}


@router.post(
    "/datasets",
    dependencies=NEW_WORK,
    summary="Upload a data set",
    description=DESCRIPTION,
    status_code=201,
    responses=KNOWN
    | build_problem_docs(
        "client_disconnected", "cross_site_request", "body_too_large", "content_encoding_unsupported",
        "request_invalid", "dataset_invalid",
        "queue_full", "draining", "body_too_slow", "storage_full",
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)  # fmt: skip
async def upload_dataset(
    request: Request, response: Response, options: Annotated[UploadOptions, Query()], datasets: Datasets
) -> DatasetBody:
    """Receive and audit a file."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ProblemError("content_encoding_unsupported", "Send the file as it is; a .csv.gz is read as such.")
    body, is_new = await datasets.receive(_chunks(request), options)
    response.status_code = 201 if is_new else 200
    return body


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The upload as it comes; one that trickles is cut off, for there is room for few at once."""
    stream = request.stream()
    began, num_bytes = time.monotonic(), 0
    while True:
        deadline = began + IDLE_SECONDS + num_bytes / MIN_BYTES_PER_SECOND
        try:
            async with asyncio.timeout(max(0.0, min(IDLE_SECONDS, deadline - time.monotonic()))):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise body_too_slow() from None
        except ClientDisconnect:
            raise ProblemError("client_disconnected", "The client left before its upload was complete.") from None
        num_bytes += len(chunk)
        yield chunk


@router.get("/datasets", summary="List data sets")
def list_datasets(datasets: Datasets) -> DatasetList:
    """Every data set with the summary of its audit, the newest first."""
    return DatasetList(datasets=[DatasetSummary(**body.model_dump(exclude={"problems"})) for body in datasets.list_datasets()])


@router.get("/datasets/{dataset_id}", summary="Show a data set", responses=build_problem_docs("dataset_not_found"))
def show_dataset(dataset_id: str, datasets: Datasets) -> DatasetBody:
    """One data set with the findings of its audit."""
    return datasets.find(dataset_id)


@router.get(
    "/datasets/{dataset_id}/preview",
    summary="The end of its first series",
    responses=build_problem_docs("dataset_not_found"),
)
def preview_dataset(dataset_id: str, datasets: Datasets) -> DatasetPreview:
    """The last 600 steps of the first 24 series, on their regular grid."""
    return datasets.preview(dataset_id)


@router.delete(
    "/datasets/{dataset_id}",
    dependencies=SAME_SITE,
    summary="Remove a data set",
    status_code=204,
    responses=build_problem_docs("cross_site_request", "dataset_not_found", "dataset_in_use"),
)
def remove_dataset(dataset_id: str, datasets: Datasets, jobs: Annotated[JobBoard, Depends(jobs_of)]) -> None:
    """Delete the file; refused while a job that has not ended needs it."""
    if jobs.needs(dataset_id):
        raise ProblemError("dataset_in_use", "A job that has not ended trains on this data set. Cancel it first.")
    datasets.remove(dataset_id)
