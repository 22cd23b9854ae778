"""Limits of the processes that the service starts, from its settings."""

from __future__ import annotations

import os
from collections.abc import Mapping

from app.jobs.subprocesses import Limits
from app.settings import ServiceSettings

INSPECTION_SECONDS = 120.0
INSPECTION_MEMORY_BYTES = 2 * 2**30


def job_limits(settings: ServiceSettings) -> Limits:
    """Of one training job."""
    return Limits(settings.job_seconds, settings.job_memory_bytes)


def inspection_limits(settings: ServiceSettings) -> Limits:
    """Of the audit of one upload."""
    memory = min(INSPECTION_MEMORY_BYTES, settings.job_memory_bytes)
    return Limits(INSPECTION_SECONDS, memory, grace_seconds=0.0)


def thread_environment(num_jobs: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Threads of one training, so that all that run at once have no more threads than the machine has cores.

    One thread unless the user says otherwise: processes beat threads. What `fit.num_threads` of a job asks for is bounded,
    too: OpenMP gives no more than OMP_THREAD_LIMIT.

    Args:
        num_jobs: Trainings at once on this machine.
        environment: What the user says.
    """
    share = max(1, num_cores() // max(1, num_jobs))
    limits = [word for word in (environment.get("OMP_THREAD_LIMIT", ""),) if word.isdecimal()]
    limit = min([share, *map(int, limits)])
    wanted = environment.get("OMP_NUM_THREADS", "1")
    threads = min(int(wanted), limit) if wanted.isdecimal() else 1
    return {"OMP_NUM_THREADS": str(max(1, threads)), "OMP_THREAD_LIMIT": str(max(1, limit))}


def num_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
