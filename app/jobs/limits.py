"""Limits of the processes that the service starts, from its settings."""

from __future__ import annotations

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
