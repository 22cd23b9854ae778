"""A real `mlflow server` that is killed while a run goes on; a real `mlflow models serve`. The sender is its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.bundle import BundleManifest, load_bundle, save_bundle
from models.config import GRUConfig
from models.registry import build_forecaster
from tests.conftest import FaultLedger
from tests.integration.mlflow_server import Server, free_port, wait_for
from training.tracking import registry
from training.tracking.environment import open_client
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.sync import sync
from training.tracking.tracker import RegistrationRequest, RunDescription

REPOSITORY = Path(__file__).parents[2]
OUTAGE_SECONDS = 2.0
pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    server.wait()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GRUConfig(context_length=8, horizon=2, hidden_size=4)
    directory = tmp_path_factory.mktemp("bundle") / "bundle"
    save_bundle(directory, build_forecaster(config), BundleManifest(network=config, freq="h", season_length=4))
    return directory


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in open_client(uri).get_metric_history(run_id, key))


def test_outage_in_mid_run_loses_and_doubles_nothing(
    server: Server, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], ledger: FaultLedger
) -> None:
    """The server is killed in mid-run and comes back: recording never takes 50 ms, and every point is there once."""
    tracker = MlflowTracker(server.uri, tmp_path / "spool", interval_seconds=0.1)
    tracker.start(RunDescription("outage", job_id="outage-job"))
    assert tracker.run_id is not None
    keys = [f"grad_norm/lstm.{layer}" for layer in range(10)]
    slowest, step = 0.0, 0
    killed_at = restarted_at = 0.0
    started = time.monotonic()
    while not restarted_at or time.monotonic() < restarted_at + 1.0:
        before = time.perf_counter()
        tracker.log_metrics({key: step + index / 7 for index, key in enumerate(keys)}, step)
        slowest = max(slowest, time.perf_counter() - before)
        step += 1
        time.sleep(0.02)
        now = time.monotonic()
        if not killed_at and now > started + 1.0:
            server.kill()
            killed_at = now
        if killed_at and not restarted_at and now > killed_at + OUTAGE_SECONDS:
            server.start()
            restarted_at = now
    run_id = tracker.run_id
    server.wait()
    assert tracker.register(RegistrationRequest("outage", bundle)) is not None
    assert tracker.finish("FINISHED", deadline_seconds=60.0) == 0
    assert slowest < 0.05
    seconds = time.monotonic() - restarted_at
    points = [point for key in keys for point in history(server.uri, run_id, key)]
    expected = [(s, s + index / 7) for index in range(len(keys)) for s in range(step)]
    lost, doubled = len(set(expected) - set(points)), len(points) - len(set(points) & set(expected))
    ledger.record("kill -9 of the tracking server", lost, doubled, seconds)
    assert open_client(server.uri).get_run(run_id).info.status == "FINISHED"
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("does not answer") == 1


def test_bundle_travels_through_the_server(server: Server, bundle: Path, tmp_path: Path) -> None:
    """What is registered through the artifact proxy is what the service downloads, to the last byte."""
    tracker = MlflowTracker(server.uri, tmp_path / "spool", in_process=True)
    tracker.start(RunDescription("travel"))
    tracker.log_artifact(bundle, "bundle")
    model = tracker.register(RegistrationRequest("travelled", bundle, tags={"gradient.verdict": "healthy"}))
    run_id = tracker.run_id
    assert tracker.finish("FINISHED") == 0
    assert model is not None
    assert model.aliases == ("champion",)
    resolved = registry.resolve(server.uri, "travelled@champion")
    assert (resolved.run_id, resolved.tags["gradient.verdict"]) == (run_id, "healthy")
    directory = registry.download_bundle(server.uri, resolved, tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()
    }
    artifacts = open_client(server.uri).list_artifacts(run_id, "bundle")
    assert {Path(file.path).name for file in artifacts} == {path.name for path in bundle.iterdir()}
    assert not [path for path in server.directory.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt")]


def test_killed_training_is_completed_by_its_sender(server: Server, tmp_path: Path, ledger: FaultLedger) -> None:
    """After `kill -9` of the training the sender's own process sends the rest and closes the run; sync finds nothing to do."""
    program = f"""
import time
from pathlib import Path
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.tracker import RunDescription
tracker = MlflowTracker({server.uri!r}, Path({str(tmp_path / "spool")!r}))
tracker.start(RunDescription("orphan", job_id="orphan-job"))
print(tracker.run_id, flush=True)
for step in range(2000):
    tracker.log_metrics({{"loss/train": step * 0.5}}, step)
print("recorded", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline().strip() == "recorded"
    process.kill()
    process.communicate()
    began = time.monotonic()
    report = sync(tmp_path / "spool")  # waits for the sender, which is at it
    while any(run.state == "running" for run in report.runs):  # on a busy machine longer than one call does
        assert time.monotonic() - began < 300
        report = sync(tmp_path / "spool")
    assert report.num_unsent == 0
    # On a busy machine the training was killed before it knew its run; the store knows it by its job.
    client = open_client(server.uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_runs(experiments, "tags.`job.id` = 'orphan-job'")
    run_id = found.info.run_id
    points, expected = history(server.uri, run_id, "loss/train"), [(step, step * 0.5) for step in range(2000)]
    lost, doubled = len(set(expected) - set(points)), len(points) - len(set(points) & set(expected))
    ledger.record("kill -9 of the training, its sender lives", lost, doubled, time.monotonic() - began)
    assert open_client(server.uri).get_run(run_id).info.status == "KILLED"
    assert sync(tmp_path / "spool").runs == ()


def test_mlflow_models_serve_answers_for_a_registered_model(server: Server, bundle: Path, tmp_path: Path) -> None:
    """MLflow's own scoring server, started by alias in another directory, gives the bundle's forecast for `dataframe_split`."""
    tracker = MlflowTracker(server.uri, tmp_path / "spool", in_process=True)
    tracker.start(RunDescription("scoring"))
    tracker.register(RegistrationRequest("scoring", bundle))
    tracker.finish("FINISHED")
    port = free_port()
    command = [
        sys.executable, "-P", "-m", "mlflow", "models", "serve", "-m", "models:/scoring@champion", "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    own = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    # `mlflow models serve` starts `uvicorn` by name.
    search_path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {**os.environ, **own, "PATH": search_path}
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping")
        times = [f"2026-01-01T{hour:02d}:00:00" for hour in range(8)]
        values = [1.0, 2.0, None, 4.0, 1.0, 2.0, 3.0, 4.0]
        rows = [["a", ds, y] for ds, y in zip(times, values, strict=True)]
        answer = post(port, {"dataframe_split": {"columns": ["unique_id", "ds", "y"], "data": rows}})
        predictions = answer["predictions"]
        assert [row["ds"][:19] for row in predictions] == ["2026-01-01T08:00:00", "2026-01-01T09:00:00"]
        expected = expected_forecast(bundle, times, values)
        assert [row["mean"] for row in predictions] == pytest.approx(expected, rel=1e-4)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(port: int, body: dict[str, Any]) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/invocations"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        pytest.fail(error.read().decode())


def expected_forecast(bundle: Path, times: list[str], values: list[float | None]) -> list[float]:
    import pandas as pd

    from training.forecasting import forecast_frame

    frame = pd.DataFrame({"unique_id": "a", "ds": pd.to_datetime(times), "y": [float("nan") if y is None else y for y in values]})
    return [float(value) for value in forecast_frame(load_bundle(bundle), frame)["mean"]]
