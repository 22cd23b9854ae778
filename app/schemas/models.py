"""Responses about models and the state of the service."""

from __future__ import annotations

from pydantic import BaseModel


class ColumnsBody(BaseModel):
    """Columns a model reads, by role."""

    target: str
    futr_exog: list[str]
    hist_exog: list[str]
    stat_exog: list[str]
    calendar: list[str]
    categories: dict[str, list[str]]
    """Known values of the categorical columns."""


class VersionBody(BaseModel):
    """One registered version."""

    version: int
    aliases: list[str]
    run_id: str | None
    verdict: str | None
    """Verdict of the gradient's diagnosis."""
    is_loaded: bool


class ModelBody(BaseModel):
    """A model by name; what is null is not known before the model is loaded."""

    name: str
    is_ready: bool
    version: int | None
    """Version that the name alone stands for."""
    aliases: dict[str, int]
    verdict: str | None
    reach_steps: int | None
    horizon: int | None
    context_length: int | None
    freq: str | None
    season_length: int | None
    time_kind: str | None
    architecture: str | None
    quantile_levels: list[float] | None
    columns: ColumnsBody | None
    num_series: int | None
    """Series it was trained on."""
    has_context: bool
    """Whether those series can be forecast by `unique_id` alone."""
    trained_until: str | None
    last_error: str | None
    """Why the newest version is not the one served."""
    versions: list[VersionBody]


class ModelDetail(ModelBody):
    """A model with its evaluation."""

    metrics: dict[str, float | None]
    baselines: dict[str, dict[str, float | None]]
    data_fingerprint: str | None
    versions_of: dict[str, str]
    """Versions of the software that wrote the bundle."""


class ModelList(BaseModel):
    """Every model that is served."""

    models: list[ModelBody]
    default_model: str | None
    """Name that a request without `model` gets."""


class AliveBody(BaseModel):
    """The process answers."""

    status: str = "alive"


class ModelReadiness(BaseModel):
    """State of one model."""

    name: str
    is_ready: bool
    version: int | None
    last_error: str | None


class SourceReadiness(BaseModel):
    """State of the place models come from."""

    kind: str
    has_answered: bool
    """Whether the last look at it succeeded."""
    last_error: str | None


class ReadyBody(BaseModel):
    """What is able to forecast."""

    status: str
    """ready, not_ready or draining."""
    is_degraded: bool
    """Whether something is wrong that does not stop forecasts: a newer version that cannot be loaded, a registry that is away."""
    models: list[ModelReadiness]
    source: SourceReadiness
    queue_windows: int
    """Windows admitted and not yet answered."""
