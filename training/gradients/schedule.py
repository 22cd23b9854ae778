"""When an instrument looks."""

from __future__ import annotations

from collections.abc import Callable

# Step (numbered from 1) -> whether to measure.
Schedule = Callable[[int], bool]

# The first steps change fastest and decide the most: all of these are logged, then every INTERVAL steps.
EARLY_STEPS = (1, 2, 3, 5)
INTERVAL = 10


def logging_schedule(step: int) -> bool:
    """Steps whose gradient norms are kept: the first few, then every tenth."""
    return step in EARLY_STEPS or step % INTERVAL == 0


def never(_step: int) -> bool:
    """The schedule of an instrument that is switched off."""
    return False
