"""The directory of jobs, the queue and the keys as earlier versions left them, opened by this one.

`released_site/2026_11` was written by the first version that had jobs (keys: by the first that had keys), whose worker was killed
-9: one job had failed, one was running, one waited in the queue. Until `user` came to `job.json`, nothing of it had changed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from app.access.guard import Guard
from app.access.keys import KeyStore
from app.access.scopes import Scope
from app.jobs.board import JobBoard
from app.jobs.datasets import DatasetStore
from app.jobs.job_directory import JobDirectory
from app.jobs.limits import inspection_limits
from app.settings import ServiceSettings
from tests.faults.children import kill_group, start
from tests.faults.test_service_faults import STAND_IN, wait_for, work
from training.errors import ConfigurationError

RELEASED = Path(__file__).parent / "released_site" / "2026_11"
FAILED, RUNNING, QUEUED = "20261127-201709-825d25", "20261127-201710-dba821", "20261127-201711-cbc00e"
DATASET = "ed541858fa7c07bc12c9676fd83dd071"
TOKEN = "gradcast_d5a11956_2a5b6a107d67a588f843965239879548cd998d2fdaf62cdf27526fae05c2a2e1"  # opens nothing but this fixture


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy, with its queue as a database again."""
    shutil.copytree(RELEASED, tmp_path / "jobs")
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs" / "queue.db")) as database:
        database.executescript((RELEASED / "queue.sql").read_text(encoding="utf-8"))
    return tmp_path / "jobs"


def board_of(site: Path) -> JobBoard:
    settings = ServiceSettings(jobs_directory=site, job_workers=0)
    return JobBoard(settings, DatasetStore(site / "datasets", 10**6, 10**7, inspection_limits(settings)))


def test_jobs_and_data_sets_of_an_earlier_version_are_shown(site):
    """States are true, whoever asked is nobody, and the data set is there with its preview."""
    listed = board_of(site).list_jobs().jobs
    assert [(job.id, job.state, job.user, job.place) for job in listed] == [
        (QUEUED, "pending", "anonymous", 2), (RUNNING, "pending", "anonymous", 1), (FAILED, "failed", "anonymous", None),
    ]  # fmt: skip
    datasets = DatasetStore(site / "datasets", 10**6, 10**7, inspection_limits(ServiceSettings()))
    assert [(body.id, body.name) for body in datasets.list_datasets()] == [(DATASET, "sales.csv")]
    assert datasets.preview(DATASET).series[0].num_steps == 30


def test_a_queue_of_an_earlier_version_goes_on(site, tmp_path):
    """What was running and what waited in the queue's rows is trained, each begun once; what had failed stays so."""
    (tmp_path / "train.py").write_text(STAND_IN)
    worker = start(work, tmp_path, 0.0, 1)
    try:
        wait_for(lambda: all(JobDirectory(site / "jobs" / name).outcome is not None for name in (RUNNING, QUEUED)))
    finally:
        kill_group(worker)
    assert (site / "begun").read_text().split() == [RUNNING, QUEUED]
    states = {name: JobDirectory(site / "jobs" / name).state for name in (FAILED, RUNNING, QUEUED)}
    assert states == {FAILED: "failed", RUNNING: "succeeded", QUEUED: "succeeded"}


def test_keys_of_an_earlier_version_open_what_they_opened(site):
    """An active one is found by its token with scopes and rate; a revoked one stays so; a later version's file lets nobody in."""
    store = KeyStore(site / "keys")
    key = store.find(TOKEN)
    assert key is not None
    assert (key.name, key.scopes, key.requests_per_second, key.burst) == ("shop", (Scope.FORECAST, Scope.TRAIN), 20.0, 40)
    assert [other.name for other in store.list_keys() if other.revoked_at is not None] == ["gone"]
    path = site / "keys" / "keys.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    assert not Guard(ServiceSettings(keys_directory=site / "keys", open="until_keys")).is_open
    with pytest.raises(ConfigurationError, match="Restore it, or remove it"):
        KeyStore(site / "keys").list_keys()


def test_a_job_that_a_later_version_wrote_is_read(site):
    """Going back: what this version does not know of a job is left alone, and the job is listed and can be run."""
    path = site / "jobs" / QUEUED / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"user": "ada", "priority": 3}))
    assert board_of(site).show(QUEUED).user == "ada"
