"""The sender against a scripted sink: order, batches, repetition, refusals and outages, without a network."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.tracking.sender import MAX_METRICS_PER_BATCH, RejectedError, Sender, Shipper, UnreachableError
from training.tracking.spool import Spool, SpoolEvent


class ScriptedSink:
    """Remembers deliveries; fails where it is told to."""

    def __init__(self) -> None:
        self.groups: list[list[SpoolEvent]] = []
        self.num_failures_left = 0
        self.refused_steps: set[int] = set()
        self.num_attempts = 0

    def deliver(self, events: Sequence[SpoolEvent]) -> None:
        self.num_attempts += 1
        if self.num_failures_left > 0:
            self.num_failures_left -= 1
            raise UnreachableError("connection refused")
        if any(event.payload.get("step") in self.refused_steps for event in events):
            raise RejectedError("bad value")
        self.groups.append(list(events))

    def heartbeat(self) -> None:
        pass

    @property
    def steps(self) -> list[int]:
        return [event.payload["step"] for group in self.groups for event in group if event.kind == "metrics"]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "run")
    assert spool.try_lock()
    spool.open_for_append()
    return spool


def append_metrics(spool: Spool, steps: Sequence[int], num_keys: int = 1) -> None:
    for step in steps:
        spool.append("metrics", {"step": step, "metrics": {f"m{key}": 0.0 for key in range(num_keys)}})


def test_neighbouring_metrics_travel_together_up_to_the_limit(spool: Spool) -> None:
    """50 events of 30 metrics make two batches, of 33 and 17 events: never above 1,000 metrics."""
    append_metrics(spool, range(50), num_keys=30)
    sink = ScriptedSink()
    assert Shipper(spool, sink).ship() == 50
    assert [len(group) for group in sink.groups] == [33, 17]
    assert all(sum(len(event.payload["metrics"]) for event in group) <= MAX_METRICS_PER_BATCH for group in sink.groups)
    assert sink.steps == list(range(50))


def test_other_events_keep_their_place_between_metrics(spool: Spool) -> None:
    """A tag recorded between two metrics arrives between them."""
    append_metrics(spool, [1])
    spool.append("tags", {"tags": {"a": "b"}})
    append_metrics(spool, [2])
    sink = ScriptedSink()
    Shipper(spool, sink).ship()
    assert [[event.kind for event in group] for group in sink.groups] == [["metrics"], ["tags"], ["metrics"]]


def test_what_was_acknowledged_is_not_sent_again(spool: Spool) -> None:
    """An outage in the middle costs nothing that had arrived: the next attempt goes on behind it."""
    append_metrics(spool, [1])
    spool.append("tags", {"tags": {}})
    append_metrics(spool, [2])
    sink = ScriptedSink()
    shipper = Shipper(spool, sink)
    deliver = sink.deliver

    def fail_at_tags(events: Sequence[SpoolEvent]) -> None:
        if events[0].kind == "tags":
            raise UnreachableError("gone")
        deliver(events)

    sink.deliver = fail_at_tags  # type: ignore[method-assign]
    with pytest.raises(UnreachableError):
        shipper.ship()
    assert spool.progress.num_events == 1
    sink.deliver = deliver  # type: ignore[method-assign]
    shipper.ship()
    assert [[event.kind for event in group] for group in sink.groups] == [["metrics"], ["tags"], ["metrics"]]
    assert spool.num_unsent == 0


def test_one_refused_event_does_not_take_its_batch_with_it(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    """Of ten events in a batch the refused one is set aside with its reason, and the nine others arrive."""
    append_metrics(spool, range(10))
    sink = ScriptedSink()
    sink.refused_steps = {3}
    with caplog.at_level(logging.WARNING, "gradcast.tracking"):
        Shipper(spool, sink).ship()
    assert sink.steps == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert spool.progress.num_rejected == 1
    assert b'"bad value"' in (spool.directory / "rejected.jsonl").read_bytes()
    assert len(caplog.records) == 1


def test_stored_file_is_deleted_once_it_has_arrived_and_not_before(spool: Spool) -> None:
    """A file waits in the spool through an outage and leaves it after the delivery."""
    relative = spool.store(b"png", "figure.png")
    spool.append("artifact", {"file": relative, "folder": ""})
    sink = ScriptedSink()
    sink.num_failures_left = 1
    with pytest.raises(UnreachableError):
        Shipper(spool, sink).ship()
    assert spool.stored_path(relative).exists()
    Shipper(spool, sink).ship()
    assert not spool.stored_path(relative).exists()


def test_outage_is_survived_with_one_warning(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    """Three failed attempts cost one warning and no event; recording never waits for them."""
    sink = ScriptedSink()
    sink.num_failures_left = 3
    sender = Sender(lambda _: sink, "http://host", interval_seconds=0.01)
    with caplog.at_level(logging.WARNING, "gradcast.tracking"):
        sender.start()
        sender.attach(spool)
        append_metrics(spool, range(5))
        assert sender.wait_until(lambda: spool.num_unsent == 0, 10.0)
    sender.stop()
    assert sink.steps == list(range(5))
    assert sink.num_attempts >= 4
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_unexpected_error_does_not_end_the_sender(spool: Spool) -> None:
    """A bug or odd answer counts as an outage: the thread lives on and sends when it is over."""
    sink = ScriptedSink()
    num_calls = 0

    def connect(_: Spool) -> ScriptedSink:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 1:
            raise ZeroDivisionError
        return sink

    sender = Sender(connect, "http://host", interval_seconds=0.01)
    sender.start()
    sender.attach(spool)
    append_metrics(spool, [1])
    assert sender.wait_until(lambda: spool.num_unsent == 0, 10.0)
    sender.stop()
    assert sink.steps == [1]


def test_waiting_ends_at_its_deadline(spool: Spool) -> None:
    """With a server that never answers, a wait of 0.3 s takes 0.3 s and says that it failed."""
    sink = ScriptedSink()
    sink.num_failures_left = 10**9
    sender = Sender(lambda _: sink, "http://host", interval_seconds=0.01)
    sender.start()
    sender.attach(spool)
    append_metrics(spool, [1])
    started = time.monotonic()
    assert not sender.wait_until(lambda: spool.num_unsent == 0, 0.3)
    assert time.monotonic() - started < 2.0
    sender.stop()
