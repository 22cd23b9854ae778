"""Names and references of models, tracking URIs, artifact paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import TrackingConfig
from training.errors import ConfigurationError, ModelNotFoundError
from training.tracking.dashboard import dashboard_command
from training.tracking.environment import default_spool_directory, normalize_uri, redact, resolve_uri, sqlite_path
from training.tracking.references import ModelReference, parse_reference, validate_alias, validate_model_name
from training.tracking.sink import clean_key, is_safe_folder
from training.tracking.tracker import NOOP_TRACKER, RegistrationRequest, RunDescription


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("bike", ModelReference("bike")),
        ("bike sales v1.2", ModelReference("bike sales v1.2")),
        ("bike@champion", ModelReference("bike", alias="champion")),
        ("bike/12", ModelReference("bike", version=12)),
    ],
)
def test_references_mean_what_they_say(text: str, reference: ModelReference) -> None:
    """A name, a name with an alias and a name with a version are told apart, and written back as they were."""
    assert parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "../etc/passwd", "/etc", "a/b/c", "a/../1", "a\\b", "C:model", "models:/a/1", "a@", "a@b@c", "a/x", "a/-1",
     "a/", "a/1@b", "a\x00", "a\n", "~", "%2e%2e", "-rf", "a/²", "a/12345678901", "a" * 129, "a'; drop table", "..a", "a..b"],
)  # fmt: skip
def test_impossible_references_are_not_found(text: str) -> None:
    """Nothing that reads like a path, a URI or a command is looked up at all."""
    with pytest.raises(ModelNotFoundError):
        parse_reference(text)


@pytest.mark.parametrize("name", ["../x", "a/b", "a:b", "", "a@b"])
def test_path_like_names_cannot_be_registered(name: str) -> None:
    """A name that could be taken for a path is refused before anything is sent."""
    with pytest.raises(ConfigurationError, match=r"tracking\.model_name"):
        validate_model_name(name)


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "1a", "", "a b", "a@b"])
def test_reserved_aliases_are_refused(alias: str) -> None:
    """`latest` and `v1` mean something else to MLflow, so they cannot be aliases."""
    with pytest.raises(ConfigurationError, match=r"tracking\.alias"):
        validate_alias(alias)


def test_uri_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """tracking.uri beats MLFLOW_TRACKING_URI, which beats the sqlite file under mlruns of the working directory."""
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(TrackingConfig()) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000/")
    assert resolve_uri(TrackingConfig()) == "http://mlflow:5000"
    assert resolve_uri(TrackingConfig(uri="https://other")) == "https://other"


def test_spool_lies_beside_the_sqlite_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default spool is a sibling of a sqlite file, and under mlruns of the working directory for a server."""
    monkeypatch.chdir(tmp_path)
    assert default_spool_directory(normalize_uri("sqlite:///store/a.db")) == tmp_path / "store" / "spool"
    assert default_spool_directory("http://host") == tmp_path / "mlruns" / "spool"
    assert sqlite_path("http://host") is None


@pytest.mark.parametrize("uri", ["mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "ftp://host", "javascript:alert(1)"])
def test_stores_that_mlflow_no_longer_has_are_refused(uri: str) -> None:
    """A directory or a foreign scheme is named as the mistake it is, with what to write instead."""
    with pytest.raises(ConfigurationError, match=r"sqlite:///mlruns/mlflow\.db"):
        normalize_uri(uri)


def test_credentials_never_show() -> None:
    """User and password of a URI are cut out of whatever is shown, and the dashboard's error says so too."""
    assert redact("postgresql+psycopg2://user:secret@db:5432/mlflow") == "postgresql+psycopg2://db:5432/mlflow"
    with pytest.raises(ConfigurationError) as caught:
        dashboard_command("https://user:secret@host", "127.0.0.1", 5000)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "cleaned"),
    [("grad_norm/lstm.0", "grad_norm/lstm.0"), ("a/../b", "a/b"), ("/a//b/", "a/b"), ("a{b}", "a_b_"), ("", "_"), ("é", "é")],
)
def test_metric_names_are_made_acceptable(key: str, cleaned: str) -> None:
    """One odd character in a name must not make the server refuse a batch."""
    assert clean_key(key) == cleaned


def test_artifact_paths_stay_inside_the_run() -> None:
    """A folder that climbs out of the run, or is absolute, is not a folder of it."""
    assert is_safe_folder("gradients/maps")
    assert is_safe_folder("")
    assert not any(is_safe_folder(folder) for folder in ("/etc", "../x", "a/../../b", "a\\b", "a\0b"))


def test_noop_tracker_accepts_everything_and_keeps_nothing(tmp_path: Path) -> None:
    """The tracker of an untracked run can be used like any other; it has no run and leaves nothing unsent."""
    NOOP_TRACKER.start(RunDescription("experiment"))
    NOOP_TRACKER.log_metrics({"a": 1.0}, 1)
    assert NOOP_TRACKER.register(RegistrationRequest("name", tmp_path)) is None
    assert NOOP_TRACKER.finish("FINISHED") == 0
    assert NOOP_TRACKER.run_id is None
