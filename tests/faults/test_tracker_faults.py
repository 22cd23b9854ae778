"""The tracking server is slow, errs, forgets to answer or is gone; so is the registry when the service starts."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import ServiceSettings
from tests.faults.faulty_proxy import FaultyProxy
from tests.faults.recording import losses, record
from tests.integration.mlflow_server import Server
from tests.integration.service.service_bundles import TestClient, series, wait_ready, write_bundle
from training.tracking.environment import open_client
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.spool import Spool
from training.tracking.tracker import RegistrationRequest, RunDescription

NUM_STEPS = 120


@pytest.fixture(scope="module")
def proxy(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyProxy]:
    """A real MLflow server behind a bad network."""
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copyfile(empty_store, server.directory / "server.db")
    server.start()
    server.wait()
    with FaultyProxy(server.uri).running() as proxy:
        yield proxy
    server.kill()


@pytest.mark.parametrize("mode", ["slow", "error", "answer_lost", "gone"])
def test_a_tracker_that_misbehaves_costs_neither_time_nor_points(mode, proxy, tmp_path, small_bundle, ledger):
    """Recording never waits for it; when it behaves again every point, the run and the version are there once."""
    ended = 0.0

    def misbehave(step: int) -> None:
        if step == NUM_STEPS // 4:
            proxy.mode = mode
        time.sleep(0.004)

    def behave() -> None:
        nonlocal ended
        time.sleep(1.0)  # the end of the run meets the fault too
        proxy.mode, ended = "pass", time.monotonic()

    name = record(proxy.uri, tmp_path / f"tracker-{mode}", small_bundle, NUM_STEPS, misbehave, behave)
    seconds = time.monotonic() - ended
    names = {"answer_lost": "tracker does the work, its answer is lost", "error": "tracker answers 503"}
    ledger.record(names.get(mode, f"tracker {mode}"), *losses(proxy.uri, name, NUM_STEPS), seconds)


def test_a_full_disk_under_the_spool_is_waited_for(store, tmp_path, small_bundle, ledger, monkeypatch):
    """While the spool cannot be written its events wait in memory; with room again all arrive, in order, each once."""
    original, is_full, freed = Spool.append, False, 0.0

    def append(self, *arguments):
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, *arguments)

    def fill(step: int) -> None:
        nonlocal is_full, freed
        if step == NUM_STEPS // 2:
            is_full, freed = False, time.monotonic()
        elif step == NUM_STEPS // 4:
            is_full = True

    monkeypatch.setattr(Spool, "append", append)
    uri = store()
    name = record(uri, tmp_path / "full-disk", small_bundle, NUM_STEPS, fill, lambda: None)
    ledger.record("disk full under the spool", *losses(uri, name, NUM_STEPS), time.monotonic() - freed)


def test_a_service_starts_without_its_registry(proxy, tmp_path, ledger):
    """With a cache it serves what it served last and says that the registry is silent; without one it is alive, not ready,
    says why, and is ready when the registry is back.
    """
    tracker = MlflowTracker(proxy.uri, tmp_path / "spool", in_process=True)
    tracker.start(RunDescription("served"))
    tracker.register(RegistrationRequest("served", write_bundle(tmp_path / "bundle")))
    assert tracker.finish("FINISHED") == 0
    body = {"model": "served", "series": [series()]}
    shared = {"tracking_uri": proxy.uri, "models": ("served",), "jobs_directory": tmp_path / "jobs", "job_workers": 0}
    warm = ServiceSettings(cache_directory=tmp_path / "warm", poll_seconds=0.2, **shared)
    with TestClient(create_app(warm)) as client:
        wait_ready(client)
        expected = client.post("/forecast", json=body).json()["forecasts"]
    proxy.mode = "gone"
    started = time.monotonic()
    try:
        with TestClient(create_app(warm)) as client:
            wait_ready(client)
            seconds = time.monotonic() - started
            answer = client.post("/forecast", json=body)
            lost = int(answer.json()["forecasts"] != expected)
            assert client.get("/readyz").json()["source"]["has_answered"] is False
        ledger.record("registry gone at the service's start, cache kept", lost, 0, seconds)
        cold = ServiceSettings(cache_directory=tmp_path / "cold", poll_seconds=0.2, **shared)
        with TestClient(create_app(cold), raise_server_exceptions=False) as client:
            deadline = time.monotonic() + 30
            while client.get("/readyz").json()["source"]["last_error"] is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 503
            problem = client.post("/forecast", json=body)
            assert (problem.status_code, problem.headers["retry-after"]) == (503, "2")
            proxy.mode, started = "pass", time.monotonic()
            wait_ready(client)
            seconds = time.monotonic() - started
            lost = int(client.post("/forecast", json=body).json()["forecasts"] != expected)
        ledger.record("registry gone at the service's start, no cache", lost, 0, seconds)
    finally:
        proxy.mode = "pass"
    assert len(open_client(proxy.uri).search_model_versions("name = 'served'")) == 1
