"""What the pipeline tells about a run, and to whom. Nothing here knows MLflow, so importing this module is free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
CHAMPION = "champion"


@dataclass(frozen=True)
class DatasetDescription:
    """The data set of a run, as the dashboard lists it among the run's inputs.

    Attributes:
        name: What people call it, such as the file's name.
        source: Path or URL it was read from.
        digest: sha256 of its content.
        num_rows: Rows over all series.
        num_series: Series.
        schema: Column to type or role.
    """

    name: str
    source: str
    digest: str
    num_rows: int = 0
    num_series: int = 0
    schema: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunDescription:
    """What a run is, known before its first step.

    Attributes:
        experiment: Group of runs in the dashboard.
        run_name: Name of the run.
        tags: Searchable facts (`git.commit`, `data.fingerprint`, ...).
        params: The resolved configuration by dotted key.
        dataset: What it trains on.
        job_id: Identity that survives a restart: a run with the same one is continued, not created again; None = a new one.
    """

    experiment: str
    run_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    dataset: DatasetDescription | None = None
    job_id: str | None = None


@dataclass(frozen=True)
class RegistrationRequest:
    """A trained model to be put under a name.

    Attributes:
        name: Registered name; see `training.tracking.references.validate_model_name`.
        bundle_directory: The bundle.
        alias: Alias of a healthy version when the name already has a champion.
        healthy: Whether the gradient verdict allows an alias at all.
        tags: Tags of the version.
        note: Model card in markdown.
    """

    name: str
    bundle_directory: Path
    alias: str = "challenger"
    healthy: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry.

    Attributes:
        name: Registered name.
        version: Number of the version.
        uri: `models:/name/version`.
        aliases: Names that point to this version.
    """

    name: str
    version: int
    uri: str
    aliases: tuple[str, ...] = ()


class Tracker(ABC):
    """Where readings go. No method waits for a network, except `register`, `finish` and the first read of `run_id`."""

    @abstractmethod
    def start(self, description: RunDescription) -> None:
        """Open the run, or continue the one with the same `job_id`.

        Raises:
            TrackingError: If nothing can be recorded; in strict mode also if the server does not answer.
        """

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of one optimizer step; NaN and Inf are recorded as NaN and counted in `tracking/nonfinite`."""

    @abstractmethod
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Record facts about the run; a later value replaces an earlier one."""

    @abstractmethod
    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file, or all files of a directory, under `folder` of the run; the source may be deleted afterwards."""

    @abstractmethod
    def log_figure(self, name: str, png: bytes, step: int | None = None) -> None:
        """Record a picture: with a step into the dashboard's image slider, without as the artifact `name`."""

    @abstractmethod
    def log_note(self, markdown: str) -> None:
        """Record the run's description; `[text](artifact:PATH)` links to a file that was recorded."""

    @abstractmethod
    def register(self, request: RegistrationRequest) -> RegisteredModel | None:
        """Register a bundle, after everything recorded before it has arrived.

        Returns:
            The version, or None if the server did not answer in time; `gradcast sync` then registers it later.

        Raises:
            TrackingError: If the registry refuses the model, or, in strict mode, does not answer.
        """

    @abstractmethod
    def finish(self, status: RunStatus, deadline_seconds: float = 30.0) -> int:
        """Close the run and send what is left, for at most `deadline_seconds`.

        Returns:
            Events that did not arrive; they wait on disk for `gradcast sync`.

        Raises:
            TrackingError: In strict mode, if a FINISHED run has events that did not arrive.
        """

    @property
    @abstractmethod
    def run_id(self) -> str | None:
        """Identity of the run in the store; waits once, briefly, while the store is opened; None if it is not known."""

    @property
    @abstractmethod
    def uri(self) -> str | None:
        """Where the run is kept, without credentials."""


@final
class _NoopTracker(Tracker):
    """Records nothing."""

    def start(self, description: RunDescription) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_tags(self, tags: Mapping[str, str]) -> None:
        pass

    def log_artifact(self, path: Path, folder: str = "") -> None:
        pass

    def log_figure(self, name: str, png: bytes, step: int | None = None) -> None:
        pass

    def log_note(self, markdown: str) -> None:
        pass

    def register(self, request: RegistrationRequest) -> RegisteredModel | None:
        return None

    def finish(self, status: RunStatus, deadline_seconds: float = 30.0) -> int:
        return 0

    @property
    def run_id(self) -> str | None:
        return None

    @property
    def uri(self) -> str | None:
        return None


NOOP_TRACKER: Tracker = _NoopTracker()
