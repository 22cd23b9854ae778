"""The jobs as the service sees them: submit, look, cancel, resume; and a worker process when there is something to do."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from app.errors import FieldProblem, ProblemError
from app.jobs.datasets import DatasetStore
from app.jobs.job_directory import ANONYMOUS, JobDirectory
from app.jobs.line import Line, line_up, read_served
from app.jobs.progress import latest_values, read_view
from app.jobs.subprocesses import PYTHON
from app.schemas.datasets import DatasetBody
from app.schemas.jobs import JobBody, JobList, JobRequest, JobSummary, PromotionBody
from app.settings import ENV_PREFIX, ServiceSettings
from training.config import TrainingConfig, build_config
from training.errors import ConfigurationError
from training.file_lock import is_locked
from training.tracking.references import NAME_RULE, is_model_name
from training.tracking.tracker import CHAMPION

logger = logging.getLogger(__name__)

MAX_LISTED = 200
LOG_LINES = 40
WATCH_SECONDS = 1.0
IDLE_SECONDS = 60
STOP_SECONDS = 10.0
# The service's own: a path or an address that comes with a request is not followed.
REFUSED_KEYS = {
    "data.path": "The data is named by dataset_id; upload it with POST /datasets.",
    "tracking.uri": "Jobs are recorded where this service's models come from.",
}


class JobBoard:
    """Everything that can be asked about jobs.

    Args:
        settings: Where jobs are, and how many may wait.
        datasets: What they train on.
    """

    def __init__(self, settings: ServiceSettings, datasets: DatasetStore) -> None:
        self._settings = settings
        self._datasets = datasets
        self._root = settings.jobs_directory / "jobs"
        self._worker: subprocess.Popen[bytes] | None = None
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gradcast-jobs", daemon=True)

    def start(self) -> None:
        """Begin to look after the worker."""
        if self._settings.job_workers > 0:
            self._thread.start()

    def stop(self) -> None:
        """Let the worker of this service write checkpoints and leave; its jobs are taken up after the next start."""
        self._is_stopped.set()
        if self._thread.is_alive():
            self._thread.join(WATCH_SECONDS + 1.0)
        if self._worker is None or self._worker.poll() is not None:
            return
        self._worker.send_signal(signal.SIGTERM)
        try:
            self._worker.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("the worker is still writing checkpoints; it leaves by itself")

    def submit(self, request: JobRequest, user: str = ANONYMOUS) -> JobBody:
        """Queue a training.

        Args:
            request: What to train.
            user: Who asks.

        Raises:
            ProblemError: `dataset_not_found`, `request_invalid` or `queue_full`.
        """
        dataset = self._datasets.find(request.dataset_id)
        config = build_job_config(request.config, dataset)
        # Counted for each user: one's hundred jobs do not shut the door on another's one.
        num_waiting = sum(other == user for other in self._line().users.values())
        if num_waiting >= self._settings.max_waiting_jobs:
            raise ProblemError("queue_full", f"{num_waiting} of your jobs wait already.", headers={"Retry-After": "60"})
        job = JobDirectory.create(
            self._root, config.to_yaml(), dataset_id=dataset.id, dataset_name=dataset.name,
            model_name=config.tracking.model_name, promote=request.promote, user=user,
        )  # fmt: skip
        return self._body(job)

    def list_jobs(self) -> JobList:
        """The newest jobs, and whether anybody works on them."""
        line = self._line()
        jobs = [self._summary(job, line) for job in JobDirectory.list_under(self._root)[:MAX_LISTED]]
        return JobList(jobs=[JobSummary(**job) for job in jobs], has_worker=self.has_worker)

    def show(self, job_id: str) -> JobBody:
        """One job in full.

        Raises:
            ProblemError: `job_not_found`.
        """
        return self._body(self.find(job_id))

    def summarize(self, job_id: str) -> JobSummary:
        """One job in a line.

        Raises:
            ProblemError: `job_not_found`.
        """
        return JobSummary(**self._summary(self.find(job_id)))

    def cancel(self, job_id: str) -> JobBody:
        """Stop a job; a running one writes a checkpoint first, which takes some seconds.

        Raises:
            ProblemError: `job_not_found` or `job_ended`.
        """
        job = self.find(job_id)
        if job.outcome is not None:
            raise ProblemError("job_ended", f"The job has {job.state} already.")
        job.request_cancel()
        with job.locked() as descriptor:
            if descriptor is not None and job.outcome is None:  # nobody is at it who would do this
                words = "It was cancelled; its last checkpoint is kept." if job.has_checkpoint else "It was cancelled."
                job.finish("cancelled", "cancelled", words)
        return self._body(job)

    def resume(self, job_id: str) -> JobBody:
        """Queue a cancelled or failed job again; it goes on from its last checkpoint, with its limits counted anew.

        Raises:
            ProblemError: `job_not_found` or `job_not_resumable`.
        """
        job = self.find(job_id)
        if not self._is_resumable(job):
            raise ProblemError(
                "job_not_resumable", "Only a cancelled or failed job with a checkpoint can be resumed. Submit it anew."
            )
        job.reopen()
        return self._body(job)

    def find(self, job_id: str) -> JobDirectory:
        """The directory of a job.

        Raises:
            ProblemError: `job_not_found`.
        """
        job = JobDirectory.find(self._root, job_id)
        if job is None:
            raise ProblemError("job_not_found", "No job has this id. See GET /jobs.")
        return job

    def find_run(self, run_id: str) -> Path | None:
        """The run's directory of a job, by the identity of the job or of its recorded run; None if no job made it."""
        job = JobDirectory.find(self._root, run_id)
        if job is None:
            jobs = (job for job in JobDirectory.list_under(self._root) if (job.result() or {}).get("run_id") == run_id)
            job = next(jobs, None)
        return job.run if job is not None else None

    def find_by_version(self, name: str, version: int) -> JobDirectory | None:
        """The job that registered a version."""
        for job in JobDirectory.list_under(self._root):
            model = (job.result() or {}).get("model")
            if model is not None and (model["name"], model["version"]) == (name, version):
                return job
        return None

    def needs(self, dataset_id: str) -> bool:
        """Whether a job that has not ended trains on a data set."""
        return any(job.spec.dataset_id == dataset_id for job in self._open_jobs())

    @property
    def has_worker(self) -> bool:
        """Whether a live worker takes jobs off the queue."""
        directory = self._settings.jobs_directory / "workers"
        return directory.is_dir() and any(is_locked(entry) for entry in directory.iterdir())

    def _open_jobs(self) -> list[JobDirectory]:
        return [job for job in JobDirectory.list_under(self._root) if job.is_open]

    def _line(self) -> Line:
        return line_up(self._open_jobs(), read_served(self._settings.jobs_directory))

    def _watch(self) -> None:
        """Start a worker whenever there is work and nobody who does it: at the first job, and after one was killed."""
        while not self._is_stopped.wait(WATCH_SECONDS):
            try:
                if self._open_jobs() and not self._is_worker_alive():
                    self._start_worker()
            except OSError as error:
                logger.warning("cannot start a worker: %s", error.strerror)

    def _is_worker_alive(self) -> bool:
        worker = self._worker
        return (worker is not None and worker.poll() is None) or self.has_worker

    def _start_worker(self) -> None:
        directory = self._settings.jobs_directory.resolve()
        with (directory / "worker.log").open("ab") as log:
            # In a session of its own: it outlives this process, so that a killed service costs no training.
            self._worker = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
                [*PYTHON, "-m", "app.jobs", "--leave-when-idle", str(IDLE_SECONDS)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=worker_environment(self._settings),
            )  # fmt: skip
        logger.info("started a worker, process %d", self._worker.pid)

    def _is_resumable(self, job: JobDirectory) -> bool:
        outcome = job.outcome
        return outcome is not None and outcome.state in ("cancelled", "failed") and job.has_checkpoint

    def _summary(self, job: JobDirectory, line: Line | None = None) -> dict[str, Any]:
        spec, outcome, attempts, state = job.spec, job.outcome, job.attempts, job.state
        values, result = latest_values(job.run), job.result() or {}
        view, _ = read_view(job.run)
        reach = view.get("reach_steps") if view is not None else values.get("reach")
        return {
            **spec.model_dump(exclude={"promote"}),
            "state": state,
            "place": (line or self._line()).place(job) if state == "pending" else None,
            "started_at": attempts[0].started_at if attempts else None,
            "finished_at": outcome.finished_at if outcome is not None else None,
            "num_attempts": len(attempts),
            "step": max(values.get("step", 0), values.get("start", 0)),
            "max_steps": values.get("max_steps"),
            **{key: values.get(key) for key in ("loss", "val_loss", "grad_norm")},
            "reach_steps": None if reach is None else int(reach),
            "verdict": view.get("verdict") if view is not None else None,
            "run_id": result.get("run_id"),
            "model": result.get("model"),
            "code": outcome.code if outcome is not None else None,
            "message": outcome.message if outcome is not None else None,
            "is_resumable": self._is_resumable(job),
        }

    def _body(self, job: JobDirectory) -> JobBody:
        result = job.result() or {}
        promotion = job.path / "promotion.json"
        return JobBody(
            **self._summary(job),
            config=yaml.safe_load((job.path / "config.yaml").read_text(encoding="utf-8")),
            metrics=result.get("metrics", {}),
            baselines=result.get("baselines", {}),
            promotion=PromotionBody.model_validate_json(promotion.read_bytes()) if promotion.is_file() else None,
            log=_last_lines(job.log),
        )


