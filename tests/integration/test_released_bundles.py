"""Bundles as earlier versions wrote them, byte for byte, are read, served and forecast by this one."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from app.main import create_app
from app.settings import ServiceSettings
from models.bundle import READABLE_VERSIONS, SCHEMA_VERSION, load_bundle, save_bundle
from tests.integration.service.service_bundles import TestClient, series, wait_ready

RELEASED = Path(__file__).parent / "released"
NAMES = sorted(path.name for path in RELEASED.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_an_older_bundle_loads_and_gives_its_golden_forecast(name):
    """Loading repeats the forecast that the older version wrote down; what it did not know has the default that it meant."""
    bundle = load_bundle(RELEASED / name)
    document = json.loads((RELEASED / name / "bundle.json").read_text())
    assert bundle.manifest.schema_version == document["schema_version"] in READABLE_VERSIONS
    assert (bundle.manifest.fill, bundle.manifest.irregular, bundle.manifest.network.conformal) == ("mask", "error", "none")


@pytest.mark.parametrize("name", NAMES)
def test_an_older_bundle_is_served(name, tmp_path):
    """Through the service, as any other."""
    settings = ServiceSettings(
        bundle=RELEASED / name, jobs_directory=tmp_path / "jobs", job_workers=0, open="always", keys_directory=tmp_path / "keys"
    )
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        wait_ready(client)
        answer = client.post("/forecast", json={"series": [series(num_steps=8)]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["forecasts"][0]["mean"]) == 3


def test_saved_again_it_is_of_today(tmp_path):
    """Upgrading a bundle is loading and saving it: the weights are the same to the bit."""
    old = load_bundle(RELEASED / "schema_1")
    save_bundle(tmp_path / "new", old.forecaster, old.manifest.model_copy(update={"schema_version": SCHEMA_VERSION}))
    new = load_bundle(tmp_path / "new")
    assert new.manifest.schema_version == SCHEMA_VERSION
    assert new.manifest.manifest_sha256
    assert all(bool((new.forecaster.state_dict()[key] == value).all()) for key, value in old.forecaster.state_dict().items())


def test_every_schema_that_is_readable_has_a_fixture():
    """A new schema version comes with a bundle of the one before."""
    found = {json.loads((RELEASED / name / "bundle.json").read_text())["schema_version"] for name in NAMES}
    assert found == set(READABLE_VERSIONS)


# MLflow's own models warn about what a later SQLAlchemy will drop.
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_the_database_of_an_older_mlflow_is_brought_up(tmp_path):
    """From the schema before, `mlflow-upgrade` brings the store that the environment names to the present one."""
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    engine = sqlalchemy.create_engine(address)
    InitialBase.metadata.create_all(engine)  # as MLflow does before its first migration
    engine.dispose()
    migrations = _get_alembic_config(address)
    scripts = ScriptDirectory.from_config(migrations)
    newest = scripts.get_current_head()
    before = scripts.get_revision(newest).down_revision
    alembic.command.upgrade(migrations, before)
    assert _revision(tmp_path) == before
    script = Path(__file__).resolve().parents[2] / "docker" / "bin" / "mlflow-upgrade"
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": address, "GIT_PYTHON_REFRESH": "quiet"}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert _revision(tmp_path) == newest


def _revision(folder: Path) -> str:
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return str(database.execute("select version_num from alembic_version").fetchone()[0])
