"""What a training job is asked with, and what it says of itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class JobRequest(BaseModel):
    """A training job."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"dataset_id": "0" * 32, "config": {"fit": {"max_steps": 500}}}]},
    )

    dataset_id: str
    """What to train on; see `POST /datasets`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The configuration, as in the YAML file of `gradcast train`; what is left out is chosen from the data."""
    promote: bool = False
    """Make the new version champion if the gate agrees: healthy, and better than champion and seasonal naive."""


class RegisteredBody(BaseModel):
    """The version that a job registered."""

    name: str
    version: int
    aliases: list[str]


class JobSummary(BaseModel):
    """A job in a line."""

    id: str
    state: str
    """pending, running, succeeded, failed or cancelled; running means that a live process is at it."""
    user: str | None
    """Name of the key that asked for it, `anonymous` without one; null for whoever is neither that user nor `admin`."""
    place: int | None
    """In the queue, from 1, while it is pending; the user with the fewest running jobs is next."""
    dataset_id: str
    dataset_name: str
    model_name: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    num_attempts: int
    """Starts of the training; more than one after a crash, a restart or a resumption."""
    step: int
    max_steps: int | None
    loss: float | None
    val_loss: float | None
    grad_norm: float | None
    reach_steps: int | None
    verdict: str | None
    """Of the gradient's diagnosis; preliminary while the job runs."""
    run_id: str | None
    """Of the recorded run, once it has ended well."""
    model: RegisteredBody | None
    code: str | None
    """Stable identifier of how it ended."""
    message: str | None
    """How it ended, in a sentence."""
    is_resumable: bool
    """Whether `POST /jobs/{id}/resume` can take it up from a checkpoint."""


class PromotionBody(BaseModel):
    """What the gate said."""

    is_allowed: bool
    """Whether the version may become champion."""
    is_promoted: bool
    """Whether it has become champion."""
    reasons: list[str]
    """For every rule a sentence, those that are not met first."""
    compared_by: str | None
    """Metric and part of the backtest, such as `val/mase`."""
    version: int
    champion: int | None
    """The champion that it was compared with."""
    override: str | None
    """Why the gate was overridden."""


class JobBody(JobSummary):
    """A job in full."""

    config: dict[str, Any]
    """As it was asked for."""
    metrics: dict[str, float | None]
    baselines: dict[str, dict[str, float | None]]
    promotion: PromotionBody | None
    log: list[str]
    """The last lines of what the training said."""


class JobList(BaseModel):
    """The newest two hundred jobs, the newest first."""

    jobs: list[JobSummary]
    has_worker: bool
    """Whether a live worker takes jobs off the queue; one is started when a job comes, unless workers run elsewhere."""
