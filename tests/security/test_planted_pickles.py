"""A pickle that would write a file when it is opened, put wherever a file is read: it is refused, and never opened."""

from __future__ import annotations

import hashlib
import json
import os
import pickle  # noqa: TID251  the weapon, not the tool
from pathlib import Path

import pytest

from models.bundle import load_bundle, manifest_hash
from models.errors import BundleError
from tests.integration.service.service_bundles import TestClient, write_bundle
from training.checkpoint import read_checkpoint
from training.config import DataConfig, load_config
from training.data.panel import load_panel
from training.errors import CheckpointError, ConfigurationError, DataError


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
