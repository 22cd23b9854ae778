"""A worker's end of the desk: it tells about the fit, and hears the wish to stop."""

from __future__ import annotations

import time
from typing import Any

import ray

from training.progress import REFRESH_SECONDS, CountProgress, FitProgress


class StopWish:
    """Whether the user wants the fit to stop, as a worker sees it.

    Args:
        desk: Where the wish arrives.
    """

    def __init__(self, desk: Any) -> None:
        self._wish = desk.until_stopped.remote()
        self._asked = 0.0
        self._is_there = False

    def requested(self) -> bool:
        """Asked after every step; looks now and then."""
        if not self._is_there and time.monotonic() - self._asked > REFRESH_SECONDS:
            self._asked = time.monotonic()
            self._is_there = bool(ray.wait([self._wish], timeout=0)[0])
        return self._is_there


class ToldProgress(FitProgress):
    """Tells the desk about the fit; the command shows it.

    Args:
        desk: Where to tell it.
    """

    def __init__(self, desk: Any) -> None:
        self.desk = desk
        self.reading = _ToldReading(desk)
        self._values: dict[str, float] = {}
        self._told = 0.0

    def start(self, max_steps: int, step: int) -> None:
        """The fit begins."""
        self.desk.tell.remote("start", max_steps, step)

    def update(self, step: int, values: dict[str, float]) -> None:
        """A logged step; not more of them than can be seen."""
        self._values |= values
        if time.monotonic() - self._told > REFRESH_SECONDS:
            self._told = time.monotonic()
            self.desk.tell.remote("update", step, self._values)
            self._values = {}

    def check(self, step: int, values: dict[str, float]) -> None:
        """A validation check."""
        self.desk.tell.remote("check", step, values)

    def stop(self) -> None:
        """The fit is over."""
        self.desk.tell.remote("stop")


class _ToldReading(CountProgress):
    def __init__(self, desk: Any) -> None:
        super().__init__(quiet=True)
        self.desk = desk
        self._told = 0.0

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """A long job begins."""
        super().start(what, total, unit, done)
        self._shown = done
        self.desk.tell.remote("reading", what, total, unit, done)

    def advance(self, count: int, **counts: int) -> None:
        """More of it is done."""
        super().advance(count, **counts)
        if time.monotonic() - self._told > REFRESH_SECONDS or self.done == self.total:
            self._told = time.monotonic()
            self.desk.tell.remote("read", self.done - self._shown)
            self._shown = self.done

    def stop(self) -> None:
        """It is over."""
        self.desk.tell.remote("read_all")
