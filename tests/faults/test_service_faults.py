"""The service and its workers are killed while jobs are submitted and run; their disk fills up."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.jobs.job_directory import JobDirectory
from app.schemas.datasets import DatasetBody
from tests.faults.children import fill_disk, kill_group, settle, start, step_clock
from tests.integration.service.service_bundles import write_bundle

# Takes the place of `gradcast train`: writes down what overlaps, and takes its time.
STAND_IN = """
import fcntl, json, os, pathlib, signal, sys, time
words = sys.argv[1:]
run = pathlib.Path(words[words.index("--resume" if "--resume" in words else "--output") + 1])
run.mkdir(parents=True, exist_ok=True)
with (run.parent.parent.parent / "begun").open("a") as stream:
    stream.write(run.parent.name + "\\n")
(run / "run.json").write_text("{}")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
lock = os.open(run / "alone", os.O_RDWR | os.O_CREAT)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    (run / f"overlap-{os.getpid()}").touch()
time.sleep(0.15)
print(json.dumps({"run_id": "r", "gradients": {"verdict": "healthy"}, "model": None}))
"""
NUM_JOBS, NUM_KILLS = 6, 3


SPEC = {"dataset_id": "0" * 32, "dataset_name": "d.csv", "model_name": "m", "promote": False}


def furnish(folder: Path) -> Path:
    """What a worker over `folder` needs; returns where its jobs are."""
    (folder / "train.py").write_text(STAND_IN)
    content = folder / "jobs" / "datasets" / str(SPEC["dataset_id"]) / "content"
    content.mkdir(parents=True)
    (content / "d.csv").touch()
    (content.parent / "record.json").write_text(_dataset_record(str(SPEC["dataset_id"])))
    return folder / "jobs" / "jobs"


def work(folder: Path, clock_step: float, num_jobs: int = 2, queue_url: str | None = None) -> None:
    """A worker over `folder`."""
    settle(folder, "worker.log")
    from app.jobs import trainer, turns, worker
    from app.settings import ServiceSettings

    trainer.TRAIN = [sys.executable, "-S", str(folder / "train.py")]
    trainer.RETRY_SECONDS, turns.LOST_SECONDS, worker.SWEEP_SECONDS = 0.01, 1.0, 0.1
    if clock_step:
        step_clock(clock_step)
    worker.main(ServiceSettings(jobs_directory=folder / "jobs", job_workers=num_jobs, queue_url=queue_url), None)


@pytest.mark.parametrize("clock_step", [0.0, -3600.0], ids=["killed", "killed-and-clock-back"])
def test_jobs_survive_workers_that_are_killed(clock_step, tmp_path, ledger, moments):
    """Workers die -9 at random moments, the last one lives an hour earlier: every job succeeds, none runs twice at a time, and
    no job without a living process is called running.
    """
    root = furnish(tmp_path)
    jobs = [JobDirectory.create(root, "fit: {}\n", **SPEC) for _ in range(NUM_JOBS)]
    for _ in range(NUM_KILLS):
        worker = start(work, tmp_path, 0.0)
        wait_for(lambda: any(job.attempts for job in jobs))
        time.sleep(moments.uniform(0.0, 0.5))
        kill_group(worker)
    wait_for(lambda: not any(job.is_locked for job in jobs))
    assert {job.state for job in jobs} <= {"pending", "succeeded"}
    began = time.monotonic()
    worker = start(work, tmp_path, clock_step)
    try:
        wait_for(lambda: all(job.outcome is not None for job in jobs))
    finally:
        kill_group(worker)
    lost = sum(job.state != "succeeded" for job in jobs)
    doubled = len(list(root.glob("*/run/overlap-*"))) + len(list(root.iterdir())) - NUM_JOBS
    fault = "kill -9 of the worker, clock an hour back" if clock_step else "kill -9 of the worker"
    ledger.record(fault, lost, doubled, time.monotonic() - began)


def serve(folder: Path, port: int, bundles: Path, is_disk_full: bool) -> None:
    """The service over `folder`."""
    settle(folder, "service.log")
    from app.server import serve as run_server
    from app.settings import ServiceSettings

    if is_disk_full:
        fill_disk("app.jobs.files")
    run_server(ServiceSettings(port=port, bundle=bundles, jobs_directory=folder / "jobs", job_workers=0, open="always"))


class Service:
    """The service in a child that can be killed."""

    def __init__(self, folder: Path, bundles: Path) -> None:
        self._folder, self._bundles = folder, bundles
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self._address = f"http://127.0.0.1:{self.port}"
        self._process: Any = None

    def start(self, is_disk_full: bool = False) -> None:
        """Until it answers."""
        self._process = start(serve, self._folder, self.port, self._bundles, is_disk_full)
        wait_for(self.is_ready)

    def kill(self) -> None:
        """At once."""
        kill_group(self._process)

    def get(self, path: str) -> httpx.Response:
        """On a connection of its own: those of a killed process are of no use."""
        return httpx.get(self._address + path, timeout=30)

    def post(self, path: str, **content: Any) -> httpx.Response:
        """The same."""
        return httpx.post(self._address + path, timeout=30, **content)

    def is_ready(self) -> bool:
        """Whether it forecasts."""
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Not started yet; nothing of it survives the test."""
    write_bundle(tmp_path / "bundles" / "plain" / "1")
    service = Service(tmp_path, tmp_path / "bundles")
    yield service
    if service._process is not None:
        service.kill()


