"""The Python client, and every curl of the documents, against a real server on the loopback interface."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time

import numpy as np
import pandas as pd
import pytest
import uvicorn

from app.client import Client, ServiceError
from app.jobs.job_directory import JobDirectory
from app.main import create_app
from app.settings import ServiceSettings
from tests.integration.service.service_bundles import series, write_bundle

pytestmark = pytest.mark.network
HOST = "http://127.0.0.1:8000"
BASH = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A service with the models that the documents name; its address and its folder."""
    folder = tmp_path_factory.mktemp("served")
    weeks = pd.date_range("2015-07-27", periods=12, freq="W-MON")
    context = pd.DataFrame({"unique_id": "us_gasoline", "ds": weeks, "y": np.linspace(8.5, 9.5, 12, dtype="float32")})
    weekly = {"freq": "W-MON", "season_length": 52, "trained_until": "2015-10-12T00:00:00", "num_series": 1}
    write_bundle(folder / "bundles" / "gasoline" / "3", context=context, **weekly)
    settings = ServiceSettings(bundle=folder / "bundles", jobs_directory=folder / "jobs", job_workers=0, poll_seconds=1000.0)
    running = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}", folder
    running.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def asked(server):
    """The client, once the model is there."""
    client = Client(server[0], patience_seconds=20.0)
    while not client.models().models or not client.models().models[0].is_ready:
        time.sleep(0.02)
    return client


def test_the_client_forecasts(asked):
    """Typed answers: a known series by name, intervals by key, one bad series beside a good one."""
    answer = asked.forecast([{"unique_id": "us_gasoline"}, series("b")], model="gasoline", level=[80], horizon=2)
    assert (answer.status, answer.model.version, len(answer.forecasts[0].mean)) == ("partial", 3, 2)
    assert answer.forecasts[0].intervals["lo-80"][0] <= answer.forecasts[0].mean[0] <= answer.forecasts[0].intervals["hi-80"][0]
    assert answer.forecasts[1].error.code == "frequency_mismatch"


def test_the_client_says_why_it_was_refused(asked):
    """Code, sentence, fields and request id are members of the error; nobody there is an error too."""
    with pytest.raises(ServiceError, match="model_not_found") as refusal:
        asked.forecast([series()], model="gazoline")
    assert (refusal.value.status, refusal.value.code) == (404, "model_not_found")
    assert refusal.value.request_id
    with pytest.raises(ServiceError) as unreachable:
        Client("http://127.0.0.1:9").models()
    assert unreachable.value.code == "unreachable"


def test_the_client_uploads_trains_and_looks(asked):
    """A table becomes a data set and a job that waits; both are listed; the job is cancelled and watched to its end."""
    rows = "".join(f"{day.date()},{8 + day.day % 7}\n" for day in pd.date_range("2026-01-01", periods=60))
    dataset = asked.upload(f"ds,y\n{rows}".encode(), "sales.csv")
    assert asked.upload(f"ds,y\n{rows}".encode(), "again.csv").id == dataset.id
    job = asked.train(dataset.id, {"fit": {"max_steps": 5}})
    assert (job.state, [one.id for one in asked.jobs().jobs]) == ("pending", [job.id])
    assert asked.cancel(job.id).state == "cancelled"
    assert [one.state for one in asked.watch(job.id)] == ["cancelled"]
    asked.remove_dataset(dataset.id)
    assert dataset.id not in [one.id for one in asked.datasets().datasets]
    assert asked.model("gasoline").metrics == {"val/mae": 1.0}
    with pytest.raises(ServiceError, match="promotion_refused"):
        asked.promote("gasoline", 3)
    with pytest.raises(ServiceError, match="run_not_found"):
        asked.gradients("nothing")


def curls(repository):
    """Every curl of a text, with its line and the file it stands in."""
    for path in [repository / "README.md", *sorted((repository / "docs").rglob("*.md"))]:
        for block in BASH.findall(path.read_text("utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("curl "):
                    yield path.name, line


def test_every_curl_in_the_documents_is_answered(asked, server, repository):
    """Each is run as it stands, with this server's address and real ids; none is refused for its form.

    Expected beside success: 409 where the documents' own example asks for what this state forbids (a promotion without a
    registry, the resumption of a job that can still run).
    """
    address, folder = server
    dataset = asked.upload(repository / "examples/data/us_gasoline_weekly.csv", "gasoline.csv")
    job = asked.train(dataset.id, {"fit": {"max_steps": 5}})
    directory = JobDirectory(folder / "jobs" / "jobs" / job.id)
    assert directory.is_open
    shown = list(curls(repository))
    assert len(shown) >= 12
    wrong = []
    for name, line in shown:
        line = line.replace(HOST, address).replace("ID", dataset.id)
        line = line.replace("/JOB/", f"/{job.id}/").replace("/RUN/", f"/{job.id}/")
        words = [word.replace("$GRADCAST_KEY", "none") for word in shlex.split(line, comments=True)]
        seconds = "2" if "-N" in words else "20"  # a stream of events ends with the job
        command = [*words, "-m", seconds, "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}"]
        status = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, timeout=30).stdout
        is_known = status in ("200", "201", "202", "409") or ("/gradients" in line and status == "404")
        if not is_known:
            wrong.append((name, line, status))
    assert wrong == []