def build_job_config(tree: Mapping[str, Any], dataset: DatasetBody) -> TrainingConfig:
    """The configuration of a job: as it was sent, with the columns of its data set where it names none.

    Raises:
        ProblemError: `request_invalid`, with every key at fault.
    """
    problems = [
        FieldProblem(f"config.{key}", "key_refused", f"must not be given. {remedy}")
        for key, remedy in REFUSED_KEYS.items()
        if _lookup(tree, key) is not None
    ]
    if str(_lookup(tree, "fit.device")).startswith("cuda:"):
        message = "must be cuda without a number: the worker gives every training a card of its own."
        problems.append(FieldProblem("config.fit.device", "key_refused", message))
    if _lookup(tree, "tracking.alias") == CHAMPION:
        message = "must not be champion: the gate decides that. Submit with promote: true."
        problems.append(FieldProblem("config.tracking.alias", "key_refused", message))
    if problems:
        raise ProblemError("request_invalid", "The configuration names what only the service may.", problems)
    data = tree.get("data", {})
    merged = dict(tree) | {"data": {**dataset.columns, **data}} if isinstance(data, Mapping) else dict(tree)
    try:
        config = build_config(merged)
    except ConfigurationError as error:
        fields = [
            FieldProblem(f"config.{problem.where}", problem.code, f"{problem.message} {problem.remedy}".strip())
            for problem in error.problems
        ]
        raise ProblemError("request_invalid", "The configuration is not valid.", fields) from None
    name = config.tracking.model_name or default_model_name(dataset.name)
    if not is_model_name(name):
        field = FieldProblem("config.tracking.model_name", "config_invalid", f"must be {NAME_RULE}.")
        raise ProblemError("request_invalid", "The configuration is not valid.", [field])
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"model_name": name})})


def default_model_name(file_name: str) -> str:
    """What a model trained on a file is called: the file's name without its endings."""
    stem = file_name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-") or "model"


def worker_environment(settings: ServiceSettings) -> dict[str, str]:
    """Environment of the worker: the service's, with the settings that it was started with."""
    given = {
        f"{ENV_PREFIX}{name.upper()}": str(getattr(settings, name))
        for name in ("queue_url", "tracking_uri", "job_workers", "jobs_per_user", "job_seconds", "job_memory_bytes",
                     "max_dataset_bytes", "max_datasets_bytes", "promotion_metric", "promotion_min_improvement", "log_level")
        if getattr(settings, name) is not None
    }  # fmt: skip
    return {**os.environ, **given, f"{ENV_PREFIX}JOBS_DIRECTORY": str(settings.jobs_directory.resolve())}


def _lookup(tree: Mapping[str, Any], dotted_key: str) -> Any:
    section, _, key = dotted_key.partition(".")
    values = tree.get(section)
    return values.get(key) if isinstance(values, Mapping) else None


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 8192))
            return stream.read().decode("utf-8", errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return []
