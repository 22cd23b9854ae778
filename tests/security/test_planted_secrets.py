"""Secrets are planted where people put them; then everything that is written, said or sent is searched for them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import ServiceSettings, load_settings
from tests.faults.children import Fault
from tests.faults.runs import run, said, words_for
from tests.integration.service.service_bundles import TestClient, wait_ready, write_bundle
from training.commands.train import with_store
from training.config import load_config, redact_uri
from training.errors import ConfigurationError
from training.tracking.dashboard import dashboard_command, dashboard_environment
from training.tracking.environment import open_client
from training.tracking.spool import Spool

SECRET = "hunter2-planted"
# Nothing listens there: the run ends with everything still on this machine.
STORE = f"postgresql+psycopg2://somebody:{SECRET}@127.0.0.1:9/db?sslpassword={SECRET}"


def holders(folder: Path, secret: str) -> list[str]:
    """Files below a folder with the secret in their name or content."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes())
    ]


def test_a_training_writes_no_password_anywhere(tmp_path, waves):
    """A run whose store's address holds a password, twice, leaves it in no log, configuration, report, checkpoint or spool."""
    code = run(tmp_path, words_for(waves, STORE), Fault("signal", "backtest", 1, 9))
    assert code < 0
    assert (tmp_path / "run" / "config.yaml").exists()
    assert list((tmp_path / "mlruns" / "spool").iterdir())
    assert holders(tmp_path, SECRET) == []
    assert "postgresql+psycopg2://127.0.0.1:9/db" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_resumed_run_gets_its_password_back_from_whoever_resumes_it(monkeypatch):
    """From the option or from MLFLOW_TRACKING_URI, if that names the same store; never from a file, never for another store."""
    kept = load_config(None, [], {"tracking.uri": redact_uri(STORE)})
    assert with_store(kept, STORE).tracking.uri == STORE
    assert with_store(kept, None).tracking.uri == redact_uri(STORE)
    assert with_store(kept, STORE.replace("127.0.0.1", "other")).tracking.uri == redact_uri(STORE)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORE)
    assert with_store(kept, None).tracking.uri == STORE


def test_neither_path_nor_password_reaches_mlflow(tmp_path, waves, store):
    """Of the data the store learns the file's name, not where it lies: in parameters, tags, inputs, and every artifact."""
    secret_place = tmp_path / SECRET
    secret_place.mkdir()
    data = secret_place / "waves.csv"
    data.write_bytes(waves.read_bytes())
    uri = store()
    assert run(tmp_path, words_for(data, uri), Fault()) == 0, said(tmp_path)
    (entry,) = open_client(uri).search_runs(["1"])
    assert entry.data.params["data.path"] == "waves.csv"
    assert SECRET not in str(entry.to_dictionary())
    assert holders(tmp_path / "artifacts", SECRET) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"http://me:{SECRET}@host/x", "http://host/x"),
        (f"postgresql://me:p@{SECRET}@host/db", "postgresql://host/db"),
        (f"(postgresql://h/db?user=a&password={SECRET} failed)", "(postgresql://h/db?user=a&password=*** failed)"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("write to someone@example.org", "write to someone@example.org"),
    ],
)  # fmt: skip
def test_addresses_are_shown_without_secrets(text, wanted):
    """User, password and token disappear, the rest stays readable."""
    assert redact_uri(text) == wanted


def test_no_process_list_shows_a_password():
    """The dashboard is told its store by the environment."""
    assert SECRET not in " ".join(dashboard_command(STORE, "127.0.0.1", 5000))
    assert dashboard_environment(STORE)["MLFLOW_BACKEND_STORE_URI"] == STORE


def test_the_service_tells_nobody_its_passwords(tmp_path, caplog):
    """No answer to any GET route, no log line and no file holds the passwords of registry and queue."""
    write_bundle(tmp_path / "bundles" / "plain" / "1")
    settings = ServiceSettings(
        bundle=tmp_path / "bundles", jobs_directory=tmp_path / "jobs", job_workers=0, queue_url=STORE, tracking_uri=STORE
    )
    caplog.set_level(logging.DEBUG)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_ready(client)
        paths = [path for path, operations in client.get("/openapi.json").json()["paths"].items() if "get" in operations]
        answers = [client.get(path.replace("{", "").replace("}", "")).text for path in paths if not path.endswith("/events")]
    assert len(answers) > 8
    assert all(SECRET not in answer for answer in answers)
    assert SECRET not in caplog.text
    assert holders(tmp_path, SECRET) == []


def test_a_wrong_setting_is_named_without_its_secret(monkeypatch):
    """The message about a setting that cannot be read shows no password in it."""
    monkeypatch.setenv("GRADCAST_PORT", STORE)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "GRADCAST_PORT" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_spool_is_for_its_owner_alone(tmp_path):
    """What waits there may be read by nobody else."""
    spool = Spool(tmp_path / "spool" / "run")
    spool.open_for_append()
    spool.close()
    assert (tmp_path / "spool" / "run").stat().st_mode & 0o077 == 0
    assert (tmp_path / "spool" / "run" / "events.jsonl").stat().st_mode & 0o077 == 0
