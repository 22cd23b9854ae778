"""Two users and one queue, in a file and in PostgreSQL: nobody waits for more than one job of another, whoever is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.jobs.job_directory import JobDirectory
from tests.faults.children import kill_group, start
from tests.faults.postgres import running_postgres
from tests.faults.test_service_faults import SPEC, furnish, wait_for, work

NUM_JOBS = 5


@pytest.fixture
def queue_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Where turns are noted."""
    if request.param == "sqlite":
        yield None
        return
    with running_postgres("queue") as server:
        yield server.uri("queue", "postgresql")


@pytest.mark.parametrize("queue_url", ["sqlite", "postgres"], indirect=True)
def test_one_job_beside_many_starts_within_the_length_of_one_though_the_worker_is_killed(queue_url, tmp_path, ledger):
    """Ada's five jobs wait for one place, of which two workers know; Bob's comes while the first runs, and the workers are
    killed -9: his is the next to begin, but for one that may just have been chosen. All succeed, none runs twice at a time.
    """
    root = furnish(tmp_path)
    jobs = [JobDirectory.create(root, "fit: {}\n", user="ada", **SPEC) for _ in range(NUM_JOBS)]
    workers = [start(work, tmp_path, 0.0, 1, queue_url) for _ in range(2)]
    wait_for(lambda: begun(tmp_path))
    bob = JobDirectory.create(root, "fit: {}\n", user="bob", **SPEC)
    before = len(begun(tmp_path))
    for worker in workers:
        kill_group(worker)
    at = time.monotonic()
    workers = [start(work, tmp_path, 0.0, 1, queue_url) for _ in range(2)]
    try:
        wait_for(lambda: all(job.outcome is not None for job in (*jobs, bob)), 120.0)
    finally:
        for worker in workers:
            kill_group(worker)
    order = begun(tmp_path)
    assert order.index(bob.path.name) <= before + 1, order
    lost = sum(job.state != "succeeded" for job in (*jobs, bob))
    doubled = len(list(root.glob("*/run/overlap-*"))) + len(list(root.iterdir())) - NUM_JOBS - 1
    ledger.record("kill -9 of two workers with jobs of two users", lost, doubled, time.monotonic() - at)


def begun(folder: Path) -> list[str]:
    """Jobs whose training has begun, in order."""
    path = folder / "jobs" / "begun"
    return path.read_text().split() if path.exists() else []
