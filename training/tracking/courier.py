"""The sender's own process: whatever MLflow costs, importing it included, costs the training nothing.

In a thread of the training process, MLflow's Python work and the training's would take turns at the interpreter lock, and
a training step waits up to 5 ms each time. So the thread that sends lives in a child process of low priority, which reads
the spool and is told little else:

    parent -> child, stdin    {"attach": "spool directory"}  {"wake": true}  {"stop": true}; end of file: the parent died
    child -> parent, stdout   {"progress": {...}, "registrations": {...}, "problem": null} after every delivery

If the parent dies, the child sends the rest, closes the run as KILLED and ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, final

import orjson

import training
from models.errors import GradcastError
from training.errors import TrackingError
from training.tracking.environment import open_client, redact
from training.tracking.sender import DEFAULT_INTERVAL_SECONDS, LOGGER, WAKE_SECONDS, Sender, UnreachableError
from training.tracking.sink import MlflowSink
from training.tracking.spool import Progress, Spool
from training.tracking.tracker import RegisteredModel

ORPHAN_SECONDS = 30.0
NICENESS = 5
STOP_SECONDS = 2.0
Outcome = RegisteredModel | GradcastError


class Courier(ABC):
    """Whoever sends the spool while the training goes on."""

    @abstractmethod
    def attach(self, spool: Spool) -> None:
        """Begin to send `spool`."""

    @abstractmethod
    def wait_until(self, is_done: Callable[[], bool], deadline_seconds: float) -> bool:
        """Send at once and wait until `is_done`, for at most `deadline_seconds`."""

    @abstractmethod
    def registration(self, number: int) -> Outcome | None:
        """What became of the registration in event `number`, or None if it has not arrived."""

    @abstractmethod
    def stop(self) -> None:
        """End; unsent events stay in the spool."""

    @property
    @abstractmethod
    def problem(self) -> str | None:
        """Why nothing arrives at the moment."""


@final
class ThreadCourier(Courier):
    """Sends from a thread of this process: for tests, and where no process can be started."""

    def __init__(
        self,
        uri: str,
        interval_seconds: float = DEFAULT_INTERVAL_SECONDS,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self._uri = uri
        self._sink: MlflowSink | None = None
        self.sender = Sender(
            self._connect, redact(uri), warm_up=self._warm_up, report=report, interval_seconds=interval_seconds
        )
        self.sender.start()

    def _connect(self, spool: Spool) -> MlflowSink:
        self._sink = MlflowSink(self._uri, spool)
        return self._sink

    def _warm_up(self) -> None:
        # The first question creates a sqlite store's tables.
        open_client(self._uri).get_experiment_by_name("Default")

    @property
    def registrations(self) -> Mapping[int, Outcome]:
        """Outcome of every registration so far, by number of its event."""
        return dict(self._sink.registrations) if self._sink is not None else {}

    def attach(self, spool: Spool) -> None:
        """Begin to send `spool`."""
        spool.try_lock("sender.lock")
        self.sender.attach(spool)

    def wait_until(self, is_done: Callable[[], bool], deadline_seconds: float) -> bool:
        """Send at once and wait until `is_done`, for at most `deadline_seconds`."""
        return self.sender.wait_until(is_done, deadline_seconds)

    def registration(self, number: int) -> Outcome | None:
        """What became of the registration in event `number`."""
        return self.registrations.get(number)

    def stop(self) -> None:
        """End; unsent events stay in the spool."""
        self.sender.stop(STOP_SECONDS)

    @property
    def problem(self) -> str | None:
        """Why nothing arrives at the moment."""
        return self.sender.last_problem


@final
class ProcessCourier(Courier):
    """Sends from a child process."""

    def __init__(self, uri: str, interval_seconds: float = DEFAULT_INTERVAL_SECONDS) -> None:
        """Start the child.

        Raises:
            OSError: If no process can be started.
        """
        root = str(Path(next(iter(training.__path__))).parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        # The URI may hold a password: it goes through the pipe, not the command line.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "training.tracking.courier"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
        self._spool: Spool | None = None
        self._registrations: dict[int, Outcome] = {}
        self._problem: str | None = None
        self._has_warned = False
        self._is_over = False
        self._changed = threading.Condition()
        self._tell({"uri": uri, "interval_seconds": interval_seconds})
        self._listener = threading.Thread(target=self._listen, name="gradcast-courier", daemon=True)
        self._listener.start()

    def attach(self, spool: Spool) -> None:
        """Begin to send `spool`."""
        self._spool = spool
        self._tell({"attach": str(spool.directory)})

    def wait_until(self, is_done: Callable[[], bool], deadline_seconds: float) -> bool:
        """Send at once and wait until `is_done`, for at most `deadline_seconds`."""
        deadline = time.monotonic() + deadline_seconds
        next_wake = 0.0
        with self._changed:
            while not is_done() and not self._is_over and (now := time.monotonic()) < deadline:
                if now >= next_wake:
                    self._tell({"wake": True})
                    next_wake = now + WAKE_SECONDS
                self._changed.wait(min(deadline - now, WAKE_SECONDS))
        return is_done()

    def registration(self, number: int) -> Outcome | None:
        """What became of the registration in event `number`."""
        return self._registrations.get(number)

    def stop(self) -> None:
        """End the child; unsent events stay in the spool."""
        self._tell({"stop": True})
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it hangs in a request; a repetition does no harm
            self._process.kill()
            self._process.wait()
        self._listener.join(STOP_SECONDS)

    @property
    def problem(self) -> str | None:
        """Why nothing arrives at the moment."""
        if self._problem is None and self._is_over and self._process.poll() not in (None, 0):
            return f"its sender ended with exit code {self._process.returncode}"
        return self._problem

    def _tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the child is gone: what it has not sent waits for `gradcast sync`
            if self._process.stdin is not None:
                self._process.stdin.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))
                self._process.stdin.flush()

    def _listen(self) -> None:
        if (stream := self._process.stdout) is not None:
            with stream:
                for line in stream:
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        self._take(orjson.loads(line))
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _take(self, message: Mapping[str, Any]) -> None:
        with self._changed:
            if self._spool is not None and message["progress"] is not None:
                self._spool.progress = Progress(**message["progress"])
            self._registrations |= {int(key): _parse_outcome(value) for key, value in message["registrations"].items()}
            self._problem = message["problem"]
            self._changed.notify_all()


def build_courier(uri: str, interval_seconds: float = DEFAULT_INTERVAL_SECONDS, in_process: bool = False) -> Courier:
    """The child process, or a thread if asked for or if no process can be started.

    Args:
        uri: Normalized URI of the store.
        interval_seconds: Rest between two deliveries.
        in_process: Use a thread.
    """
    if not in_process and sys.executable:
        with contextlib.suppress(OSError):
            return ProcessCourier(uri, interval_seconds)
    return ThreadCourier(uri, interval_seconds)


def _parse_outcome(document: Mapping[str, Any]) -> Outcome:
    if "version" in document:
        return RegisteredModel(**{**document, "aliases": tuple(document["aliases"])})
    return TrackingError(document["where"], document["contract"], document["actual"], document["remedy"])


def _outcome_document(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, RegisteredModel):
        return asdict(outcome)
    return {key: getattr(outcome, key) for key in ("where", "contract", "actual", "remedy")}


class _Child:
    """The child's side: a sender thread, and a main thread that listens to the parent."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self._commands, self._answers = commands, answers
        hello = orjson.loads(commands.readline())
        self._uri = str(hello["uri"])
        self._spool: Spool | None = None
        self._courier: ThreadCourier | None = None
        self._courier = ThreadCourier(self._uri, float(hello["interval_seconds"]), report=self._report)

    def run(self) -> None:
        """Obey until told to stop, or until the parent is gone and its run is sent."""
        for line in self._commands:
            command = orjson.loads(line)
            if "attach" in command:
                self._spool = Spool(Path(command["attach"]))
                self._attach(self._spool)
            elif "wake" in command and self._courier is not None:
                self._courier.sender.wake()
            elif "stop" in command and self._courier is not None:
                self._courier.stop()
                return
        self._finish_orphan()

    def _attach(self, spool: Spool) -> None:
        if self._courier is not None:
            self._courier.attach(spool)

    def _finish_orphan(self) -> None:
        spool, courier = self._spool, self._courier
        if spool is None or courier is None:
            return
        total = spool.count_events()
        courier.wait_until(lambda: spool.progress.num_events >= total, ORPHAN_SECONDS)
        courier.stop()
        if spool.progress.num_events >= total and not spool.progress.is_finished:
            with contextlib.suppress(UnreachableError):
                MlflowSink(self._uri, spool).close_abandoned("KILLED", time.time_ns() // 1_000_000)
                spool.acknowledge(is_finished=True)
        if spool.progress.is_finished and spool.progress.num_rejected == 0:
            spool.remove()

    def _report(self) -> None:
        courier = self._courier
        document = {
            "progress": asdict(self._spool.progress) if self._spool is not None else None,
            "registrations": {
                str(number): _outcome_document(outcome)
                for number, outcome in (courier.registrations if courier is not None else {}).items()
            },
            "problem": courier.problem if courier is not None else None,
        }
        with contextlib.suppress(OSError, ValueError):  # the parent is gone
            self._answers.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
            self._answers.flush()


def main() -> None:
    """Be the child."""
    # Anything that prints must not disturb the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="gradcast: %(message)s")
    LOGGER.setLevel(logging.WARNING)
    _Child(sys.stdin.buffer, answers).run()
    # Everything sent is acknowledged on disk; the tear-down of a large interpreter would only make the parent wait.
    os._exit(0)


if __name__ == "__main__":
    main()
