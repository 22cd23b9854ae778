"""Delivers spool events to MLflow. Every delivery may be repeated: nothing is lost or doubled by it."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import orjson

from models.errors import GradcastError
from training.errors import TrackingError
from training.tracking.dashboard import resolve_links
from training.tracking.environment import artifact_location, error_code, open_client, redact, summarize
from training.tracking.registration import register_bundle
from training.tracking.sender import RejectedError, UnreachableError
from training.tracking.spool import Spool, SpoolEvent
from training.tracking.tracker import RegisteredModel

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

LOGGER = logging.getLogger("gradcast.tracking")
JOB_TAG, OWNER_TAG, HEARTBEAT_TAG = "job.id", "gradcast.owner", "gradcast.heartbeat"
NOTE_TAG = "mlflow.note.content"
MAX_TAG_LENGTH, MAX_PARAM_LENGTH, MAX_KEY_LENGTH, MAX_PAIRS_PER_BATCH = 8000, 6000, 250, 100
MAX_DIGEST_LENGTH, MAX_DATASET_NAME_LENGTH = 36, 500
THUMBNAIL_PIXELS = 256
_FORBIDDEN_IN_KEY = re.compile(r"[^\w\-. :/]")
_FORBIDDEN_IN_IMAGE_KEY = re.compile(r"[^a-zA-Z0-9_\-./ ]")
_REFUSED_FOR_GOOD = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")


def clean_key(key: str) -> str:
    """A metric, parameter or tag name that MLflow accepts: other characters become `_`."""
    parts = [part for part in _FORBIDDEN_IN_KEY.sub("_", key).split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:MAX_KEY_LENGTH] or "_"


class MlflowSink:
    """One run in an MLflow store."""

    def __init__(self, uri: str, spool: Spool) -> None:
        """Prepare deliveries from `spool` to the store at `uri` (normalized); nothing is contacted yet."""
        self._uri, self._spool = uri, spool
        self.registrations: dict[int, RegisteredModel | GradcastError] = {}
        self._handlers: Mapping[str, Callable[[SpoolEvent], None]] = {
            "start": self._start, "tags": self._tags, "artifact": self._artifact, "image": self._image, "note": self._note,
            "input": self._input, "register": self._register, "finish": self._finish,
        }  # fmt: skip

    @property
    def _client(self) -> MlflowClient:
        return open_client(self._uri)

    @property
    def _run_id(self) -> str:
        if self._spool.progress.run_id is None:
            raise RejectedError("it came before the start of its run")
        return self._spool.progress.run_id

    def deliver(self, events: Sequence[SpoolEvent]) -> None:
        """Deliver one event, or several of kind `metrics`."""
        first = events[0]
        try:
            if first.kind == "metrics":
                self._metrics(events)
            elif handler := self._handlers.get(first.kind):
                handler(first)
            else:
                raise RejectedError("a damaged line" if first.kind == "damaged" else f"unknown kind {first.kind!r}")
        except (RejectedError, UnreachableError):
            raise
        except Exception as error:
            raise classify(error, self._uri) from error

    def heartbeat(self) -> None:
        """Tell the time, so that a run whose process died can be told from one that is slow."""
        try:
            if self._spool.progress.run_id is not None and not self._spool.progress.is_finished:
                self._client.set_tag(self._run_id, HEARTBEAT_TAG, str(time.time_ns() // 1_000_000))
        except Exception as error:
            raise UnreachableError(summarize(error)) from error

    def close_abandoned(self, status: str, end_time_ms: int) -> bool:
        """Close the run unless another process has taken it over; True if it was open.

        Raises:
            UnreachableError: If the server does not answer.
        """
        progress = self._spool.progress
        try:
            run = self._client.get_run(self._run_id)
            if run.info.status != "RUNNING" or run.data.tags.get(OWNER_TAG) != progress.owner:
                return False
            self._client.set_terminated(self._run_id, status, self._not_before_start(end_time_ms))
        except Exception as error:
            if isinstance(failure := classify(error, self._uri), UnreachableError):
                raise failure from error
            return False
        return True

    def _start(self, event: SpoolEvent) -> None:
        job_id, owner = str(event.payload["job_id"]), str(event.payload["owner"])
        experiment_id = self._experiment_id(str(event.payload["experiment"]))
        tags = _clean_pairs(event.payload["tags"], MAX_TAG_LENGTH) | {JOB_TAG: job_id}
        run = self._find_run(experiment_id, job_id)
        resume_steps: Mapping[str, int] = {}
        if run is None:
            run = self._client.create_run(
                experiment_id, event.time_ms, {**tags, OWNER_TAG: owner}, event.payload["run_name"]
            )
        elif run.data.tags.get(OWNER_TAG) != owner:
            resume_steps = _last_steps(run)
            self._client.update_run(run.info.run_id, status="RUNNING")
            self._log_pairs(run.info.run_id, {**tags, OWNER_TAG: owner}, kind="tags")
        else:
            resume_steps = self._spool.progress.resume_steps
        self._spool.acknowledge(run_id=run.info.run_id, owner=owner, resume_steps=resume_steps)
        self._log_pairs(run.info.run_id, _clean_pairs(event.payload["params"], MAX_PARAM_LENGTH), kind="params")

    def _experiment_id(self, name: str) -> str:
        client = self._client
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(client.create_experiment(name, artifact_location(self._uri)))
            except Exception as error:
                # Another process may have been faster.
                if error_code(error) != "RESOURCE_ALREADY_EXISTS" or not (experiment := client.get_experiment_by_name(name)):
                    raise
        if experiment.lifecycle_stage != "active":
            raise UnreachableError(f"experiment {name!r} is deleted; restore it or set tracking.experiment")
        return str(experiment.experiment_id)

    def _find_run(self, experiment_id: str, job_id: str) -> Run | None:
        found = self._client.search_runs([experiment_id], f"tags.`{JOB_TAG}` = '{job_id}'", max_results=1)
        return found[0] if found else None

    def _log_pairs(self, run_id: str, pairs: Mapping[str, str], kind: str) -> None:
        from mlflow.entities import Param, RunTag

        items = list(pairs.items())
        for begin in range(0, len(items), MAX_PAIRS_PER_BATCH):
            chunk = items[begin : begin + MAX_PAIRS_PER_BATCH]
            if kind == "tags":
                self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in chunk])
                continue
            try:
                self._client.log_batch(run_id, params=[Param(key, value) for key, value in chunk])
            except Exception as error:
                if not isinstance(classify(error, self._uri), RejectedError):
                    raise
                # Parameters cannot change: a resumed run with another budget keeps its first ones and says so in a tag.
                self._log_params_singly(run_id, chunk)

    def _log_params_singly(self, run_id: str, items: Sequence[tuple[str, str]]) -> None:
        for key, value in items:
            try:
                self._client.log_param(run_id, key, value)
            except Exception as error:
                if not isinstance(classify(error, self._uri), RejectedError):
                    raise
                self._client.set_tag(run_id, clean_key(f"resumed_with.{key}"), value[:MAX_TAG_LENGTH])

    def _metrics(self, events: Sequence[SpoolEvent]) -> None:
        metrics = [metric for event in events for metric in self._as_metrics(event)]
        for begin in range(0, len(metrics), 1000):
            self._client.log_batch(self._run_id, metrics=metrics[begin : begin + 1000])

    def _as_metrics(self, event: SpoolEvent) -> list[Metric]:
        from mlflow.entities import Metric

        step, resume_steps = int(event.payload["step"]), self._spool.progress.resume_steps
        return [
            Metric(key, math.nan if value is None else value, event.time_ms, step)
            for key, value in event.payload["metrics"].items()
            if step > resume_steps.get(key, -1)
        ]

    def _tags(self, event: SpoolEvent) -> None:
        self._log_pairs(self._run_id, _clean_pairs(event.payload["tags"], MAX_TAG_LENGTH), kind="tags")

    def _note(self, event: SpoolEvent) -> None:
        experiment_id = self._client.get_run(self._run_id).info.experiment_id
        markdown = resolve_links(str(event.payload["markdown"]), experiment_id, self._run_id)
        self._client.set_tag(self._run_id, NOTE_TAG, _shortened(markdown, MAX_TAG_LENGTH))

    def _artifact(self, event: SpoolEvent) -> None:
        path = self._stored(event)
        folder = str(event.payload["folder"]) or None
        if path.is_dir():
            self._client.log_artifacts(self._run_id, str(path), folder)
        else:
            self._client.log_artifact(self._run_id, str(path), folder)

    def _image(self, event: SpoolEvent) -> None:
        # The names are those of MlflowClient.log_image, which the dashboard's slider reads, but with an identity that
        # follows from the event, so that a repetition overwrites instead of adding a second picture.
        png = self._stored(event).read_bytes()
        key = _FORBIDDEN_IN_IMAGE_KEY.sub("_", str(event.payload["name"])).replace("/", "~")
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{self._run_id}/{event.time_ms}/{event.start}")
        stem = f"{key}+step+{int(event.payload['step'])}+timestamp+{event.time_ms}+{identity}"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"{stem}.png").write_bytes(png)
            if (thumbnail := _thumbnail(png)) is not None:
                (Path(folder) / f"{stem}+compressed.webp").write_bytes(thumbnail)
            self._client.log_artifacts(self._run_id, folder, "images")
        self._client.set_tag(self._run_id, "mlflow.loggedImages", "true")

    def _input(self, event: SpoolEvent) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        described = event.payload
        schema = {"mlflow_colspec": [{"name": k, "type": v, "required": True} for k, v in described["schema"].items()]}
        profile = {"num_rows": described["num_rows"], "num_series": described["num_series"], "sha256": described["digest"]}
        dataset = Dataset(
            name=str(described["name"])[:MAX_DATASET_NAME_LENGTH],
            digest=str(described["digest"])[:MAX_DIGEST_LENGTH],
            source_type="http" if str(described["source"]).startswith(("http://", "https://")) else "local",
            source=orjson.dumps({"uri": described["source"]}).decode(),
            schema=orjson.dumps(schema).decode(),
            profile=orjson.dumps(profile).decode(),
        )
        self._client.log_inputs(self._run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _register(self, event: SpoolEvent) -> None:
        bundle = self._stored(event)
        number = self._spool.progress.num_events + 1
        try:
            self.registrations[number] = register_bundle(self._uri, self._run_id, bundle, event)
        except Exception as error:
            if isinstance(failure := classify(error, self._uri), RejectedError):
                self.registrations[number] = _refusal(event, failure)
            raise

    def _finish(self, event: SpoolEvent) -> None:
        self._client.set_terminated(self._run_id, str(event.payload["status"]), self._not_before_start(event.time_ms))

    def _not_before_start(self, time_ms: int) -> int:
        """The time, unless the clock was put back meanwhile: no run ends before it began."""
        return max(time_ms, int(self._client.get_run(self._run_id).info.start_time or 0))

    def _stored(self, event: SpoolEvent) -> Path:
        path = self._spool.stored_path(str(event.payload["file"]))
        if not path.exists():
            raise RejectedError(f"its file {path.name!r} is gone from the spool")
        return path


def classify(error: Exception, uri: str) -> UnreachableError | RejectedError:
    """Whether a failed delivery may succeed later.

    Only an answer that is certainly MLflow's own counts as a refusal: a proxy's 404 page in front of a dead server must
    not throw data away.
    """
    if isinstance(error, UnreachableError | RejectedError):
        return error
    from mlflow.exceptions import MlflowException, RestException

    summary = summarize(error)
    is_answer = isinstance(error, RestException if uri.startswith("http") else MlflowException)
    if is_answer and error_code(error) in _REFUSED_FOR_GOOD:
        return RejectedError(summary)
    if re.search(r"\b413\b", summary):  # a file that the server will never take must not hold up the rest
        return RejectedError(summary)
    if isinstance(error, GradcastError | TypeError | KeyError | AttributeError | AssertionError):
        return RejectedError(summary)
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return RejectedError(summary)
    return UnreachableError(summary)


def new_owner() -> str:
    """Token of this process: host, process and a random part."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def is_safe_folder(folder: str) -> bool:
    """Whether an artifact path stays inside the run."""
    path = PurePosixPath(folder)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in folder and "\0" not in folder


def _refusal(event: SpoolEvent, failure: RejectedError) -> GradcastError:
    return TrackingError(f"model {event.payload['name']!r}", "accepted by the registry", redact(str(failure)))


def _clean_pairs(pairs: Mapping[str, Any], max_length: int) -> dict[str, str]:
    return {clean_key(str(key)): _shortened(str(value), max_length) for key, value in pairs.items()}


def _shortened(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def _last_steps(run: Run) -> dict[str, int]:
    # The public `run.data.metrics` drops the steps that the store sent along.
    return {metric.key: int(metric.step) for metric in getattr(run.data, "_metric_objs", ())}


def _thumbnail(png: bytes) -> bytes | None:
    """A small WebP of a PNG, or None where Pillow is absent or cannot read it; the dashboard then shows the original."""
    try:
        from PIL import Image

        with Image.open(io.BytesIO(png)) as image:
            image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
            target = io.BytesIO()
            image.save(target, format="webp")
            return target.getvalue()
    except Exception:  # noqa: BLE001  a preview is not worth a picture
        return None
