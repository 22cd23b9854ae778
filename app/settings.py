"""What the service is told by its environment; built in the factory, never at import."""

from __future__ import annotations

import ipaddress
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from training.config import redact_uri
from training.errors import ConfigurationError, Problem
from training.tracking.environment import default_cache_directory

ENV_PREFIX = "GRADCAST_"
MEBIBYTE = 1024 * 1024


def default_keys_directory() -> Path:
    """`gradcast/keys` where the user's configuration is kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "gradcast" / "keys"


class ServiceSettings(BaseSettings):
    """Settings of the service; each is read from `GRADCAST_<NAME>` unless given."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 = any free one."""
    published_on: str | None = None
    """Address that others reach it at, where GRADCAST_HOST is a container's own and its port is published: 127.0.0.1."""
    open: Literal["never", "until_keys", "always"] = "never"
    """Whether to serve without keys, on a loopback address only: never; until_keys = as long as no key was ever made; always."""
    keys_directory: Path = Field(default_factory=default_keys_directory)
    """Where keys (as hashes) and the audit log are kept; by default gradcast/keys in the user's configuration."""
    key_requests_per_second: float | None = Field(default=None, gt=0.0)
    """Requests per second of a key that has no rate of its own; null = no limit."""
    key_burst: int = Field(default=100, ge=1)
    """Requests at once of a key with a rate."""
    audit: Literal["changes", "all"] = "changes"
    """What the audit log holds: changes and refusals; or every request with a key."""
    public_metrics: bool = False
    """Whether GET /metrics asks for no key."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names the service answers to, separated by commas; empty = any, and while open those of the loopback address."""
    tracking_uri: str | None = None
    """MLflow tracking URI whose registry is served; null = MLFLOW_TRACKING_URI, else sqlite:///mlruns/mlflow.db."""
    bundle: Path | None = None
    """Serve this bundle directory (or directory of bundles) instead of a registry."""
    models: Annotated[tuple[str, ...], NoDecode] = ()
    """Registered names to serve, separated by commas; empty = all. The first is the default model."""
    alias: str = Field(default="champion", min_length=1)
    """Alias that a name alone stands for."""
    shadow: str | None = None
    """Alias of a challenger that forecasts the same series in the background, such as challenger; null = none."""
    shadow_forecasts: int = Field(default=10_000, ge=1)
    """Forecasts of champion and challenger kept until their truth arrives."""
    cache_directory: Path = Field(default_factory=default_cache_directory)
    """Where downloaded bundles are kept; what is there is served when the registry does not answer."""
    poll_seconds: float = Field(default=10.0, ge=0.05)
    """Seconds between two looks at the aliases."""
    max_pinned_models: int = Field(default=4, ge=1)
    """Versions kept loaded beside the default ones, for requests that name an alias or a version."""
    max_queue_windows: int = Field(default=4096, ge=1)
    """Windows admitted at once; more are refused with 429."""
    max_wait_seconds: float = Field(default=0.03, ge=0.0)
    """Expected wait beyond which a request is refused with 429, unless it fits into the next pass or itself takes longer."""
    max_batch_windows: int = Field(default=256, ge=4)
    """Windows in one forward pass at most."""
    num_preparers: int = Field(default=1, ge=1)
    """Threads that turn large requests into windows."""
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of one forward pass."""
    request_timeout_seconds: float = Field(default=30.0, gt=0.0)
    """Deadline of a request, counted from its headers; then 504."""
    max_body_bytes: int = Field(default=16 * MEBIBYTE, ge=1)
    """Largest request body; then 413."""
    max_series: int = Field(default=1000, ge=1)
    """Series in one request at most."""
    max_series_length: int = Field(default=100_000, ge=1)
    """Steps of one series at most, gaps included."""
    drain_seconds: float = Field(default=0.0, ge=0.0)
    """After SIGTERM, seconds of answering 503 before the port closes, for load balancers to notice."""
    shutdown_seconds: int = Field(default=30, ge=1)
    """Seconds that requests in flight have to finish after that."""
    jobs_directory: Path = Path("jobs")
    """Where uploaded data sets, training jobs and their queue are kept; shared with the workers."""
    queue_url: str | None = None
    """Database of the job queue (postgresql://...); null = a SQLite file in GRADCAST_JOBS_DIRECTORY."""
    job_workers: int = Field(default=1, ge=0)
    """Trainings at once on this machine, over all its workers; 0 = none: `gradcast worker` runs them elsewhere."""
    jobs_per_user: int | None = Field(default=None, ge=1)
    """Trainings at once of one user (name of a key), over all machines; null = no bound but a fair share."""
    job_seconds: float = Field(default=6 * 3600.0, gt=0.0)
    """Longest time a training may take; it is then stopped with a checkpoint and can be resumed."""
    job_memory_bytes: int = Field(default=4096 * MEBIBYTE, ge=64 * MEBIBYTE)
    """Largest resident memory of a training."""
    max_waiting_jobs: int = Field(default=100, ge=1)
    """Jobs of one user that wait at once; more are refused with 429."""
    max_dataset_bytes: int = Field(default=256 * MEBIBYTE, ge=1)
    """Largest uploaded data set; then 413."""
    max_datasets_bytes: int = Field(default=4096 * MEBIBYTE, ge=1)
    """All uploaded data sets together; then 507."""
    promotion_metric: str = Field(default="mase", pattern="^(mase|mae|rmse|rmsse|smape|wql|crps)$")
    """Error by which the gate compares a new version with champion and seasonal naive."""
    promotion_min_improvement: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share by which a new version must be better than the champion."""
    dashboard_url: str | None = None
    """Address of the MLflow dashboard as browsers reach it; null = GRADCAST_TRACKING_URI if that is a server."""
    log_level: str = Field(default="info", pattern="^(critical|error|warning|info|debug)$")
    """Log level of the server."""
    log_format: Literal["text", "json"] = "text"
    """Log lines for people, or one JSON object each."""
    access_log: bool = False
    """Whether every request has a line in the log, at level info."""
    tracing: bool = False
    """Whether a span per request goes to the collector at OTEL_EXPORTER_OTLP_ENDPOINT; needs `gradcast[otel]`."""

    @field_validator("open")
    @classmethod
    def _open_on_loopback_only(cls, value: str, info: ValidationInfo) -> str:
        host = info.data.get("published_on") or info.data.get("host")
        if value != "never" and host is not None and not is_loopback(host):
            raise ValueError(
                f"must be never on an address that others reach, but it is {host} instead. "
                "Make a key with `gradcast keys create NAME --scope admin`, or listen on 127.0.0.1: GRADCAST_HOST, or "
                "GRADCAST_PUBLISHED_ON for the published port of a container"
            )
        return value

    @field_validator("models", "allowed_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("shadow")
    @classmethod
    def _shadow_is_another(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and value == info.data.get("alias"):
            raise ValueError("must be another alias than GRADCAST_ALIAS, which is the champion's")
        return value

    @field_validator("tracking_uri", "shadow", "bundle", "queue_url", "dashboard_url", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value


@lru_cache(1024)  # asked of the Host header of every request while the service is open
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def load_settings(**overrides: Any) -> ServiceSettings:
    """Read the settings from the environment; a given value that is not None beats it.

    Raises:
        ConfigurationError: With every problem, each with its key.
    """
    try:
        return ServiceSettings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError([_as_problem(detail) for detail in error.errors(include_url=False)]) from None


def _as_problem(detail: Any) -> Problem:
    key = ".".join(str(part) for part in detail["loc"])
    actual = redact_uri(repr(detail["input"]))[:80]
    return Problem("config_invalid", f"{ENV_PREFIX}{key.upper()}", f"{detail['msg']} (is {actual}).")
