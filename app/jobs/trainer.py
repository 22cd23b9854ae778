"""Runs one job: `gradcast train` in a subprocess, started again from its checkpoint after a crash, to an outcome."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.jobs.job_directory import Attempt, JobDirectory
from app.jobs.places import Place
from app.jobs.subprocesses import PYTHON, Ended, Limits, run_limited

EXIT_DONE, EXIT_ENVIRONMENT, EXIT_NUMERICAL, EXIT_STOPPED = 0, 1, 3, 130
MAX_CRASHES = 3
# Starts that ended with their worker: a job that takes its worker down with it must not do so for ever.
MAX_LOST = 8
RETRY_SECONDS = 2.0
MAX_MESSAGE = 2000
TRAIN = [*PYTHON, "-m", "training", "train"]


@dataclass(frozen=True)
class Trainer:
    """Runs jobs to their end, or until it is told to stop.

    Attributes:
        limits: Of one job, all attempts together.
        find_data: Path of a data set by its id.
        environment: Environment of the training.
        is_stopping: Whether the worker is to leave; its jobs are then taken up by the next one.
        on_success: Told of a job whose model is registered, while its lock is still held.
    """

    limits: Limits
    find_data: Callable[[str], Path]
    environment: Mapping[str, str]
    is_stopping: Callable[[], bool] = lambda: False
    on_success: Callable[[JobDirectory], None] = lambda _job: None

    def run(self, job: JobDirectory) -> None:
        """Bring a job to an outcome. Does nothing if it has one, or if a live process is at it."""
        with job.locked() as descriptor:
            if descriptor is not None:
                self.run_held(job, Place([descriptor]))

    def run_held(self, job: JobDirectory, place: Place) -> None:
        """Bring a job to an outcome whose lock is among those of its place."""
        while job.outcome is None and not self.is_stopping():
            if job.is_cancel_requested:
                job.finish("cancelled", "cancelled", _cancelled_sentence(job))
                return
            if self._refuse_another_start(job):
                return
            ended = self._attempt(job, place)
            self._conclude(job, ended)

    def _refuse_another_start(self, job: JobDirectory) -> bool:
        attempts = _current(job)
        crashes = [attempt for attempt in attempts if attempt.reason == "exit" and attempt.exit_code not in (0, None)]
        if sum(attempt.reason is None for attempt in attempts) >= MAX_LOST:
            job.finish("failed", "crashed", f"Its worker was lost {MAX_LOST} times.")
            return True
        if len(crashes) >= MAX_CRASHES:
            job.finish("failed", "crashed", f"The training crashed {len(crashes)} times. {_last_words(job)}".strip())
            return True
        if self._seconds_left(job) <= 0:
            self._finish_late(job)
            return True
        if crashes:
            time.sleep(RETRY_SECONDS * 2 ** (len(crashes) - 1))
        return False

    def _seconds_left(self, job: JobDirectory) -> float:
        return self.limits.seconds - sum(attempt.seconds or 0.0 for attempt in _current(job))

    def _attempt(self, job: JobDirectory, place: Place) -> Ended:
        job.begin_attempt()
        limits = Limits(self._seconds_left(job), self.limits.memory_bytes, self.limits.grace_seconds)
        with (job.path / "result.json").open("wb") as output, job.log.open("ab") as log:
            ended = run_limited(
                self._command(job), limits, output, log, lambda: job.is_cancel_requested or self.is_stopping(),
                {**self.environment, **place.environment}, place.descriptors,
            )  # fmt: skip
        job.end_attempt(ended.seconds, ended.exit_code, ended.reason)
        return ended

    def _command(self, job: JobDirectory) -> list[str]:
        if (job.run / "run.json").is_file():
            return [*TRAIN, "--json", "--resume", str(job.run)]
        data = self.find_data(job.spec.dataset_id)
        config = job.path / "config.yaml"
        return [*TRAIN, "--json", "--config", str(config), "--data", str(data), "--output", str(job.run)]

    def _conclude(self, job: JobDirectory, ended: Ended) -> None:
        """Write the outcome, or leave the job open for another start."""
        if ended.exit_code == EXIT_DONE:
            self._succeed(job)
        elif ended.reason == "time":
            self._finish_late(job)
        elif ended.reason == "memory":
            limit = self.limits.memory_bytes // 2**20
            message = f"The training took more than {limit} MiB. Lower fit.batch_size, model.hidden_size or the context."
            job.finish("failed", "memory_exceeded", message)
        elif ended.reason == "exit" and ended.exit_code not in (EXIT_ENVIRONMENT, EXIT_STOPPED) and ended.exit_code > 0:
            code = "non_finite" if ended.exit_code == EXIT_NUMERICAL else "refused"
            job.finish("failed", code, _last_words(job) or f"The training ended with exit code {ended.exit_code}.")

    def _succeed(self, job: JobDirectory) -> None:
        result = job.result() or {}
        verdict = str(result.get("gradients", {}).get("verdict", "unknown")).replace("_", " ")
        model = result.get("model")
        self.on_success(job)
        registered = f"{model['name']} version {model['version']} is registered" if model else "no model was registered"
        job.finish("succeeded", "done", f"Verdict {verdict}; {registered}.")

    def _finish_late(self, job: JobDirectory) -> None:
        remedy = "Resume it for as long again." if job.has_checkpoint else "Lower fit.max_steps."
        job.finish("failed", "time_exceeded", f"The training took more than {self.limits.seconds:g} s. {remedy}")


def _current(job: JobDirectory) -> list[Attempt]:
    return [attempt for attempt in job.attempts if attempt.generation == job.generation]


def _cancelled_sentence(job: JobDirectory) -> str:
    if not job.attempts:
        return "It was cancelled before it began."
    return "It was cancelled; its last checkpoint is kept." if job.has_checkpoint else "It was cancelled."


def _last_words(job: JobDirectory) -> str:
    """The error that the training reported, without the directories of this machine."""
    try:
        text = job.log.read_text(encoding="utf-8", errors="replace")[-20_000:]
    except OSError:
        return ""
    _, found, message = text.rpartition("gradcast train: ")
    if not found:
        lines = [line for line in text.splitlines() if line.strip()]
        message = lines[-1] if lines else ""
    return re.sub(rf"(?:{re.escape(os.sep)}[\w.@+-]+)+{re.escape(os.sep)}", "", message.strip())[:MAX_MESSAGE]
