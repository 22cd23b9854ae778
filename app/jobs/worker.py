"""The worker: a process of its own that takes jobs whose turn has come and runs their trainings.

Whoever has room takes the next one in the fair line, one worker at a time, so that what is counted is still true when it
is used. Whether a job lives is decided by its lock, so that a job whose worker was killed is taken up by any other.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from pathlib import Path

from app.jobs.datasets import DatasetStore
from app.jobs.gpus import find_gpus
from app.jobs.job_directory import JobDirectory
from app.jobs.limits import inspection_limits, job_limits, thread_environment
from app.jobs.line import line_up, note_served, read_served
from app.jobs.places import Place, Places
from app.jobs.promotion import promoting
from app.jobs.trainer import Trainer
from app.jobs.turns import Turns
from app.settings import ServiceSettings
from training.config import TrackingConfig
from training.file_lock import RETRY_SECONDS, take_lock
from training.tracking.environment import resolve_uri

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 0.5


class Worker:
    """Takes jobs in turn and runs them.

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
        self._begun: dict[str, Place] = {}
        environment = training_environment(settings)
        self._trainer = Trainer(
            job_limits(settings), datasets.content_path, environment, lambda: self._is_stopping,
            promoting(settings, environment, datasets.content_path),
        )  # fmt: skip
        self._places = Places(self._root, max(1, settings.job_workers), find_gpus(environment))

    def stop(self) -> None:
        """Let trainings write a checkpoint and leave; the next worker takes them up."""
        self._is_stopping = True

    def run(self) -> None:
        """Work until told to stop, or until there has been nothing to do for long enough."""
        presence = announce(self._root)
        turns = Turns(queue_url(self._settings), self._train)
        busy_at = time.monotonic()
        try:
            while not self._is_stopping:
                if self._open_jobs():
                    busy_at = time.monotonic()
                    while self._take_next(turns):
                        pass
                elif self._idle_seconds is not None and time.monotonic() - busy_at > self._idle_seconds:
                    return
                time.sleep(SWEEP_SECONDS)
        finally:
            self.stop()
            turns.close(int(self._trainer.limits.grace_seconds) + 5)
            os.close(presence)

    def _open_jobs(self) -> list[JobDirectory]:
        return [job for job in JobDirectory.list_under(self._root / "jobs") if job.is_open]

    def _take_next(self, turns: Turns) -> bool:
        """Begin the job whose turn it is, if there is one and there is room for it."""
        place = None if self._is_stopping else self._places.take(wants_gpu=False)
        if place is None:  # not even for one without a card: the others need not wait for this look
            return False
        place.release()
        choosing = take_lock(self._root / "choosing", RETRY_SECONDS)
        if choosing is None:
            return False
        try:
            line = line_up(self._open_jobs(), read_served(self._root))
            candidates = line.startable(self._settings.jobs_per_user)
            begun = next((job for job in candidates if self._begin(job, turns)), None)
            if begun is not None:
                note_served(self._root, line.users[begun])
            return begun is not None
        finally:
            os.close(choosing)

    def _begin(self, job: JobDirectory, turns: Turns) -> bool:
        """Begin a job; False if there is no room for it, or somebody else is at it."""
        place = self._places.take(job.wants_gpu)
        if place is None:
            return False
        descriptor = take_lock(job.path / "lock", RETRY_SECONDS)
        if descriptor is not None:
            place.descriptors.append(descriptor)
            self._begun[job.path.name] = place
            try:
                # The same turn is never given twice: a start that has begun is counted, and a resumption, too.
                if turns.begin(f"{job.path.name}.{len(job.attempts)}.{job.generation}", job.path.name):
                    return True
            except Exception as error:  # noqa: BLE001  whatever the database says: what runs goes on, and the next look is soon
                logger.warning("the queue's database gives no turns: %s", type(error).__name__)
            self._begun.pop(job.path.name, None)
        place.release()
        return False

    def _train(self, job_id: str) -> str:
        """What a turn is for; what this worker has no place for, it did not begin."""
        place = self._begun.pop(job_id, None)
        job = JobDirectory.find(self._root / "jobs", job_id)
        if place is None or job is None:
            return "gone"
        try:
            self._trainer.run_held(job, place)
        except Exception:  # the others must go on; what it was stands in the worker's log
            logger.exception("job %s", job_id)
            job.finish("failed", "internal_error", "The worker failed on this job; its log says why.")
        finally:
            place.release()
        return job.state


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
    """Environment of a training: the service's tracking store, and its share of the cores."""
    uri = resolve_uri(TrackingConfig(uri=settings.tracking_uri))
    return {**os.environ, **thread_environment(settings.job_workers, os.environ), "MLFLOW_TRACKING_URI": uri}


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
