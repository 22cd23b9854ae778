"""One training job on disk. The directory is the truth about a job; the queue only decides whose turn it is.

job.json        what was asked for
config.yaml     the configuration, without the path of the data
lock            held by the worker and by the training itself: free means that neither lives
attempts.json   every start of the training, with how it ended
cancel          somebody wants it to stop
outcome.json    how the job ended; absent while it has not
result.json     what `gradcast train --json` printed
log.txt         what it said
run/            the run's directory: checkpoints, progress, readings, bundle
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from app.jobs.files import write_whole
from training.file_lock import RETRY_SECONDS, is_locked, take_lock

State = Literal["pending", "running", "succeeded", "failed", "cancelled"]
FINAL_STATES: tuple[State, ...] = ("succeeded", "failed", "cancelled")
# Who asked for a job where nobody needs a key; and for one of a version that did not note it.
ANONYMOUS = "anonymous"
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
# Names that the training gives its checkpoints: the last, and the one before it.
CHECKPOINTS = ("last.safetensors", "previous.safetensors")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobSpec(_Record):
    """What was asked for.

    Attributes:
        id: Identity, sorting by time.
        dataset_id: What it trains on.
        dataset_name: What people call that.
        model_name: Name in the registry.
        promote: Whether the gate is asked to make the new version champion.
        created_at: When it was submitted, ISO 8601 in UTC.
        user: Name of the key that asked for it.
    """

    # What a later version noted beside this is not needed to run the job: going back to this version must be possible.
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    dataset_id: str
    dataset_name: str
    model_name: str
    promote: bool
    created_at: str
    user: str = ANONYMOUS


class Attempt(_Record):
    """One start of the training.

    Attributes:
        generation: Counts how often a person resumed the job; limits are counted anew with each.
        started_at: ISO 8601 in UTC.
        seconds: How long it ran; None while it runs, or if its worker was killed.
        exit_code: As the process reported it; None likewise.
        reason: Why it ended.
    """

    generation: int
    started_at: str
    seconds: float | None = None
    exit_code: int | None = None
    reason: str | None = None


class Outcome(_Record):
    """How a job ended.

    Attributes:
        state: Final state.
        code: Stable identifier of the reason.
        message: The sentence for the user.
        finished_at: ISO 8601 in UTC.
    """

    state: State
    code: str
    message: str
    finished_at: str


_ATTEMPTS = TypeAdapter(tuple[Attempt, ...])


@dataclass(frozen=True)
class JobDirectory:
    """One job.

    Attributes:
        path: Its directory.
    """

    path: Path

    @classmethod
    def create(cls, root: Path, config_yaml: str, **spec: Any) -> JobDirectory:
        """Write a new job; it appears whole or not at all."""
        now = datetime.now(UTC)
        job_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        record = JobSpec(id=job_id, created_at=now.isoformat(timespec="microseconds"), **spec)
        staging = root / f".{job_id}"
        staging.mkdir(parents=True)
        try:
            (staging / "config.yaml").write_text(config_yaml, encoding="utf-8")
            write_whole(staging / "job.json", record.model_dump_json(indent=1))
            staging.rename(root / job_id)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return cls(root / job_id)

    @classmethod
    def list_under(cls, root: Path) -> list[JobDirectory]:
        """Every job, the newest first."""
        if not root.is_dir():
            return []
        names = sorted((entry.name for entry in root.iterdir() if _ID.fullmatch(entry.name)), reverse=True)
        return [cls(root / name) for name in names]

    @classmethod
    def find(cls, root: Path, job_id: str) -> JobDirectory | None:
        """The job of an id; None if there is none, or the text can be no id."""
        path = root / job_id if _ID.fullmatch(job_id) else None
        return cls(path) if path is not None and (path / "job.json").is_file() else None

    @property
    def spec(self) -> JobSpec:
        """What was asked for."""
        return JobSpec.model_validate_json((self.path / "job.json").read_bytes())

    @property
    def run(self) -> Path:
        """The run's directory, once the training has made it."""
        return self.path / "run"

    @property
    def log(self) -> Path:
        """What the training said."""
        return self.path / "log.txt"

    @property
    def has_checkpoint(self) -> bool:
        """Whether a stopped training can go on from where it was."""
        return any((self.run / "checkpoints" / name).is_file() for name in CHECKPOINTS)

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        with contextlib.suppress(OSError, ValidationError):
            return Outcome.model_validate_json((self.path / "outcome.json").read_bytes())
        return None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return not (self.path / "outcome.json").exists()

    @property
    def state(self) -> State:
        """What is true now: it runs if and only if a live process holds its lock."""
        outcome = self.outcome
        if outcome is not None:
            return outcome.state
        return "running" if self.is_locked else "pending"

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every start of the training so far."""
        try:
            return _ATTEMPTS.validate_json((self.path / "attempts.json").read_bytes())
        except FileNotFoundError:
            return ()

    @property
    def generation(self) -> int:
        """How often a person resumed it."""
        with contextlib.suppress(FileNotFoundError):
            return int((self.path / "generation").read_text(encoding="ascii"))
        return 0

    @property
    def is_cancel_requested(self) -> bool:
        """Whether somebody wants it to stop."""
        return (self.path / "cancel").exists()

    def request_cancel(self) -> None:
        """Ask whoever runs it to stop."""
        (self.path / "cancel").touch()

    def result(self) -> dict[str, Any] | None:
        """The document that the training printed; None if it did not come to that."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.path / "result.json").read_bytes()))
        return None

    def begin_attempt(self) -> None:
        """Note that the training is started."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write_attempts((*self.attempts, Attempt(generation=self.generation, started_at=now)))

    def end_attempt(self, seconds: float, exit_code: int, reason: str) -> None:
        """Note how the last start ended."""
        *before, last = self.attempts
        ended = last.model_copy(update={"seconds": round(seconds, 1), "exit_code": exit_code, "reason": reason})
        self._write_attempts((*before, ended))

    def finish(self, state: State, code: str, message: str) -> None:
        """Note how the job ended."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        outcome = Outcome(state=state, code=code, message=message, finished_at=now)
        write_whole(self.path / "outcome.json", outcome.model_dump_json(indent=1))

    def reopen(self) -> None:
        """Make an ended job pending again; it goes on from its checkpoint."""
        write_whole(self.path / "generation", str(self.generation + 1))
        (self.path / "cancel").unlink(missing_ok=True)
        (self.path / "outcome.json").unlink(missing_ok=True)

    @property
    def wants_gpu(self) -> bool:
        """Whether it takes a card where there is one: unless it is configured for another device."""
        with contextlib.suppress(OSError, yaml.YAMLError, AttributeError):
            config = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
            return str(config.get("fit", {}).get("device", "auto")) not in ("cpu", "mps")
        return True

    @property
    def is_locked(self) -> bool:
        """Whether a worker or its training lives."""
        return is_locked(self.path / "lock")

    @contextlib.contextmanager
    def locked(self) -> Iterator[int | None]:
        """Hold the lock; yields its descriptor, to be inherited by the training, or None if somebody else holds it."""
        descriptor = take_lock(self.path / "lock", RETRY_SECONDS)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _write_attempts(self, attempts: tuple[Attempt, ...]) -> None:
        write_whole(self.path / "attempts.json", _ATTEMPTS.dump_json(attempts, indent=1))
