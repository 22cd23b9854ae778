"""The MLflow dashboard: how it is started on this machine, and how a description links into it."""

from __future__ import annotations

import os
import sys

from training.errors import ConfigurationError, Problem
from training.tracking.environment import artifact_location, normalize_uri, redact


def resolve_links(markdown: str, experiment_id: str, run_id: str) -> str:
    """Turn links to `artifact:PATH` of a description into links the dashboard follows.

    Args:
        markdown: As the run wrote it, before anybody knew its identity.
        experiment_id: In the store.
        run_id: In the store.

    Returns:
        The same text with links relative to the dashboard's address.
    """
    return markdown.replace("(artifact:", f"(#/experiments/{experiment_id}/runs/{run_id}/artifacts/")


def dashboard_command(uri: str, host: str, port: int) -> list[str]:
    """The command line of a dashboard over a store.

    Args:
        uri: Database URI of the store.
        host: Address to listen on.
        port: Port to listen on.

    Returns:
        Program and arguments.

    Raises:
        ConfigurationError: If the store is a server, which has its own dashboard.
    """
    uri = normalize_uri(uri)
    if uri.startswith(("http", "databricks")):
        message = f"must be a database to start a dashboard over it (is {redact(uri)!r})."
        raise ConfigurationError([Problem("config_invalid", "tracking.uri", message, f"Open {redact(uri)} in a browser.")])
    # The store's address may hold a password: it goes by the environment, not by arguments that `ps` shows.
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    location = artifact_location(uri)
    if location is not None:
        command += ["--artifacts-destination", location]
    return [*command, "--workers", "1"]


def dashboard_environment(uri: str) -> dict[str, str]:
    """Environment of the dashboard over a store: without the extra job workers (1 GB) and without telemetry."""
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return {**own, **os.environ, "MLFLOW_BACKEND_STORE_URI": normalize_uri(uri)}
