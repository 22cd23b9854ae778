"""Admission: by windows, and by the time they are expected to wait."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from app.errors import ProblemError
from app.services.admission import Admission


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def answer(admission: Admission, clock: Clock, seconds: float, num_windows: int, num_bytes: int) -> None:
    """One request alone."""
    with admission.hold(num_bytes) as ticket:
        admission.resize(ticket, num_bytes, num_windows)
        clock.now += seconds
        ticket.is_answered = True


def build(max_queue_windows: int = 10_000, max_wait_seconds: float = 0.1) -> tuple[Admission, Clock]:
    """An admission that knows: 10 ms and 100 bytes per window."""
    clock = Clock()
    admission = Admission(max_queue_windows, 10, max_wait_seconds, clock)
    for _ in range(200):
        answer(admission, clock, 0.2, 20, 2000)
        clock.now += 5.0  # idle: no time that a window takes
    return admission, clock


def test_time_per_window_is_measured_while_there_is_work() -> None:
    """Idle seconds do not count, and what was believed at the start is forgotten."""
    admission, _ = build()
    with admission.hold(100 * 100):
        assert admission.admitted_windows == 100
        assert admission.expected_wait_seconds == pytest.approx(1.0, rel=1e-3)


def test_answers_of_one_batch_share_its_time() -> None:
    """Eight requests that are answered together after 80 ms took 10 ms per window, not 80."""
    clock = Clock()
    admission = Admission(1000, 10, 0.1, clock)
    for _ in range(400):
        with ExitStack() as stack:
            tickets = [stack.enter_context(admission.hold(100)) for _ in range(8)]
            clock.now += 0.08
            for ticket in tickets:
                ticket.is_answered = True
    # The last answers of a batch took no time and weigh a little more than its first.
    with admission.hold(100):
        assert admission.expected_wait_seconds == pytest.approx(0.01, rel=0.02)


def test_what_would_wait_too_long_is_refused_at_once() -> None:
    """One second of work ahead and a tenth allowed: refused with the seconds it takes, and admitted when the queue is empty."""
    admission, _ = build(max_wait_seconds=0.1)
    with admission.hold(150 * 100):
        with pytest.raises(ProblemError) as refusal:
            admission.validate_open(20 * 100)
        assert refusal.value.code == "queue_full"
        assert refusal.value.headers["Retry-After"] == "2"
        with pytest.raises(ProblemError), admission.hold(20 * 100):
            pass
        assert admission.admitted_windows == 150
    admission.validate_open(20 * 100)


def test_what_fits_into_the_next_pass_is_always_admitted() -> None:
    """However slow the network: it rides along."""
    admission, clock = build(max_wait_seconds=0.0)
    answer(admission, clock, 100.0, 1, 100)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(admission.hold(100))
        with pytest.raises(ProblemError):
            admission.validate_open(100)


def test_a_long_request_may_wait_as_long_as_it_takes() -> None:
    """Behind one of its size it is admitted, behind two it is not."""
    admission, _ = build(max_wait_seconds=0.0)
    with admission.hold(50 * 100), admission.hold(51 * 100), pytest.raises(ProblemError):
        admission.validate_open(51 * 100)


def test_windows_bound_the_queue_whatever_their_time() -> None:
    """A body that turns out to hold more than there is room for is refused; alone, a request of any size is not."""
    admission, _ = build(max_queue_windows=8, max_wait_seconds=1e9)
    with admission.hold(500) as first, admission.hold(100) as second:
        admission.resize(first, 500, 5)
        with pytest.raises(ProblemError, match="queue_full"):
            admission.resize(second, 100, 4)
        admission.resize(second, 100, 3)
        assert admission.admitted_windows == 8
    assert admission.admitted_windows == 0
    with admission.hold(100 * 100):
        assert admission.admitted_windows == 100


def test_unanswered_requests_say_nothing_about_speed() -> None:
    """A refused or abandoned request leaves the measured time as it was."""
    admission, clock = build()
    with admission.hold(100):
        clock.now += 50.0
    with admission.hold(100):
        assert admission.expected_wait_seconds == pytest.approx(0.01, rel=1e-3)