def test_what_the_service_acknowledged_outlives_its_death(service, ledger, moments, tmp_path):
    """Killed -9 at random moments while jobs and a data set come in: whatever it said yes to is there after the restart, once and
    whole, and what it had not answered can simply be sent again.
    """
    service.start()
    rows = "ds,y\n" + "".join(f"{day},{day % 7}\n" for day in range(60))
    dataset = service.post("/datasets", content=rows, params={"name": "a.csv"}).json()["id"]
    body = {"dataset_id": dataset, "config": {"fit": {"max_steps": 5}}}
    acknowledged: list[str] = []
    seconds = 0.0
    for _ in range(3):
        is_over = threading.Event()
        submitter = threading.Thread(target=_submit_until, args=(service, body, acknowledged, is_over))
        submitter.start()
        num_before = len(acknowledged)
        wait_for(lambda before=num_before: len(acknowledged) > before)
        time.sleep(moments.uniform(0.0, 0.2))
        service.kill()
        is_over.set()
        submitter.join()
        began = time.monotonic()
        service.start()
        seconds = max(seconds, time.monotonic() - began)
    assert not list((tmp_path / "jobs" / "jobs").glob(".*/job.json.*"))
    listed = [job["id"] for job in service.get("/jobs").json()["jobs"]]
    again = service.post("/datasets", content=rows, params={"name": "a.csv"})
    assert (again.status_code, again.json()["id"]) == (200, dataset)
    lost = len(set(acknowledged) - set(listed))
    doubled = len(listed) - len(set(listed)) + len(service.get("/datasets").json()["datasets"]) - 1
    assert len(listed) <= len(acknowledged) + 3  # one unanswered request at each death
    ledger.record("kill -9 of the service", lost, doubled, seconds)


def test_a_full_disk_is_a_507_that_leaves_nothing_behind(service, ledger, tmp_path):
    """Neither a job nor a data set can be written: 507 with a code and a time to come back, nothing half is listed, forecasts
    go on, and with room the same requests succeed.
    """
    rows = "ds,y\n" + "".join(f"{day},{day % 7}\n" for day in range(60))
    service.start(is_disk_full=True)
    refused = service.post("/datasets", content=rows, params={"name": "a.csv"})
    assert (refused.status_code, refused.json()["code"]) == (507, "storage_unwritable"), refused.text
    assert refused.headers["retry-after"] == "60"
    assert service.get("/datasets").json()["datasets"] == []
    assert list((tmp_path / "jobs" / "datasets").iterdir()) == []
    assert service.get("/readyz").status_code == 200
    service.kill()
    began = time.monotonic()
    service.start()
    dataset = service.post("/datasets", content=rows, params={"name": "a.csv"}).json()["id"]
    service.kill()
    service.start(is_disk_full=True)
    body = {"dataset_id": dataset, "config": {"fit": {"max_steps": 5}}}
    refused = service.post("/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (507, "storage_unwritable"), refused.text
    assert service.get("/jobs").json()["jobs"] == []
    service.kill()
    service.start()
    assert service.post("/jobs", json=body).status_code == 202
    ledger.record("disk full under the service", 0, len(service.get("/jobs").json()["jobs"]) - 1, time.monotonic() - began)


def test_an_outcome_that_cannot_be_written_changes_no_job(tmp_path):
    """An outcome that does not fit on the disk leaves the job as it was, without a trace, and the others too."""
    spec = {"dataset_id": "d", "dataset_name": "d.csv", "model_name": "m", "promote": False}
    whole, torn = (JobDirectory.create(tmp_path, "fit: {}\n", **spec) for _ in range(2))
    before = (torn.path / "job.json").read_bytes()
    original = os.fsync

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    os.fsync = refuse
    try:
        with pytest.raises(OSError, match="full"):
            torn.finish("failed", "crashed", "x")
    finally:
        os.fsync = original
    assert torn.is_open
    assert (torn.path / "job.json").read_bytes() == before
    assert not list(torn.path.glob(".outcome*"))
    assert {job.state for job in JobDirectory.list_under(tmp_path)} == {"pending"}
    assert whole.spec.id != torn.spec.id


def _submit_until(service: Service, body: dict[str, Any], acknowledged: list[str], is_over: threading.Event) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
        while not is_over.is_set():
            try:
                answer = client.post("/jobs", json=body)
            except httpx.TransportError:
                return
            if answer.status_code == 202:
                acknowledged.append(answer.json()["id"])


def _dataset_record(dataset_id: str) -> str:
    known = {"id": dataset_id, "name": "d.csv", "num_bytes": 0, "uploaded_at": "", "summary": {}, "columns": {}}
    found = {"counts": dict.fromkeys(("error", "warning", "info"), 0), "problems": []}
    return DatasetBody.model_validate(known | found).model_dump_json()


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)

