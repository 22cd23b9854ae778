"""One training job's directory: configuration, checkpoints, bundle and reports, and whether it ended."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import TrainingConfig, load_config
from training.errors import CheckpointError, StorageError
from training.file_lock import RETRY_SECONDS, is_locked, take_lock

RUNS = Path("runs")


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run.

    Attributes:
        path: The directory.
    """

    path: Path

    @classmethod
    def create(cls, config: TrainingConfig, output: Path | None = None) -> RunDirectory:
        """Make a new directory, `runs/<model>-<time>-<random>` unless `output` names another, with the configuration.

        Raises:
            CheckpointError: If `output` already holds a run.
            StorageError: If it cannot be written.
        """
        run = cls(output or default_path(config.tracking.model_name or "model"))
        run.require_new()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            (run.path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
            run.write_state(job_id=secrets.token_hex(16), status="running")
        except OSError as error:
            remedy = "Make room there, or choose another directory: --output DIR"
            raise StorageError(str(run.path), "writable", f"not ({error.strerror})", remedy) from error
        return run

    @classmethod
    def open(cls, path: Path | None) -> RunDirectory:
        """Open a run to continue it; None = the newest one under `runs/` that has not finished.

        Raises:
            CheckpointError: If there is none.
        """
        if path is not None:
            run = cls(path)
            if not run.state_path.exists():
                raise CheckpointError(
                    str(path), "the directory of a run", "without run.json", "See the folders in runs/."
                )
            return run
        candidates = sorted(RUNS.glob("*/run.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in candidates:
            run = cls(file.parent)
            if not run.is_damaged and run.state().get("status") != "finished":
                return run
        raise CheckpointError(
            str(RUNS), "a folder with an unfinished run", "without one", "Start one with gradcast train."
        )

    def config(self) -> TrainingConfig:
        """The configuration the run was started with."""
        return load_config(self.path / "config.yaml")

    def state(self) -> dict[str, Any]:
        """Job id, status, and what else `write_state` was told."""
        try:
            document = json.loads(self.state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise CheckpointError(str(self.state_path), "a readable JSON document", "damaged") from None
        return dict(document)

    def require_new(self) -> None:
        """Refuse a directory that already holds a run.

        Raises:
            CheckpointError: If it does.
        """
        if self.state_path.exists():
            raise CheckpointError(
                str(self.path), "a new directory", "one with a run in it", f"Continue it: --resume {self.path}"
            )

    def left_open(self) -> list[str] | None:
        """Keys that were null when the run's data was first read; None if nobody wrote that down."""
        keys = self.state().get("left_open")
        return None if keys is None else [str(key) for key in keys]

    @property
    def is_running(self) -> bool:
        """Whether a live process trains in it; a killed one leaves no other trace than a lock that is free."""
        return is_locked(self.lock_path)

    @property
    def is_damaged(self) -> bool:
        """Whether its state cannot be read."""
        try:
            self.state()
        except CheckpointError:
            return True
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that trains in this directory; ends with the process, however that ends.

        Raises:
            CheckpointError: If another one is at it.
        """
        descriptor = take_lock(self.lock_path, RETRY_SECONDS)
        if descriptor is None:
            remedy = "Wait for it, or stop it first."
            raise CheckpointError(str(self.path), "free", "being trained by another process", remedy)
        try:
            yield
        finally:
            os.close(descriptor)

    def write_state(self, **changes: Any) -> None:
        """Change entries of the state, all or nothing."""
        state = (self.state() if self.state_path.exists() else {}) | changes
        staging = self.state_path.with_suffix(".tmp")
        staging.write_text(json.dumps(state, indent=1), encoding="utf-8")
        staging.replace(self.state_path)

    @property
    def state_path(self) -> Path:
        """Where the state is."""
        return self.path / "run.json"

    @property
    def lock_path(self) -> Path:
        """Held by the process that trains in it."""
        return self.path / "run.lock"

    @property
    def checkpoints(self) -> Path:
        """Resumable state."""
        return self.path / "checkpoints"

    @property
    def attempts(self) -> Path:
        """Child runs that tried to mend this one, numbered from 1."""
        return self.path / "attempts"

    @property
    def bundle(self) -> Path:
        """The deployable model."""
        return self.path / "bundle"


def default_path(model_name: str) -> Path:
    """A new name under `runs/`: model, time and a random ending."""
    return RUNS / f"{model_name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
