"""Feeds a target, counts, and keeps what was answered in a new way or reached a line that nothing before it did."""

from __future__ import annotations

import gc
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
from tests.fuzz.reached import ReachedLines
from tests.fuzz.targets import Target

HANG_SECONDS, WATCHDOG_SECONDS = 5.0, 60
MAX_KEPT = 400
# Watching lines costs a few times an input's own time; new answers are seen without it.
WATCHED_SHARE = 0.1


@dataclass
class Count:
    """What happened to one target.

    Attributes:
        num_inputs: Inputs fed.
        crashes: Message and input of every crash.
        hangs: Seconds and input of everything that took over five seconds of processor time, or a minute by the clock.
        slowest_seconds: Of one input: processor time where that was measured (from a tenth of a second on), else by the clock.
        answers: How often each answer was given.
        kept: Inputs that were answered in a new way or reached new lines.
        num_lines: Lines of the product that were reached while watched.
    """

    num_inputs: int = 0
    crashes: list[tuple[str, bytes]] = field(default_factory=list)
    hangs: list[tuple[float, bytes]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    kept: list[bytes] = field(default_factory=list)
    num_lines: int = 0


class Fuzzer:
    """Feeds one target, slice after slice.

    Args:
        target: Raises where the product is wrong.
        start: Seeds and corpus; fed first, as they are.
        seed: Of the changes.
    """

    def __init__(self, target: Target, start: list[bytes], seed: int) -> None:
        self.count = Count()
        self._target = target
        self._start = list(start)
        self._pool = list(start) or [b"\0"]
        self._generator = random.Random(seed)
        self._reached = ReachedLines()

    def feed(self, num_inputs: int, is_over: Callable[[], bool] = lambda: False) -> int:
        """Feed a slice.

        Args:
            num_inputs: Inputs at most.
            is_over: Asked before every input.

        Returns:
            How many inputs were fed.
        """
        before = self.count.num_inputs
        while self.count.num_inputs - before < num_inputs and not is_over():
            is_fresh = self.count.num_inputs < len(self._start)
            data = self._start[self.count.num_inputs] if is_fresh else mutate(self._choose(), self._pool, self._generator)
            is_new = self._feed_one(data, is_fresh or self._generator.random() < WATCHED_SHARE)
            if is_new and not is_fresh and len(self.count.kept) < MAX_KEPT:
                self.count.kept.append(data)
                self._pool.append(data)
            self.count.num_inputs += 1
        self.count.num_lines = self._reached.num_lines
        return self.count.num_inputs - before

    def _choose(self) -> bytes:
        return self._generator.choice(self._pool)

    def _feed_one(self, data: bytes, is_watched: bool) -> bool:
        began, began_processor = time.perf_counter(), time.process_time()
        reached_new = False
        try:
            with _watchdog():
                if is_watched:
                    answer, reached_new = self._reached.observe(self._target, data)
                else:
                    answer = self._target(data)
        except TimeoutError:
            self.count.hangs.append((float(WATCHDOG_SECONDS), data))
            return False
        except Exception as error:  # noqa: BLE001  whatever it is, it is a crash
            self.count.crashes.append((f"{type(error).__name__}: {error}"[:500], data))
            return False
        seconds = time.perf_counter() - began
        if seconds > 0.1:  # others may have had the processor
            seconds = time.process_time() - began_processor
        self.count.slowest_seconds = max(self.count.slowest_seconds, seconds)
        if seconds > HANG_SECONDS:
            self.count.hangs.append((seconds, data))
        self.count.answers[answer] += 1
        return reached_new or self.count.answers[answer] == 1


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
    """Memory of this process, garbage collected; 0 where the system does not tell."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def write_corpus(folder: Path, inputs: list[bytes]) -> None:
    """Keep inputs under the hash of their content."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
