"""The local durable spool: one directory per run, one line per event, and a note of how far it has been sent.

    events.jsonl    append-only; one write per event, so that a killed process loses at most the line it was writing
    progress.json   bytes and events acknowledged by the server, and the run they belong to; replaced atomically
    files/          artifacts, copied before the event that names them
    rejected.jsonl  events the server refused for good
    lock            held while a process writes: whoever can take it knows that the writer is gone
    sender.lock     held while a process sends

An event that was sent but not acknowledged is sent again; every delivery is a no-op the second time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson

try:
    import fcntl
except ImportError:  # no advisory locks on this platform: every spool then looks abandoned
    fcntl = None  # type: ignore[assignment]

READ_BYTES = 1 << 20
LockKind = Literal["lock", "sender.lock"]


@dataclass(frozen=True)
class SpoolEvent:
    """One line of the spool.

    Attributes:
        kind: `start metrics tags artifact image note input register heartbeat finish`.
        time_ms: When it was recorded, milliseconds since 1970.
        payload: Its content.
        start: Byte offset of its line.
        end: Byte offset behind its line.
    """

    kind: str
    time_ms: int
    payload: Mapping[str, Any]
    start: int
    end: int


@dataclass(frozen=True)
class Progress:
    """How far a spool has been sent.

    Attributes:
        offset: Bytes of `events.jsonl` acknowledged.
        num_events: Events acknowledged.
        num_rejected: Events the server refused for good.
        run_id: The run on the server, once created.
        owner: Token of the process that wrote the last acknowledged start.
        resume_steps: Last step per metric that the run held when it was continued: points up to there are repetitions.
        is_finished: Whether the run's end has been delivered.
    """

    offset: int = 0
    num_events: int = 0
    num_rejected: int = 0
    run_id: str | None = None
    owner: str | None = None
    resume_steps: Mapping[str, int] = field(default_factory=dict)
    is_finished: bool = False


class Spool:
    """The events of one run on the local disk."""

    def __init__(self, directory: Path) -> None:
        """Open the spool in `directory`, creating it if need be.

        Raises:
            OSError: If the directory cannot be written.
        """
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._events_path = directory / "events.jsonl"
        self._locks: dict[str, int] = {}
        self._events_fd: int | None = None
        self._write_lock = threading.Lock()
        self._num_synced_bytes = 0
        self.num_appended = 0
        self.progress = self.read_progress()

    def try_lock(self, kind: LockKind = "lock") -> bool:
        """Become the one process that writes (`lock`) or sends (`sender.lock`); False if another one is. Ends on any exit."""
        if kind in self._locks:
            return True
        descriptor = os.open(self.directory / kind, os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return False
        self._locks[kind] = descriptor
        self.progress = self.read_progress()
        return True

    def unlock(self, kind: LockKind) -> None:
        """Let go of one lock."""
        if (descriptor := self._locks.pop(kind, None)) is not None:
            os.close(descriptor)

    def open_for_append(self) -> None:
        """Prepare for writing: the torn last line of a killed process is cut off.

        Raises:
            OSError: If the file cannot be written.
        """
        descriptor = os.open(self._events_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        num_lines, end = 0, 0
        with self._events_path.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    num_lines, end = num_lines + 1, end + len(line)
        os.ftruncate(descriptor, end)
        self.num_appended, self._events_fd = num_lines, descriptor

    def append(self, kind: str, payload: Mapping[str, Any], time_ms: int | None = None) -> int:
        """Write one event; survives the death of the process when this returns, and of the machine after `sync_disk`.

        Args:
            kind: Kind of event.
            payload: JSON content; NaN becomes null.
            time_ms: When it happened; None = now.

        Returns:
            Number of this event, from 1.

        Raises:
            OSError: If the disk refuses.
        """
        now = time.time_ns() // 1_000_000 if time_ms is None else time_ms
        line = orjson.dumps({"event": kind, "time": now, **payload}, option=orjson.OPT_APPEND_NEWLINE)
        with self._write_lock:
            if self._events_fd is None:
                raise OSError(f"{self._events_path} is closed")
            written = os.write(self._events_fd, line)
            if written != len(line):  # disk full: take the half line back, or the next one would be glued to it
                os.ftruncate(self._events_fd, os.fstat(self._events_fd).st_size - written)
                raise OSError(f"{self._events_path} took {written} of {len(line)} bytes")
            self.num_appended += 1
            return self.num_appended

    def sync_disk(self) -> None:
        """Make everything appended so far survive a power cut; the sender's work, so that no training step waits for a disk.

        Raises:
            OSError: If the disk refuses.
        """
        try:
            descriptor = os.open(self._events_path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            num_bytes = os.fstat(descriptor).st_size
            if num_bytes != self._num_synced_bytes:
                os.fsync(descriptor)
                self._num_synced_bytes = num_bytes
        finally:
            os.close(descriptor)

    def store(self, source: Path | bytes, name: str) -> str:
        """Copy a file, a directory or bytes into the spool.

        Args:
            source: What to copy.
            name: Last part of its path in the spool.

        Returns:
            Its path relative to the spool's directory.

        Raises:
            OSError: If it cannot be read or written.
        """
        relative = f"files/{uuid.uuid4().hex}/{name}"
        target = self.directory / relative
        target.parent.mkdir(parents=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        return relative

    def stored_path(self, relative: str) -> Path:
        """Path of what `store` copied."""
        return self.directory / relative

    def discard(self, relative: str) -> None:
        """Forget a stored file or directory once it has arrived."""
        shutil.rmtree((self.directory / relative).parent, ignore_errors=True)

    def read(self, offset: int) -> Iterator[SpoolEvent]:
        """Complete events from `offset` on; a torn tail ends the reading, a damaged line is skipped."""
        try:
            stream = self._events_path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            stream.seek(offset)
            rest = b""
            while block := stream.read(READ_BYTES):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    start, offset = offset, offset + len(line) + 1
                    yield _parse(line, start, offset)

    @property
    def num_unsent(self) -> int:
        """Events not yet acknowledged."""
        return max(0, self.num_appended - self.progress.num_events)

    def acknowledge(self, **changes: Any) -> None:
        """Record progress, atomically. Losing the newest note only means that a few events are sent again."""
        self.progress = replace(self.progress, **changes)
        staging = self.directory / "progress.json.part"
        staging.write_bytes(orjson.dumps(self.progress))
        staging.replace(self.directory / "progress.json")

    def reject(self, event: SpoolEvent, reason: str) -> None:
        """Keep an event that the server refused for good, with the reason."""
        document = {"event": event.kind, "time": event.time_ms, "reason": reason, **event.payload}
        with (self.directory / "rejected.jsonl").open("ab") as stream:
            stream.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))

    def count_events(self) -> int:
        """Complete events in the file."""
        return sum(1 for _ in self.read(0))

    def close(self) -> None:
        """Stop writing and let go of the locks."""
        with self._write_lock:
            if self._events_fd is not None:
                os.close(self._events_fd)
                self._events_fd = None
        for descriptor in self._locks.values():
            os.close(descriptor)
        self._locks.clear()

    def remove(self) -> None:
        """Delete the spool: everything in it has arrived."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.close()

    def read_progress(self) -> Progress:
        """How far the spool has been sent, as the file says."""
        try:
            document = orjson.loads((self.directory / "progress.json").read_bytes())
            return Progress(**{key: document[key] for key in Progress.__dataclass_fields__ if key in document})
        except (OSError, ValueError, TypeError):  # absent or damaged: everything is sent again, which changes nothing
            return Progress()


def _parse(line: bytes, start: int, end: int) -> SpoolEvent:
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        document = orjson.loads(line)
        kind, time_ms = str(document.pop("event")), int(document.pop("time"))
        return SpoolEvent(kind, time_ms, document, start, end)
    return SpoolEvent("damaged", 0, {}, start, end)


def list_spools(spool_directory: Path) -> list[Path]:
    """Directories of the runs that have something in the spool, oldest first."""
    if not spool_directory.is_dir():
        return []
    entries = [entry for entry in spool_directory.iterdir() if entry.is_dir() and (entry / "lock").exists()]
    return sorted(entries, key=lambda entry: (entry / "lock").stat().st_mtime)
