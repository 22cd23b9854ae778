"""Feeds a target, counts, and keeps what was answered in a new way."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import mutate
from tests.fuzz.targets import Target

HANG_SECONDS, WATCHDOG_SECONDS = 5.0, 60
MAX_KEPT = 400
# Until here caches fill and modules are imported.
WARM_INPUTS = 100


@dataclass
class Count:
    """What happened to one target.

    Attributes:
        num_inputs: Inputs fed.
        crashes: Message and input of every crash.
        hangs: Seconds and input of everything that took over five seconds of processor time, or a minute by the clock.
        slowest_seconds: Of one input, processor time.
        growth_bytes: Resident memory at the end over that after the first hundred inputs; None if there were no more.
        answers: How often each answer was given.
    """

    num_inputs: int = 0
    crashes: list[tuple[str, bytes]] = field(default_factory=list)
    hangs: list[tuple[float, bytes]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    growth_bytes: int | None = None
    answers: Counter[str] = field(default_factory=Counter)
    kept: list[bytes] = field(default_factory=list)


def fuzz(target: Target, start: list[bytes], num_inputs: int, seed: int, is_over: Callable[[], bool] = lambda: False) -> Count:
    """Feed a target.

    Args:
        target: Raises where the product is wrong.
        start: Seeds and corpus; fed first, as they are.
        num_inputs: Inputs at most.
        seed: Of the changes.
        is_over: Asked before every input.

    Returns:
        The counts.
    """
    generator, count, pool = random.Random(seed), Count(), list(start) or [b"\0"]
    warm_bytes = 0
    while count.num_inputs < num_inputs and not is_over():
        fresh = count.num_inputs < len(start)
        data = start[count.num_inputs] if fresh else mutate(generator.choice(pool), pool, generator)
        is_new = _feed(target, data, count)
        if is_new and not fresh and len(count.kept) < MAX_KEPT:
            count.kept.append(data)
            pool.append(data)
        count.num_inputs += 1
        if count.num_inputs == WARM_INPUTS:
            warm_bytes = resident_bytes()
    count.growth_bytes = resident_bytes() - warm_bytes if warm_bytes else None
    return count


def _feed(target: Target, data: bytes, count: Count) -> bool:
    began = time.process_time()
    try:
        with _watchdog():
            answer = target(data)
    except TimeoutError:
        count.hangs.append((float(WATCHDOG_SECONDS), data))
        return False
    except Exception as error:  # noqa: BLE001  whatever it is, it is a crash
        count.crashes.append((f"{type(error).__name__}: {error}"[:500], data))
        return False
    seconds = time.process_time() - began
    count.slowest_seconds = max(count.slowest_seconds, seconds)
    if seconds > HANG_SECONDS:
        count.hangs.append((seconds, data))
    count.answers[answer] += 1
    return count.answers[answer] == 1


@contextmanager
def _watchdog() -> Iterator[None]:
    def ring(_number: int, _frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(WATCHDOG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def write_corpus(folder: Path, inputs: list[bytes]) -> None:
    """Keep inputs under the hash of their content."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
