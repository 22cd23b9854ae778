"""A real training behind a real service: both the service and its worker are killed -9 in the middle."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from app.jobs.job_directory import JobDirectory
from tests.e2e.service_site import Site, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a training that its worker died"),
]
CONFIG = {
    "model": {"horizon": 13, "context_length": 26, "hidden_size": 8, "initialization": "torch"},
    "fit": {"max_steps": 4000, "val_check_steps": 20, "patience": None},
    "gradients": {"preset": "off"},
    "tracking": {"model_name": "fuel"},
}


@pytest.fixture
def site(tmp_path):
    """Nothing of it survives the test."""
    site = Site(tmp_path)
    yield site
    site.end()


def test_a_job_survives_the_death_of_service_and_worker(site, repository, ledger):
    """Killed both, the job is pending as soon as its training has stopped, never running without a process; the next
    service takes it up from the checkpoint, and what it trained is served, with its gradients.
    """
    site.start()
    data = (repository / "examples" / "data" / "us_gasoline_weekly.csv").read_bytes()
    dataset = site.post("/datasets", content=data, params={"name": "fuel.csv"}).json()
    job_id = site.post("/jobs", json={"dataset_id": dataset["id"], "config": CONFIG}).json()["id"]
    job = JobDirectory(site.jobs / job_id)
    wait_for(lambda: job.has_checkpoint)
    assert site.get(f"/jobs/{job_id}").json()["state"] == "running"

    site.process.kill()
    site.process.wait()
    assert job.state == "running"  # the job goes on without the service
    (worker,) = [pid for pid in site.processes() if b"app.jobs" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: job.state == "pending")
    assert site.processes() == []
    # What is left of four thousand steps would outlast the test.
    config = (job.run / "config.yaml").read_text()
    (job.run / "config.yaml").write_text(config.replace("max_steps: 4000", "max_steps: 400"))

    began = time.monotonic()
    site.start()
    wait_for(lambda: site.get(f"/jobs/{job_id}").json()["state"] in ("succeeded", "failed"))
    seconds = time.monotonic() - began
    body = site.get(f"/jobs/{job_id}").json()
    assert (body["state"], body["num_attempts"], body["model"]["name"]) == ("succeeded", 2, "fuel"), body["log"]
    assert any(line.startswith("resumed at step ") for line in body["log"])
    assert site.get(f"/runs/{body['run_id']}/gradients").json()["step"] >= 20
    wait_for(lambda: body["model"]["version"] in [v["version"] for v in site.get("/models/fuel").json().get("versions", [])])
    num_versions = len(site.get("/models/fuel").json()["versions"])
    ledger.record("kill -9 of service and worker in mid-training", int(num_versions < 1), max(0, num_versions - 1), seconds)
