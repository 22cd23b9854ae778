"""docker/bin/mlflow-server with its artifacts in a bucket: a bundle goes in through the proxy, and comes out the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from models.bundle import BundleManifest, load_bundle, save_bundle
from models.config import GRUConfig
from models.registry import build_forecaster
from tests.integration.mlflow_server import free_port, wait_for
from training.tracking import registry
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.tracker import RegistrationRequest, RunDescription

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "bin" / "mlflow-server"
pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture
def bucket() -> Iterator[tuple[str, Any]]:
    """Address of an S3 store, and the bucket `mlflow` in it."""
    store = ThreadedMotoServer("127.0.0.1", port=0)
    store.start()
    try:
        host, port = store.get_host_and_port()
        address = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "gradcast", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        made = boto3.resource("s3", endpoint_url=address, **keys).Bucket("mlflow")
        made.create()
        yield address, made
    finally:
        store.stop()


def start(folder: Path, endpoint: str, port: int) -> subprocess.Popen[bytes]:
    """The script as the container runs it; its `mlflow` listens on the loopback address and has a database of this test."""
    (folder / "password").write_text("word")
    wrapper = folder / "bin" / "mlflow"
    wrapper.parent.mkdir()
    mlflow = f'"{sys.executable}" -m mlflow server --host 127.0.0.1 --port {port}'
    store = f"sqlite:///{folder}/server.db"
    wrapper.write_text(f'#!/bin/sh\nshift 5\nMLFLOW_BACKEND_STORE_URI={store} exec {mlflow} "$@"\n')
    wrapper.chmod(0o755)
    environment = {
        "PATH": f"{wrapper.parent}:{os.environ['PATH']}", "MLFLOW_WORKERS": "1", "MLFLOW_ALLOWED_HOSTS": "127.0.0.1:*",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "POSTGRES_HOST": "db",
        "POSTGRES_DB": "mlflow", "POSTGRES_USER": "gradcast", "POSTGRES_PASSWORD_FILE": str(folder / "password"),
        "ARTIFACTS_DESTINATION": "s3://mlflow", "MLFLOW_S3_ENDPOINT_URL": endpoint, "S3_USER": "gradcast",
        "S3_PASSWORD_FILE": str(folder / "password"),
    }  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(["sh", SCRIPT], env=environment, stdout=log, stderr=log, start_new_session=True)


def test_a_registered_bundle_lies_in_the_bucket_and_comes_back_to_the_byte(bucket: tuple[str, Any], tmp_path: Path) -> None:
    """The trainer and the service know nothing of S3: they speak to MLflow, which keeps every file as an object."""
    endpoint, held = bucket
    config = GRUConfig(context_length=8, horizon=2, hidden_size=4)
    save_bundle(tmp_path / "bundle", build_forecaster(config), BundleManifest(network=config, freq="h", season_length=4))
    port = free_port()
    server, uri = start(tmp_path, endpoint, port), f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{uri}/health")
        tracker = MlflowTracker(uri, tmp_path / "spool", in_process=True)
        tracker.start(RunDescription("s3"))
        model = tracker.register(RegistrationRequest("sales", tmp_path / "bundle"))
        assert tracker.finish("FINISHED") == 0
        assert model is not None, (tmp_path / "server.log").read_text()
        found = registry.download_bundle(uri, registry.resolve(uri, "sales"), tmp_path / "cache")
        load_bundle(found)
        names = {path.name for path in (tmp_path / "bundle").iterdir()}
        assert all((found / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes() for name in names)
        assert names <= {entry.key.rpartition("/")[2] for entry in held.objects.all()}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
