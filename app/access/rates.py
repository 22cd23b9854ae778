"""Token buckets: so many requests per second over time, so many at once."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Fills at `rate` tokens per second up to `burst`; every request takes one.

    Args:
        rate: Tokens per second.
        burst: Tokens it holds at most, and at the start.
        clock: Seconds that only grow.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock()

    def take(self) -> float:
        """Take a token.

        Returns:
            0 if there was one, else the seconds until there is.
        """
        now = self._clock()
        self._tokens = min(float(self.burst), self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self.rate
