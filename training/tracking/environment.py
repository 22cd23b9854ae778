"""The one door to MLflow: where the store is, how it is opened quietly and quickly, and what its errors mean."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from training.config import TrackingConfig, redact_uri
from training.errors import ConfigurationError, ModelNotFoundError, Problem, TrackingError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DEFAULT_URI = "sqlite:///mlruns/mlflow.db"
# MLflow would otherwise print run links to stdout (which `--json` needs clean), call home, and retry a dead server for
# 244 s; the sender does the retrying here. Whoever sets one of these means it.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
}
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks", "databricks-uc")


def prepare_environment() -> None:
    """Set what MLflow reads at import; variables that are already set stay."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def resolve_uri(config: TrackingConfig) -> str:
    """Tracking URI: the configured one, else `MLFLOW_TRACKING_URI`, else the sqlite file; sqlite paths made absolute.

    Raises:
        ConfigurationError: If it is no URI of a store that MLflow still has.
    """
    return normalize_uri(config.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


def normalize_uri(uri: str) -> str:
    """Make a relative sqlite path absolute, so that the store does not depend on the working directory.

    Raises:
        ConfigurationError: If it is no URI of a store that MLflow still has.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0] or ("databricks" if uri == "databricks" else "")
    if scheme not in _SCHEMES:
        remedy = f"Use http(s)://host:port, a database URI, or {DEFAULT_URI}."
        message = f"must be the URI of a tracking server or database (is {redact(uri)[:80]!r})."
        raise ConfigurationError([Problem("config_invalid", "tracking.uri", message, remedy)])
    path = sqlite_path(uri)
    return uri.rstrip("/") if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """Absolute path of the sqlite file, or None for another kind of store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(os.path.abspath(uri.removeprefix("sqlite:///").partition("?")[0]))


def default_spool_directory(uri: str | None = None) -> Path:
    """Where the spool of a store (None = the default one) is: beside a sqlite file, else under `mlruns` here."""
    path = sqlite_path(resolve_uri(TrackingConfig()) if uri is None else uri)
    return (path.parent if path is not None else Path("mlruns").absolute()) / "spool"


def default_cache_directory() -> Path:
    """Where downloaded bundles are kept: under XDG_CACHE_HOME, else `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gradcast"


def artifact_location(uri: str) -> str | None:
    """Where a new experiment's artifacts go: beside a sqlite file; None = the server decides."""
    path = sqlite_path(uri)
    return None if path is None else (path.parent / "artifacts").as_uri()


def redact(uri: str) -> str:
    """The URI without user and password, for messages."""
    return redact_uri(uri)


def with_credentials(uri: str) -> str:
    """A URI that was written down without its credentials, with those of `MLFLOW_TRACKING_URI` if that names the same store."""
    known = os.environ.get("MLFLOW_TRACKING_URI", "")
    return known if known and redact(known).rstrip("/") == uri.rstrip("/") else uri


@functools.cache
def open_client(uri: str) -> MlflowClient:
    """The client of a store; the first call imports MLflow and creates a sqlite file's tables (seconds).

    Args:
        uri: A normalized URI.
    """
    prepare_environment()
    if (path := sqlite_path(uri)) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_store(uri: str) -> None:
    """Make the tables of a sqlite file that is not there yet: a process that is killed while MLflow does leaves half of them.

    Args:
        uri: A normalized URI.

    Raises:
        TrackingError: If they cannot be made.
    """
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        with translated_errors(uri):
            open_client(uri)


@contextlib.contextmanager
def translated_errors(uri: str, what: str = "the tracking server") -> Iterator[None]:
    """Turn what MLflow raises into this project's errors.

    Raises:
        ModelNotFoundError: If the store says that the thing does not exist.
        TrackingError: For everything else.
    """
    try:
        yield
    except (TrackingError, ModelNotFoundError, ConfigurationError):
        raise
    except Exception as error:  # MLflow lets errors of a dozen libraries through
        summary = summarize(error)
        if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
            raise ModelNotFoundError(what, "in the registry", f"not found ({summary})") from error
        remedy = "Start it, or set tracking.uri."
        raise TrackingError(f"the tracking store {redact(uri)}", "reachable and willing", summary, remedy) from error


def error_code(error: BaseException) -> str:
    """MLflow's code of an error, or an empty string."""
    return str(getattr(error, "error_code", ""))


def summarize(error: BaseException) -> str:
    """First line of an error, without credentials."""
    lines = redact(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}".rstrip(": ")
