"""Jobs over HTTP: what is accepted, what is told of them, and events while they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.jobs.events import progress_points
from app.jobs.job_directory import JobDirectory
from app.jobs.progress import latest_values, read_lines
from app.schemas.gradients import GradientsBody
from app.schemas.jobs import JobBody, JobList
from tests.integration.review.example_run import build_review
from tests.integration.service.service_bundles import TestClient
from training.report.view import write_view


@pytest.fixture
def site(shared_store: Path, launch, uploaded, tmp_path: Path):
    """A service without workers, a data set, and the folder of its jobs."""
    settings = {"jobs_directory": tmp_path / "jobs", "job_workers": 0, "max_waiting_jobs": 3}
    client = launch(shared_store, is_ready=False, **settings)
    return client, uploaded(tmp_path / "jobs"), tmp_path / "jobs" / "jobs"


def test_a_job_waits_until_somebody_works(site):
    """A submitted job is pending, knows its configuration, and the list says that nobody works on it."""
    client, dataset_id, root = site
    body = {"dataset_id": dataset_id, "config": {"fit": {"max_steps": 50}}}
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 202
    job = JobBody.model_validate(answer.json())
    assert (job.state, job.model_name, job.num_attempts, job.is_resumable) == ("pending", "sales", 0, False)
    assert (job.user, job.place) == ("anonymous", 1)
    assert job.config["fit"]["max_steps"] == 50
    assert job.config["data"]["path"] is None
    listing = JobList.model_validate(client.get("/jobs").json())
    assert ([entry.id for entry in listing.jobs], listing.has_worker) == ([job.id], False)
    assert [entry.path.name for entry in JobDirectory.list_under(root)] == [job.id]


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"data": {"path": "/etc/passwd"}}, "config.data.path"),
        ({"tracking": {"uri": "http://169.254.169.254/"}}, "config.tracking.uri"),
        ({"tracking": {"alias": "champion"}}, "config.tracking.alias"),
        ({"tracking": {"model_name": "../x"}}, "config.tracking.model_name"),
        ({"fit": {"device": "cuda:1"}}, "config.fit.device"),
        ({"fit": {"max_stps": 5}}, "config.fit.max_stps"),
        ({"fit": {"max_steps": 0}}, "config.fit.max_steps"),
        ({"fit": {"loss": "mae"}}, "config.fit.loss"),
        ({"data": 5}, "config.data"),
    ],
)
def test_what_a_job_may_not_say_is_refused_with_its_key(site, config, path):
    """Paths and addresses of the caller, unknown keys and impossible combinations: a 422 that names the key."""
    client, dataset_id, _ = site
    answer = client.post("/jobs", json={"dataset_id": dataset_id, "config": config})
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == [path]


def test_jobs_that_cannot_be(site):
    """No data set, no such job, too many that wait: each has its code."""
    client, dataset_id, _ = site
    assert client.post("/jobs", json={"dataset_id": "0" * 32}).json()["code"] == "dataset_not_found"
    for job_id in ("20260101-000000-abcdef", "%2e%2e%2fdatasets", "x"):
        assert client.get(f"/jobs/{job_id}").status_code == 404
        assert client.get(f"/jobs/{job_id}/events").status_code == 404
    for _ in range(3):
        assert client.post("/jobs", json={"dataset_id": dataset_id}).status_code == 202
    full = client.post("/jobs", json={"dataset_id": dataset_id})
    assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (429, "queue_full", "60")


def test_a_cancelled_job_can_be_resumed_from_its_checkpoint_only(site):
    """Cancelled while it waits it has nothing to go on from; with a checkpoint it is pending again."""
    client, dataset_id, root = site
    job_id = client.post("/jobs", json={"dataset_id": dataset_id}).json()["id"]
    assert client.post(f"/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/jobs/{job_id}/cancel").json()["code"] == "job_ended"
    assert client.post(f"/jobs/{job_id}/resume").json()["code"] == "job_not_resumable"
    checkpoints = root / job_id / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.safetensors").touch()
    assert client.get(f"/jobs/{job_id}").json()["is_resumable"] is True
    assert client.post(f"/jobs/{job_id}/resume").json()["state"] == "pending"


def test_a_job_is_running_exactly_while_a_process_holds_its_lock(site):
    """Nothing shown as running is dead: the state follows the lock, not a note of somebody who may have died."""
    client, dataset_id, root = site
    job_id = client.post("/jobs", json={"dataset_id": dataset_id}).json()["id"]
    job = JobDirectory(root / job_id)
    job.begin_attempt()
    assert client.get(f"/jobs/{job_id}").json()["state"] == "pending"
    with job.locked():
        assert client.get(f"/jobs/{job_id}").json()["state"] == "running"
    assert client.get(f"/jobs/{job_id}").json()["state"] == "pending"


def events_of(client: TestClient, job_id: str, **headers: str) -> list[tuple[str, dict]]:
    found = []
    for block in client.get(f"/jobs/{job_id}/events", headers=headers).text.split("\n\n"):
        lines = dict(line.partition(": ")[::2] for line in block.splitlines() if line[:1] != ":")
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_events_tell_the_whole_course_and_end(site):
    """Whoever watches gets loss, norms and reach, the view of the gradients, the outcome, and then the end of the stream."""
    client, dataset_id, root = site
    job_id = client.post("/jobs", json={"dataset_id": dataset_id}).json()["id"]
    run = root / job_id / "run"
    write_view(build_review(run))
    first = '{"start": 0, "max_steps": 9}\n{"step": 1, "loss": 0.5, "grad_norm": 2.0}\n{"step": 1, "reach": 7}\n'
    (run / "progress.jsonl").write_text(first + '{"step": 2, "loss": 0.4}\n{"step": 3, "lo')
    JobDirectory(root / job_id).finish("failed", "crashed", "It crashed.")
    events = events_of(client, job_id)
    assert [name for name, _ in events] == ["progress", "view", "job", "job", "end"]
    points = [{"step": 1, "loss": 0.5, "grad_norm": 2.0, "reach": 7}, {"step": 2, "loss": 0.4}]
    assert events[0][1] == {"points": points, "reset": 0}
    assert events[1][1]["verdict"] == "vanishing"
    assert (events[3][1]["state"], events[3][1]["message"]) == ("failed", "It crashed.")
    # A browser that lost the connection names what it has seen, and gets the rest.
    rest = events_of(client, job_id, **{"Last-Event-ID": str(len(first))})
    assert rest[0][1] == {"points": [{"step": 2, "loss": 0.4}], "reset": None}


def test_points_of_a_fit_that_went_on_from_a_checkpoint_are_not_twice():
    """Steps behind the checkpoint are forgotten and come again."""
    lines = [{"start": 0}, {"step": 100, "loss": 1.0}, {"step": 130, "loss": 0.9}, {"start": 100}, {"step": 130, "loss": 0.8}]
    points = progress_points(lines)
    assert points == {"points": [{"step": 100, "loss": 1.0}, {"step": 130, "loss": 0.8}], "reset": 0}
    assert progress_points(lines[3:]) == {"points": [{"step": 130, "loss": 0.8}], "reset": 100}


def test_the_newest_values_are_found_at_the_end_of_a_long_file(tmp_path):
    """A run of a hundred thousand steps is summarised without reading all of it; a torn last line is left out."""
    lines = [json.dumps({"start": 0, "max_steps": 5000})]
    lines += [json.dumps({"step": step, "loss": 1.0 / step}) for step in range(1, 5001)]
    (tmp_path / "progress.jsonl").write_text("\n".join(lines) + '\n{"step": 5001, "lo')
    assert latest_values(tmp_path) == {"start": 0, "max_steps": 5000, "step": 5000, "loss": 1 / 5000}
    assert len(read_lines(tmp_path / "progress.jsonl", 0)[0]) == 5001
    assert latest_values(tmp_path / "absent") == {}


def test_gradients_of_a_run_are_answered_as_the_page_draws_them(site):
    """Verdict in words, need and reach, curves by lag with one row per measured step, findings with remedies."""
    client, dataset_id, root = site
    job_id = client.post("/jobs", json={"dataset_id": dataset_id}).json()["id"]
    assert client.get(f"/runs/{job_id}/gradients").json()["code"] == "run_not_found"
    assert client.get("/runs/%2e%2e%2fjobs/gradients").status_code == 404
    review = build_review(root / job_id / "run")
    write_view(review)
    body = GradientsBody.model_validate(client.get(f"/runs/{job_id}/gradients").json())
    assert (body.verdict, body.reach_steps, body.need_steps) == ("vanishing", 32, 168)
    assert body.headline == "The network is told about only the last 32 of the 168 hours it needs."
    stack = body.flow["stack"]
    assert [len(row) for row in stack.decades] == [len(stack.lags)] * len(stack.steps)
    # The example's gradient halves every three steps: at lag 33 it is 2^-10 of that at lag 3.
    at_lag_40 = stack.decades[-1][stack.lags.index(40)]
    assert at_lag_40 == pytest.approx(-37 / 3 * 0.30103, abs=1e-3)
    assert body.norms["lstm.0"].values[-1] == pytest.approx(0.1)
    assert body.findings[0].remedies[0].set == {"model.initialization": "chrono", "model.num_layers": 1}
