"""The worker: a process of its own that takes jobs off the queue and runs their trainings.

The queue is DBOS over SQLite or PostgreSQL: it keeps the order, hands every job to one worker, and limits how many run at once.
Whether a job lives is decided by its lock, so that a job whose worker was killed is handed out again by any other.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from app.jobs.datasets import DatasetStore
from app.jobs.job_directory import JobDirectory
from app.jobs.limits import inspection_limits, job_limits
from app.jobs.promotion import promoting
from app.jobs.trainer import Trainer
from app.settings import ServiceSettings
from training.config import TrackingConfig
from training.file_lock import take_lock
from training.tracking.environment import resolve_uri

logger = logging.getLogger(__name__)

QUEUE = "training"
# Rows of the queue name this instead of a release: a job outlives an update of the program.
APPLICATION_VERSION = "1"
SWEEP_SECONDS = 0.5
# A job that was handed out and not begun for so long has lost its worker.
LOST_SECONDS = 15.0


class Worker:
    """Hands jobs to the queue and runs what the queue hands back.

    Args:
        settings: Where jobs are, and their limits.
        datasets: What they train on.
        idle_seconds: Leave after so long without a job; None = stay.
    """

    def __init__(self, settings: ServiceSettings, datasets: DatasetStore, idle_seconds: float | None = None) -> None:
        self._root = settings.jobs_directory
        self._settings = settings
        self._idle_seconds = idle_seconds
        self._is_stopping = False
        environment = training_environment(settings)
        self._trainer = Trainer(
            job_limits(settings), datasets.content_path, environment, lambda: self._is_stopping,
            promoting(settings, environment, datasets.content_path),
        )  # fmt: skip

    def stop(self) -> None:
        """Let trainings write a checkpoint and leave; the next worker takes them up."""
        self._is_stopping = True

    def run(self) -> None:
        """Work until told to stop, or until there has been nothing to do for long enough."""
        presence = announce(self._root)
        dispatch, close = self._open_queue()
        busy_at = time.monotonic()
        try:
            while not self._is_stopping:
                open_jobs = [job for job in JobDirectory.list_under(self._root / "jobs") if job.is_open]
                for job in reversed(open_jobs):
                    if not job.is_locked:
                        dispatch(job)
                if open_jobs:
                    busy_at = time.monotonic()
                elif self._idle_seconds is not None and time.monotonic() - busy_at > self._idle_seconds:
                    return
                time.sleep(SWEEP_SECONDS)
        finally:
            self.stop()
            close()
            os.close(presence)

    def _open_queue(self) -> tuple[Callable[[JobDirectory], None], Callable[[], None]]:
        """Start DBOS; returns what puts a job into the queue, and what ends it."""
        # Two seconds of import that only this process pays.
        from dbos import DBOS, SetWorkflowID

        from app.jobs.queue_format import JsonSerializer, refuse_pickles

        refuse_pickles()
        DBOS(
            config={
                "name": "gradcast", "system_database_url": queue_url(self._settings),
                "executor_id": f"{socket.gethostname()}-{secrets.token_hex(4)}",
                "application_version": APPLICATION_VERSION, "enable_otlp": False, "log_level": "WARNING",
                "serializer": JsonSerializer(),
            }
        )  # fmt: skip

        @DBOS.workflow(name="train")
        def train(job_id: str) -> str:
            job = JobDirectory.find(self._root / "jobs", job_id)
            if job is None:
                return "gone"
            try:
                self._trainer.run(job)
            except Exception:  # the queue must go on; what it was stands in the worker's log
                logger.exception("job %s", job_id)
                job.finish("failed", "internal_error", "The worker failed on this job; its log says why.")
            return job.state

        def dispatch(job: JobDirectory) -> None:
            # One workflow for every start: whichever workers see a job that nobody runs, the queue takes it in once.
            turn = f"{job.path.name}.{len(job.attempts)}.{job.generation}"
            status = DBOS.get_workflow_status(turn)
            if status is None:
                with SetWorkflowID(turn):
                    DBOS.enqueue_workflow(QUEUE, train, job.path.name)
            elif status.status != "ENQUEUED" and _seconds_since(status.updated_at) > LOST_SECONDS:
                DBOS.resume_workflow(turn, queue_name=QUEUE)

        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=max(1, self._settings.job_workers), polling_interval_sec=0.5)
        grace = int(self._trainer.limits.grace_seconds) + 5
        return dispatch, lambda: DBOS.destroy(workflow_completion_timeout_sec=grace)


def _seconds_since(milliseconds: int | None) -> float:
    return time.time() - (milliseconds or 0) / 1000


def queue_url(settings: ServiceSettings) -> str:
    """The queue's database: as configured, else a SQLite file beside the jobs."""
    return settings.queue_url or f"sqlite:///{(settings.jobs_directory / 'queue.db').resolve()}"


def announce(root: Path) -> int:
    """Hold a lock that says a worker lives; returns its descriptor. Marks of dead workers are removed."""
    directory = root / "workers"
    directory.mkdir(parents=True, exist_ok=True)
    for entry in directory.iterdir():
        descriptor = take_lock(entry)
        if descriptor is not None:
            entry.unlink(missing_ok=True)
            os.close(descriptor)
    own = take_lock(directory / f"{socket.gethostname()}-{secrets.token_hex(4)}")
    assert own is not None
    return own


def training_environment(settings: ServiceSettings) -> dict[str, str]:
    """Environment of a training: the service's tracking store, and one thread per job unless the user says otherwise."""
    uri = resolve_uri(TrackingConfig(uri=settings.tracking_uri))
    return {"OMP_NUM_THREADS": "1", **os.environ, "MLFLOW_TRACKING_URI": uri}


def main(settings: ServiceSettings, idle_seconds: float | None) -> None:
    """Be a worker until SIGTERM or SIGINT."""
    root = settings.jobs_directory
    datasets = DatasetStore(
        root / "datasets", settings.max_dataset_bytes, settings.max_datasets_bytes, inspection_limits(settings)
    )
    worker = Worker(settings, datasets, idle_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: worker.stop())
    worker.run()
