"""The job that every library gets, and the clock that times it."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

NUM_SERIES, NUM_ROWS = 100, 2000
HORIZON, BATCH_SIZE = 24, 64
LEARNING_RATE = 1e-3
FIRST_HOUR = "2020-01-01"
STARTED = time.perf_counter()


def build_values() -> np.ndarray:
    """Hourly series with a daily and a weekly season and noise.

    Returns:
        float32 values of shape (NUM_SERIES, NUM_ROWS).
    """
    random = np.random.default_rng(0)
    hour = np.arange(NUM_ROWS)
    day = random.uniform(0.5, 1.5, (NUM_SERIES, 1)) * np.sin(2 * np.pi * (hour / 24 + random.random((NUM_SERIES, 1))))
    week = random.uniform(0.2, 0.8, (NUM_SERIES, 1)) * np.sin(2 * np.pi * (hour / 168 + random.random((NUM_SERIES, 1))))
    return (day + week + 0.1 * random.standard_normal((NUM_SERIES, NUM_ROWS))).astype(np.float32)


def read_arguments() -> argparse.Namespace:
    """Options that every worker understands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", default="")
    parser.add_argument("--context-length", type=int, default=96)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=30)
    parser.add_argument("--seconds", type=float, help="go on for so long instead of for --steps")
    parser.add_argument("--warm-up-seconds", type=float, default=0.0, help="of these, not counted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes of gradcast")
    return parser.parse_args()


class StepClock:
    """Times of the ends of optimizer steps.

    Args:
        arguments: How many steps or seconds there are to be, and how many of them are not counted.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.ends: list[float] = []
        self.busy: list[float] = []

    def tick(self) -> None:
        """An optimizer step ended now."""
        self.ends.append(time.perf_counter())
        self.busy.append(time.process_time())

    @property
    def is_over(self) -> bool:
        """Whether the step that ended last was the last."""
        if self._arguments.seconds is None:
            return len(self.ends) >= self._arguments.steps
        return bool(self.ends) and self.ends[-1] - self.ends[0] >= self._arguments.seconds

    @property
    def warm_up(self) -> int:
        """Steps at the beginning that are not counted."""
        early = sum(end - self.ends[0] < self._arguments.warm_up_seconds for end in self.ends)
        return max(early, self._arguments.warm_up if self._arguments.seconds is None else 0)

    def windows_per_second(self, block: int = 10) -> float:
        """Median over blocks of steps after the warm-up, so that a moment of another process does not count."""
        ends = self.ends[self.warm_up :]
        block = max(1, min(block, len(ends) - 1))
        rates = [block * BATCH_SIZE / (ends[i + block] - ends[i]) for i in range(0, len(ends) - block, block)]
        return float(np.median(rates))

    def processor_seconds_per_step(self) -> float:
        """Median time that this process computed, on whatever machine load, all its threads together."""
        return float(np.median(np.diff(self.busy[self.warm_up :])))

    def mean_windows_per_second(self) -> float:
        """Plain mean after the warm-up, interruptions included."""
        ends = self.ends[self.warm_up :]
        return (len(ends) - 1) * BATCH_SIZE / (ends[-1] - ends[0])


def lightning_callback(base: type, clock: StepClock) -> object:
    """A callback for a Lightning trainer (whichever of its two packages) that ticks after every batch."""

    class Ticker(base):  # type: ignore[misc, valid-type]
        def on_train_batch_end(self, *arguments: object, **keywords: object) -> None:
            clock.tick()

    return Ticker()


def report(clock: StepClock, import_seconds: float, prepare_seconds: float, num_parameters: int) -> None:
    """Print the worker's one line of JSON."""
    document = {
        "windows_per_second": clock.windows_per_second(),
        "mean_windows_per_second": clock.mean_windows_per_second(),
        "processor_seconds_per_step": clock.processor_seconds_per_step(),
        "steps": len(clock.ends),
        "import_seconds": import_seconds,
        "prepare_seconds": prepare_seconds,
        "total_seconds": time.perf_counter() - STARTED,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "num_parameters": num_parameters,
        "python": sys.version.split()[0],
    }
    print("RESULT " + json.dumps(document), flush=True)


def repository() -> Path:
    """The root of the repository, for the worker that imports gradcast."""
    return Path(__file__).resolve().parents[2]
