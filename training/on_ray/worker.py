"""What a worker of Ray Train does: lead the fit or follow it, exactly as a process that was started in another way.

A lost worker ends the fit of all of them; Ray Train starts a new team, which goes on from the run's last checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from torch import distributed

from models.errors import GradcastError
from training.allocator import keep_freed_memory
from training.config import TrainingConfig, build_config
from training.errors import ClusterError, WorkerLostError
from training.following import follow, releasing
from training.loop import FitInterruptedError
from training.mending import train_and_heal
from training.on_ray.desk import Assignment
from training.on_ray.telling import StopWish, ToldProgress
from training.outcome import Outcome
from training.reporting import gradcast_version
from training.run_directory import RunDirectory
from training.team import ALONE, ProcessTeam, Team

MARK = "ray.mark"
# The leader of the team before may need a moment to die.
FREE_SECONDS = 60.0
POLL_SECONDS = 0.1
BUG = "bug"


def work(settings: dict[str, Any]) -> None:
    """One worker's part of a training, from the process group that Ray Train has made to the end.

    Args:
        settings: The desk, under `desk`.

    Raises:
        WorkerLostError: If another worker is gone; then a new team is started.
    """
    desk = settings["desk"]
    assignment = ray.get(desk.assignment.remote())
    if assignment is None:
        return
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    team = ALONE if size == 1 else ProcessTeam(rank, size)
    try:
        _settle(assignment)
        with releasing(team):
            end = _part(assignment, team, desk)
        if end is not None:
            ray.get(desk.tell.remote("done", end))
    except WorkerLostError:
        if not ray.get(desk.is_over.remote()):
            raise
    except FitInterruptedError as stopped:
        ray.get(desk.tell.remote("stopped", stopped.directory))
    except Exception as error:  # noqa: BLE001  another team would meet it again; the command raises it
        ray.get(desk.tell.remote("failed", *_described(error)))
        if distributed.is_initialized():
            distributed.destroy_process_group()  # whoever waits for this process learns that it is gone


def _part(assignment: Assignment, team: Team, desk: Any) -> Outcome | None:
    if team.is_leader:
        return _lead(assignment, team, desk)
    follow(team)
    return None


def _settle(assignment: Assignment) -> None:
    """Be in the command's place: its working directory, its variables, one thread."""
    keep_freed_memory()
    os.environ |= assignment.environment
    if assignment.version != gradcast_version():
        actual = f"{gradcast_version()} on {socket.gethostname()}"
        raise ClusterError("gradcast", assignment.version, actual, "Install the same version on every machine.")
    try:
        os.chdir(assignment.folder)
    except OSError as error:
        raise _not_shared(assignment.folder, error.strerror or "absent") from None
    # Processes beat threads; several of both wait for each other. fit.num_threads, if set, has the last word.
    torch.set_num_threads(1)


def _lead(assignment: Assignment, team: Team, desk: Any) -> Outcome:
    run = RunDirectory(Path(assignment.directory))
    try:
        mark = (run.path / MARK).read_text(encoding="utf-8")
    except OSError as error:
        raise _not_shared(assignment.directory, error.strerror or "absent") from None
    if mark != assignment.mark:
        raise _not_shared(assignment.directory, "another directory of that name")
    config, resume = build_config(dict(assignment.config)), None
    if run.state_path.exists():
        _wait_until_free(run)
        resume, config = run, with_uri(run.config(), config.tracking.uri)
    return Outcome.of(train_and_heal(
        config, assignment.new_tracker(config), assignment.new_tracker, ToldProgress(desk),
        lambda sentence: desk.tell.remote("say", sentence), run.path, resume, StopWish(desk).requested, team,
    ))  # fmt: skip


def with_uri(config: TrainingConfig, uri: str | None) -> TrainingConfig:
    """The configuration of a run to continue, with the credentials of its store, which are never written down."""
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})


def _wait_until_free(run: RunDirectory) -> None:
    deadline = time.monotonic() + FREE_SECONDS
    while run.is_running and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _not_shared(path: str, actual: str) -> ClusterError:
    remedy = "Train in a directory that all machines share: --output DIR, or start the command there."
    return ClusterError(path, "seen by every machine of the Ray cluster", f"{actual} on {socket.gethostname()}", remedy)


def _described(error: Exception) -> tuple[str, str]:
    """Code and sentence; what nobody foresaw comes with its traceback."""
    if isinstance(error, GradcastError):
        return error.code, str(error)
    if isinstance(error, OSError):
        return "storage_unwritable", str(error)
    return BUG, "".join(traceback.format_exception(error))
