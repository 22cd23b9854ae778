"""The tracker that writes to the spool; the courier does the rest. Importing this module does not import MLflow."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from models.errors import GradcastError
from training.errors import TrackingError
from training.tracking.courier import build_courier
from training.tracking.environment import default_spool_directory, normalize_uri, redact
from training.tracking.references import validate_alias, validate_model_name
from training.tracking.sender import DEFAULT_INTERVAL_SECONDS, LOGGER
from training.tracking.sink import clean_key, is_safe_folder, new_owner
from training.tracking.spool import Spool
from training.tracking.tracker import RegisteredModel, RegistrationRequest, RunDescription, RunStatus, Tracker

START_DEADLINE_SECONDS = 60.0
RUN_ID_DEADLINE_SECONDS = 20.0
REGISTER_DEADLINE_SECONDS = 120.0
# A full disk may be freed again: so many events wait for that in memory, some megabytes.
MAX_HELD_EVENTS = 10_000
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@final
class MlflowTracker(Tracker):
    """Keeps a run in an MLflow store without ever making the training wait for it."""

    def __init__(
        self,
        uri: str,
        spool_directory: Path | None = None,
        required: bool = False,
        interval_seconds: float = DEFAULT_INTERVAL_SECONDS,
        register_deadline_seconds: float = REGISTER_DEADLINE_SECONDS,
        in_process: bool = False,
    ) -> None:
        """Begin to open the store in the background; make the tracker early, its start is then soon.

        Args:
            uri: Tracking URI.
            spool_directory: Where events wait; None = beside a sqlite store, else under `mlruns`.
            required: Strict mode: a server that does not answer is an error.
            interval_seconds: Rest between two deliveries.
            register_deadline_seconds: Longest wait for a registration.
            in_process: Send from a thread of this process instead of a child process.

        Raises:
            ConfigurationError: If the URI is none.
        """
        self._uri = normalize_uri(uri)
        self._spool_directory = spool_directory or default_spool_directory(self._uri)
        self._required = required
        self._registrations: Counter[tuple[str, str]] = Counter()
        self._register_deadline = register_deadline_seconds
        self._spool: Spool | None = None
        self._keys: dict[str, str] = {}
        self._num_nonfinite = 0
        self._held: deque[tuple[str, dict[str, Any], int]] = deque(maxlen=MAX_HELD_EVENTS)
        self._may_wait_for_run_id = True
        self._has_warned_about_disk = False
        self._courier = build_courier(self._uri, interval_seconds, in_process)

    @property
    def uri(self) -> str:
        """Where the run is kept, without credentials."""
        return redact(self._uri)

    @property
    def spool_directory(self) -> Path:
        """Where events wait for the server."""
        return self._spool_directory

    @property
    def run_id(self) -> str | None:
        """Identity of the run in the store; the first read may wait for the store to be opened."""
        if self._spool is None:
            return None
        if self._spool.progress.run_id is None and self._may_wait_for_run_id:
            self._may_wait_for_run_id = self._wait_for_run_id(RUN_ID_DEADLINE_SECONDS)
        return self._spool.progress.run_id

    def start(self, description: RunDescription) -> None:
        """Open the run, or continue the one with the same `job_id`."""
        job_id = _safe_job_id(description.job_id)
        try:
            self._spool = _open_spool(self._spool_directory, job_id)
        except OSError as error:
            where, remedy = f"spool directory {self._spool_directory}", "Free some space or choose another directory."
            raise TrackingError(where, "writable", error.strerror or type(error).__name__, remedy) from error
        self._num_nonfinite = 0
        self._append("start", _start_payload(description, job_id, redact(self._uri)))
        if description.dataset is not None:
            dataset = description.dataset
            fields = ("name", "source", "digest", "num_rows", "num_series")
            self._append("input", {key: getattr(dataset, key) for key in fields} | {"schema": dict(dataset.schema)})
        self._courier.attach(self._spool)
        if self._required and not self._wait_for_run_id(START_DEADLINE_SECONDS):
            problem = self._courier.problem or "silent"
            self._courier.stop()
            remedy = "Start it, or set tracking.required: false."
            raise TrackingError(f"the tracking server {self.uri}", "reachable", problem, remedy)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of one optimizer step; the price is one line appended to a local file."""
        values: dict[str, float | None] = {}
        num_nonfinite = 0
        for key, value in metrics.items():
            number = float(value)
            if math.isfinite(number):
                values[self._key(key)] = number
            else:
                # MLflow would turn Inf into 1.8e308 and ruin the chart's axis.
                values[self._key(key)] = None
                num_nonfinite += 1
        if num_nonfinite:
            self._num_nonfinite += num_nonfinite
            values["tracking/nonfinite"] = float(self._num_nonfinite)
        if values:
            self._append("metrics", {"step": int(step), "metrics": values})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Record facts about the run."""
        self._append("tags", {"tags": _as_text(tags)})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file, or all files of a directory, under `folder` of the run."""
        _validate_folder(folder)
        self._append_file("artifact", path, path.name or "files", {"folder": folder.strip("/")})

    def log_figure(self, name: str, png: bytes, step: int | None = None) -> None:
        """Record a picture: with a step into the dashboard's image slider, without as the artifact `name`."""
        _validate_folder(name)
        if step is not None:
            self._append_file("image", png, "image.png", {"name": name.removesuffix(".png"), "step": int(step)})
            return
        folder, _, file_name = name.strip("/").rpartition("/")
        self._append_file("artifact", png, file_name, {"folder": folder})

    def log_note(self, markdown: str) -> None:
        """Record the run's description."""
        self._append("note", {"markdown": markdown})

    def register(self, request: RegistrationRequest) -> RegisteredModel | None:
        """Register a bundle, after everything recorded before it has arrived."""
        validate_model_name(request.name)
        validate_alias(request.alias)
        payload = {
            "name": request.name, "alias": request.alias, "healthy": request.healthy, "tags": _as_text(request.tags),
            "note": request.note, "identity": self._registration_identity(request),
        }  # fmt: skip
        number = self._append_file("register", request.bundle_directory, "bundle", payload)
        if number is None:
            return None
        self._courier.wait_until(lambda: self._courier.registration(number) is not None, self._register_deadline)
        outcome = self._courier.registration(number)
        if isinstance(outcome, GradcastError):
            raise outcome
        if outcome is None and self._required:
            remedy = "Run `gradcast sync` when it is back."
            raise TrackingError(f"the tracking server {self.uri}", "reachable", self._problem, remedy)
        return outcome

    def _registration_identity(self, request: RegistrationRequest) -> str:
        """The same when a run that was killed and resumed registers again; another for a second wish of one process."""
        content = _content_identity(request.bundle_directory)
        number = self._registrations[request.name, content]
        self._registrations[request.name, content] += 1
        return content if number == 0 else f"{content}-{number}"

    def finish(self, status: RunStatus, deadline_seconds: float = 30.0) -> int:
        """Close the run and send what is left."""
        spool = self._spool
        if spool is None:
            self._courier.stop()
            return 0
        self._append("finish", {"status": status})
        try:
            spool.sync_disk()
        except OSError as error:
            self._warn_about_disk(error)
        self._courier.wait_until(lambda: spool.num_unsent == 0, deadline_seconds)
        self._courier.stop()
        spool.progress = spool.read_progress()
        num_unsent = spool.num_unsent + len(self._held)
        if num_unsent == 0 and spool.progress.is_finished and spool.progress.num_rejected == 0:
            spool.remove()
        else:
            spool.close()
        if num_unsent and self._required and status == "FINISHED":
            remedy = "Run `gradcast sync` when it is back."
            actual = f"silent with {num_unsent} events unsent ({self._problem})"
            raise TrackingError(f"the tracking server {self.uri}", "reachable", actual, remedy)
        return num_unsent

    @property
    def _problem(self) -> str:
        return self._courier.problem or "too slow"

    def _wait_for_run_id(self, deadline_seconds: float) -> bool:
        spool = self._spool
        return spool is not None and self._courier.wait_until(lambda: spool.progress.run_id is not None, deadline_seconds)

    def _key(self, key: str) -> str:
        known = self._keys.get(key)
        if known is None:
            known = self._keys[key] = clean_key(key)
        return known

    def _append(self, kind: str, payload: Mapping[str, Any]) -> int | None:
        """Write one event; while the disk is full it is held in memory, and training goes on."""
        if self._spool is None:
            raise TrackingError("tracker", "started before it records", "not started")
        self._held.append((kind, dict(payload), time.time_ns() // 1_000_000))
        number = None
        try:
            while self._held:
                number = self._spool.append(*self._held[0])
                self._held.popleft()
        except OSError as error:
            self._warn_about_disk(error)
            return None
        return number

    def _append_file(self, kind: str, source: Path | bytes, name: str, payload: Mapping[str, Any]) -> int | None:
        if self._spool is None:
            raise TrackingError("tracker", "started before it records", "not started")
        try:
            return self._append(kind, {**payload, "file": self._spool.store(source, name)})
        except OSError as error:
            self._warn_about_disk(error)
            return None

    def _warn_about_disk(self, error: OSError) -> None:
        if not self._has_warned_about_disk:
            self._has_warned_about_disk = True
            logging.getLogger(LOGGER.name).warning(
                "the spool %s cannot be written (%s); training goes on, its newest %d reports wait in memory until it can",
                self._spool_directory, error, MAX_HELD_EVENTS,
            )


def _open_spool(spool_directory: Path, job_id: str) -> Spool:
    """The spool of a job, continued if it is there; a fresh one beside it while another process is sending the old one."""
    spool = Spool(spool_directory / job_id)
    try:
        is_free = spool.try_lock() and spool.try_lock("sender.lock")
    except FileNotFoundError:  # the sender of a killed predecessor has just finished and taken it away
        is_free = False
    if not is_free:
        spool.close()
        spool = Spool(spool_directory / f"{job_id}.{uuid.uuid4().hex[:8]}")
        spool.try_lock()
    spool.unlock("sender.lock")
    spool.open_for_append()
    return spool


def _start_payload(description: RunDescription, job_id: str, uri: str) -> dict[str, Any]:
    return {
        "job_id": job_id, "owner": new_owner(), "uri": uri, "experiment": description.experiment,
        "run_name": description.run_name, "tags": _as_text(description.tags), "params": _as_text(description.params),
    }  # fmt: skip


def _safe_job_id(job_id: str | None) -> str:
    """The job's identity as it may stand in a file name and a query."""
    if job_id is None:
        return uuid.uuid4().hex
    if _JOB_ID.fullmatch(job_id) and ".." not in job_id:
        return job_id
    return hashlib.sha256(job_id.encode()).hexdigest()[:32]


def _content_identity(bundle: Path) -> str:
    """The same for the same weights: a run that was killed after its registration and resumed finds its version again."""
    try:
        with (bundle / "weights.safetensors").open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    except OSError:
        return uuid.uuid4().hex[:12]


def _as_text(pairs: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in pairs.items()}


def _validate_folder(folder: str) -> None:
    if not is_safe_folder(folder):
        raise TrackingError("artifact path", "relative to the run and inside it", repr(folder[:80]))
