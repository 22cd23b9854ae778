"""Who may wait: admission by the time a request would wait, measured on the requests answered before it.

A queue bounded by its length alone is too short for quick requests, or so long that under ten times the bearable load
everybody in it is answered late. So windows are counted, the time each takes is measured while there is work, and what would
wait too long is refused at once. The size of a body says how many windows to expect before anything was read from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from app.errors import ProblemError

MAX_RETRY_SECONDS = 60
# Windows over which the measured rates forget.
MEMORY_WINDOWS = 512.0
# What is believed before the first request, and forgotten as fast.
FIRST_SECONDS_PER_WINDOW = 0.001
FIRST_BYTES_PER_WINDOW = 1024.0
FIRST_WEIGHT = 16.0


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place in the queue, given back when its `with` ends.

    Attributes:
        admission: Where the place is.
        num_windows: Windows it counts for.
        begin: When it was admitted.
        is_answered: Whether its time says how long work takes; set by whoever answers it.
    """

    admission: Admission
    num_windows: int
    begin: float
    is_answered: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.admission.release(self)


class Admission:
    """Holds places for requests; used from the event loop alone.

    Args:
        max_queue_windows: Windows held at once, whatever their time.
        max_batch_windows: What fits into the next forward pass is admitted without a look at the time.
        max_wait_seconds: Longest expected wait; a request that itself takes longer may wait as long as it takes.
        clock: Seconds, increasing.
    """

    def __init__(
        self,
        max_queue_windows: int,
        max_batch_windows: int,
        max_wait_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._max_queue_windows = max_queue_windows
        self._max_batch_windows = max_batch_windows
        self._max_wait_seconds = max_wait_seconds
        self._clock = clock
        self._seconds_per_window = _Ratio(FIRST_SECONDS_PER_WINDOW)
        self._bytes_per_window = _Ratio(FIRST_BYTES_PER_WINDOW)
        self._last_release = clock()
        self.admitted_windows = 0
        self.is_draining = False

    @property
    def expected_wait_seconds(self) -> float:
        """How long what waits will take."""
        return self.admitted_windows * self._seconds_per_window.value

    def validate_open(self, num_bytes: int) -> None:
        """Refuse what could not be admitted, before its body is read.

        Args:
            num_bytes: Announced size of the body; 0 if unknown.

        Raises:
            ProblemError: `draining`, or `queue_full` with the seconds after which it is worth trying again.
        """
        if self.is_draining:
            raise ProblemError("draining", "The service is shutting down.", headers={"Retry-After": "1"})
        num_windows = self._expected_windows(num_bytes)
        total = self.admitted_windows + num_windows
        # An empty queue takes a request of any size: it could never be admitted otherwise.
        if not self.admitted_windows or total <= min(self._max_batch_windows, self._max_queue_windows):
            return
        allowed = max(self._max_wait_seconds, num_windows * self._seconds_per_window.value)
        if total > self._max_queue_windows or self.expected_wait_seconds > allowed:
            raise self._queue_full()

    def hold(self, num_bytes: int) -> Ticket:
        """Take a place for a request whose body is here; to be used in a `with`.

        Args:
            num_bytes: Its size.

        Raises:
            ProblemError: See `validate_open`.
        """
        self.validate_open(num_bytes)
        ticket = Ticket(self, self._expected_windows(num_bytes), self._clock())
        self.admitted_windows += ticket.num_windows
        return ticket

    def resize(self, ticket: Ticket, num_bytes: int, num_windows: int) -> None:
        """Count a request for what it turned out to hold.

        Args:
            ticket: Its place.
            num_bytes: Size of its body.
            num_windows: Its windows.

        Raises:
            ProblemError: `queue_full` if there is no room for them.
        """
        others = self.admitted_windows - ticket.num_windows
        if others and others + num_windows > self._max_queue_windows:
            raise self._queue_full()
        self._bytes_per_window.add(num_bytes, num_windows)
        self.admitted_windows = others + num_windows
        ticket.num_windows = num_windows

    def release(self, ticket: Ticket) -> None:
        """Give a place back, and learn from an answered request how long a window takes."""
        self.admitted_windows -= ticket.num_windows
        if ticket.is_answered:
            # Time between two answers while there is work; what lay idle before the request is none.
            now = self._clock()
            self._seconds_per_window.add(now - max(self._last_release, ticket.begin), ticket.num_windows)
            self._last_release = now

    def _expected_windows(self, num_bytes: int) -> int:
        return max(1, round(num_bytes / self._bytes_per_window.value))

    def _queue_full(self) -> ProblemError:
        seconds = min(MAX_RETRY_SECONDS, max(1, math.ceil(self.expected_wait_seconds)))
        detail = "More is waiting than can be answered soon. Try again later, or ask another replica."
        return ProblemError("queue_full", detail, headers={"Retry-After": str(seconds)})


class _Ratio:
    """A ratio of two sums that forget what was added long ago.

    Args:
        value: Before anything is added.
    """

    def __init__(self, value: float) -> None:
        self._amount, self._windows = value * FIRST_WEIGHT, FIRST_WEIGHT

    @property
    def value(self) -> float:
        """Amount per window."""
        return self._amount / self._windows

    def add(self, amount: float, num_windows: int) -> None:
        """Count so much for so many windows."""
        keep = math.exp(-num_windows / MEMORY_WINDOWS)
        self._amount = self._amount * keep + amount
        self._windows = self._windows * keep + num_windows
