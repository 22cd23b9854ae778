"""Sends a spool to a sink: in order, in batches, again and again until it has arrived. Knows neither MLflow nor network."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from training.tracking.spool import Spool, SpoolEvent

MAX_METRICS_PER_BATCH = 1000
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 15.0
DEFAULT_INTERVAL_SECONDS = 1.0
WAKE_SECONDS = 0.5
LOGGER = logging.getLogger("gradcast.tracking")


class UnreachableError(Exception):
    """The server did not answer, or not sensibly: the same event may succeed later."""


class RejectedError(Exception):
    """The server understood the event and refuses it: it will never succeed."""


class Sink(Protocol):
    """Where events are delivered. Delivering an event twice must equal delivering it once."""

    def deliver(self, events: Sequence[SpoolEvent]) -> None:
        """Deliver one event, or several of kind `metrics`.

        Raises:
            UnreachableError: Try again later.
            RejectedError: Give these events up.
        """

    def heartbeat(self) -> None:
        """Say that the run is alive. Raises UnreachableError."""


class Shipper:
    """Moves events from a spool to a sink and acknowledges them."""

    def __init__(self, spool: Spool, sink: Sink, report: Callable[[], None] = lambda: None) -> None:
        self._spool, self._sink, self._report = spool, sink, report

    def ship(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Deliver everything complete in the spool.

        Args:
            should_stop: Asked between two deliveries.

        Returns:
            Events acknowledged.

        Raises:
            UnreachableError: What was delivered before it is acknowledged.
        """
        before = self._spool.progress.num_events
        for group in _grouped(self._spool.read(self._spool.progress.offset)):
            if should_stop():
                break
            self._deliver(group)
        return self._spool.progress.num_events - before

    def _deliver(self, group: Sequence[SpoolEvent]) -> None:
        num_rejected = self._try(group)
        progress = self._spool.progress
        self._spool.acknowledge(
            offset=group[-1].end,
            num_events=progress.num_events + len(group),
            num_rejected=progress.num_rejected + num_rejected,
            is_finished=group[-1].kind == "finish",
        )
        self._report()
        for event in group:
            if file := event.payload.get("file"):
                self._spool.discard(str(file))

    def _try(self, group: Sequence[SpoolEvent]) -> int:
        """Deliver a group; one bad event in it must not take the others with it."""
        try:
            self._sink.deliver(group)
            return 0
        except RejectedError as error:
            if len(group) > 1:
                half = len(group) // 2
                return self._try(group[:half]) + self._try(group[half:])
            if self._spool.progress.num_rejected == 0:
                LOGGER.warning("the tracking server refuses an event of kind %s for good: %s", group[0].kind, error)
            self._spool.reject(group[0], str(error))
            return 1


def _grouped(events: Iterator[SpoolEvent]) -> Iterator[list[SpoolEvent]]:
    """Neighbouring metrics events together, up to the size of a batch; every other event alone."""
    group: list[SpoolEvent] = []
    num_metrics = 0
    for event in events:
        size = len(event.payload["metrics"]) if event.kind == "metrics" else 0
        if group and (size == 0 or num_metrics + size > MAX_METRICS_PER_BATCH):
            yield group
            group, num_metrics = [], 0
        if size == 0:
            yield [event]
        else:
            group.append(event)
            num_metrics += size
    if group:
        yield group


class Sender(threading.Thread):
    """The one thread that talks to the server, beginning with the slow part, opening the store, before there is a run."""

    def __init__(
        self,
        connect: Callable[[Spool], Sink],
        where: str,
        warm_up: Callable[[], None] = lambda: None,
        report: Callable[[], None] = lambda: None,
        interval_seconds: float = DEFAULT_INTERVAL_SECONDS,
        heartbeat_seconds: float = 30.0,
    ) -> None:
        """Prepare the thread.

        Args:
            connect: Makes the sink of a spool; called in this thread.
            where: Name of the server for messages, without credentials.
            warm_up: The slow part, done in this thread before there is a spool; its failure is found again later.
            report: Called after every delivery and every round, in this thread.
            interval_seconds: Rest between two looks at the spool.
            heartbeat_seconds: Rest between two signs of life.
        """
        super().__init__(name="gradcast-tracking", daemon=True)
        self._connect, self._where, self._warm_up = connect, where, warm_up
        self._report = report
        self._interval, self._heartbeat_seconds = interval_seconds, heartbeat_seconds
        self._spool: Spool | None = None
        self._has_spool = threading.Event()
        self._wake = threading.Event()
        self._stopping = False
        self._has_warned = False
        self._num_failures = 0
        self._changed = threading.Condition()
        self.last_problem: str | None = None

    def attach(self, spool: Spool) -> None:
        """Give the thread its spool."""
        self._spool = spool
        self._has_spool.set()

    def wait_until(self, is_done: Callable[[], bool], deadline_seconds: float) -> bool:
        """Send at once and wait until `is_done`, for at most `deadline_seconds`."""
        deadline = time.monotonic() + deadline_seconds
        next_wake = 0.0
        with self._changed:
            while not is_done() and self.is_alive() and (now := time.monotonic()) < deadline:
                if now >= next_wake:  # paced: an outage must not become a busy loop because somebody waits
                    self._wake.set()
                    next_wake = now + WAKE_SECONDS
                self._changed.wait(min(deadline - now, WAKE_SECONDS))
        return is_done()

    def wake(self) -> None:
        """Send now rather than after the rest."""
        self._wake.set()

    def stop(self, deadline_seconds: float = 1.0) -> None:
        """End the thread; what it is doing right now may go on until the process ends."""
        self._stopping = True
        self._has_spool.set()
        self._wake.set()
        if self.is_alive():
            self.join(deadline_seconds)

    def run(self) -> None:
        """Send until told to stop."""
        with contextlib.suppress(Exception):
            self._warm_up()
        self._has_spool.wait()
        shipper: Shipper | None = None
        sink: Sink | None = None
        last_sign = time.monotonic()
        while not self._stopping and self._spool is not None:
            try:
                if shipper is None or sink is None:
                    sink = self._connect(self._spool)
                    shipper = Shipper(self._spool, sink, self._note_progress)
                self._spool.sync_disk()
                shipper.ship(lambda: self._stopping)
                if time.monotonic() - last_sign > self._heartbeat_seconds:
                    sink.heartbeat()
                    last_sign = time.monotonic()
                self._note_success()
            except UnreachableError as error:
                self._note_failure(str(error))
            except Exception as error:  # noqa: BLE001  tracking must not take training down, nor end silently
                self._note_failure(f"{type(error).__name__}: {error}")
            self._note_progress()
            self._rest()

    def _note_progress(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._report()

    def _rest(self) -> None:
        backoff = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(self._num_failures - 1, 10), MAX_BACKOFF_SECONDS)
        if not self._stopping:
            self._wake.wait(backoff if self._num_failures else self._interval)
        self._wake.clear()

    def _note_success(self) -> None:
        if self._num_failures:
            LOGGER.info("the tracking server %s answers again", self._where)
        self._num_failures, self.last_problem = 0, None

    def _note_failure(self, problem: str) -> None:
        self._num_failures += 1
        self.last_problem = problem
        if not self._has_warned:
            self._has_warned = True
            LOGGER.warning(
                "the tracking server %s does not answer (%s); training goes on, events wait on disk and are sent later",
                self._where,
                problem[:300],
            )
