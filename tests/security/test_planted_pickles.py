"""A pickle that would write a file when it is opened, put wherever a file is read: it is refused, and never opened."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pickle  # noqa: TID251  the weapon, not the tool
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from app.jobs.job_directory import JobDirectory
from models.bundle import load_bundle, manifest_hash
from models.errors import BundleError
from tests.e2e.service_site import wait_for
from tests.integration.service.service_bundles import TestClient, write_bundle
from training.checkpoint import read_checkpoint
from training.config import DataConfig, load_config
from training.data.panel import load_panel
from training.errors import CheckpointError, ConfigurationError, DataError

PLANTED = "planted"
INTERNAL_QUEUE_NAME = "_dbos_internal_queue"


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def bomb(tmp_path: Path) -> bytes:
    """The pickle; the test ends with a look whether it went off."""
    return pickle.dumps(Bomb(tmp_path / "boom"))


@pytest.fixture(autouse=True)
def _never_opened(tmp_path: Path):
    """Whatever happens, no pickle is opened."""
    yield
    assert not (tmp_path / "boom").exists()


def test_the_bomb_works(tmp_path, bomb):
    """Opened by pickle it goes off: otherwise the other tests would prove nothing."""
    pickle.loads(bomb)
    assert (tmp_path / "boom").is_dir()
    (tmp_path / "boom").rmdir()


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.json", "bundle.json", "extra.pkl"])
def test_a_bundle_with_a_pickle_is_refused(name, tmp_path, bomb):
    """In the place of any file, with its hash made right, or beside them."""
    directory = write_bundle(tmp_path / "bundle")
    (directory / name).write_bytes(bomb)
    if name not in ("bundle.json", "extra.pkl"):
        document = json.loads((directory / "bundle.json").read_text())
        document["sha256"][name] = hashlib.sha256(bomb).hexdigest()
        document["manifest_sha256"] = manifest_hash(document)
        (directory / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(BundleError):
        load_bundle(directory)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "tsf", "pkl"])
def test_a_data_file_that_is_a_pickle_is_refused(ending, tmp_path, bomb):
    """Whatever it is called."""
    path = tmp_path / f"data.{ending}"
    path.write_bytes(bomb)
    with pytest.raises(DataError):
        load_panel(DataConfig(path=str(path)))


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path, bomb):
    """As `torch.save` would write one."""
    path = tmp_path / "last.safetensors"
    path.write_bytes(bomb)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_configuration_cannot_make_objects(tmp_path):
    """YAML's own way to call a function is a syntax error here."""
    path = tmp_path / "config.yaml"
    path.write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path / 'boom'}']\n")
    with pytest.raises(ConfigurationError):
        load_config(path)


def test_an_upload_that_is_a_pickle_is_refused(tmp_path, bomb):
    """The service answers 422 and keeps nothing."""
    from app.main import create_app
    from app.settings import ServiceSettings

    write_bundle(tmp_path / "bundles" / "plain" / "1")
    settings = ServiceSettings(bundle=tmp_path / "bundles", jobs_directory=tmp_path / "jobs", job_workers=0)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        answer = client.post("/datasets", content=bomb, params={"name": "model.parquet"})
        assert (answer.status_code, answer.json()["code"]) == (422, "dataset_invalid")
        assert client.get("/datasets").json()["datasets"] == []


@pytest.mark.slow
def test_a_row_of_the_queue_that_is_a_pickle_is_refused(tmp_path, bomb):
    """A row that says it holds a pickle is not opened, and the jobs behind it are still worked on."""
    root = tmp_path / "jobs" / "jobs"
    spec = {"dataset_id": "0" * 32, "dataset_name": "gone.csv", "model_name": "gone", "promote": False}
    first = JobDirectory.create(root, "{}", **spec)
    environment = os.environ | {"GRADCAST_JOBS_DIRECTORY": str(tmp_path / "jobs"), "GRADCAST_TRACKING_URI": "sqlite:///x.db"}
    worker = subprocess.Popen([sys.executable, "-P", "-m", "app.jobs"], env=environment, cwd=tmp_path)
    try:
        wait_for(lambda: first.state == "failed")
        plant_row(tmp_path / "jobs" / "queue.db", base64.b64encode(bomb).decode())
        wait_for(lambda: planted_state(tmp_path / "jobs" / "queue.db") != "ENQUEUED")
        second = JobDirectory.create(root, "{}", **spec)
        wait_for(lambda: second.state == "failed")
    finally:
        worker.kill()
        worker.wait()


def plant_row(database: Path, content: str) -> None:
    """A copy of a row that the worker has worked on, waiting again, with other content."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.row_factory = sqlite3.Row
        (row,) = map(dict, connection.execute("select * from workflow_status").fetchall())
        # The one queue that every process of DBOS listens to.
        row |= {"queue_name": INTERNAL_QUEUE_NAME}
        row |= {"workflow_uuid": PLANTED, "status": "ENQUEUED", "inputs": content, "serialization": "py_pickle", "output": None}
        marks = ", ".join("?" * len(row))
        connection.execute(f"insert into workflow_status ({', '.join(row)}) values ({marks})", tuple(row.values()))


def planted_state(database: Path) -> str:
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        found = connection.execute("select status from workflow_status where workflow_uuid = ?", (PLANTED,)).fetchone()
    return str(found[0])
