"""How many threads a fit gets that was not told: the fewest that are nearly as fast as the fastest, by a short measurement.

More threads than a small network can use wait for each other: torch's own choice, all cores, may be the slowest of all. A
limit (OMP_NUM_THREADS, a job's one thread) is kept: with one thread allowed there is nothing to choose.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from training.errors import NumericalError
from training.fit_time import Rehearsal
from training.loop import FitData
from training.machine_cache import remembered
from training.preparation import Prepared
from training.shares import can_share
from training.threads import kept_threads

# A step that takes so long has work for every core.
_LONG_STEP_SECONDS = 0.15
# One that a few windows let expect to take longer than this is not tried: it may not even fit into memory.
_MOST_STEP_SECONDS = 1.0
_LEAST_RUNS, _TIMED_SECONDS = 3, 0.08
# So much slower than the fastest may be what leaves a core to others.
_NEARLY = 1.05
# On an idle machine at least one thread computes for nearly as long as the clock runs.
_IDLE_SHARE = 0.8


class ThreadChoice(NamedTuple):
    """Threads of a fit.

    Attributes:
        num_threads: How many.
        reason: Why, to be said; None where there was nothing to choose.
    """

    num_threads: int
    reason: str | None


def choose_threads(prepared: Prepared, data: FitData | None = None) -> ThreadChoice:
    """Measure, or remember; network, gradients, random states and torch's own number of threads stay as they are.

    Args:
        prepared: Data and network; its configuration leaves `fit.num_threads` open, or is followed.
        data: What is trained on, if it has been built.
    """
    limit = torch.get_num_threads()
    if prepared.config.fit.num_threads is not None or limit == 1 or prepared.store.device.type != "cpu":
        return ThreadChoice(limit, None)
    trial = _Trial(prepared, data, limit)
    found, was_known = remembered(
        "threads", _question(prepared, limit), trial.fastest, 1, limit, is_worth_keeping=lambda: not trial.is_busy
    )
    how = "measured before" if was_known else "measured"
    busy = ", which others keep busy: not kept" if trial.is_busy else ""
    return ThreadChoice(found, f"of at most {limit}; {how} for this machine and shape{busy}")


def candidates(limit: int) -> tuple[int, ...]:
    """All, then half as many, and so on to one."""
    found = {limit} | {2**power for power in range(limit.bit_length()) if 2**power < limit}
    return tuple(sorted(found, reverse=True))


def fewest(seconds: dict[int, float]) -> int:
    """The fewest threads that are nearly as fast as the fastest.

    Args:
        seconds: Of a step, by number of threads.
    """
    best = min(seconds.values())
    return min(count for count, value in seconds.items() if value <= _NEARLY * best)


class _Trial:
    """Steps with one number of threads after the other.

    Attributes:
        is_busy: Whether the clock ran on while not even one thread computed: another time the answer may be another.
    """

    def __init__(self, prepared: Prepared, data: FitData | None, limit: int) -> None:
        self._prepared, self._data, self._limit = prepared, data, limit
        self.is_busy = False

    def fastest(self) -> int:
        """The number to take; all where the first step shows that there is work for every core, or fails."""
        seconds: dict[int, float] = {}
        with torch.random.fork_rng(), kept_threads():
            rehearsal, whole = Rehearsal(self._prepared, self._data), self._prepared.config.fit.batch_size
            try:
                if self._step_seconds(rehearsal) * whole / rehearsal.size > _MOST_STEP_SECONDS:
                    return self._limit
                rehearsal.size = whole
                for count in candidates(self._limit):
                    torch.set_num_threads(count)
                    with rehearsal.sharing():
                        seconds[count] = self._step_seconds(rehearsal)
                    if count == self._limit and seconds[count] > _LONG_STEP_SECONDS:
                        break
            except NumericalError:  # the fit will say so itself
                return self._limit
        return fewest(seconds)

    def _step_seconds(self, rehearsal: Rehearsal) -> float:
        """Of the fastest of a few steps, after one that finds memory and kernels; a long one is not repeated."""
        times: list[float] = []
        computed = time.process_time()
        while len(times) <= _LEAST_RUNS or sum(times) < _TIMED_SECONDS:
            started = time.perf_counter()
            rehearsal.update_once()
            times.append(time.perf_counter() - started)
            if times[0] > 2 * _LONG_STEP_SECONDS:
                break
        self.is_busy |= time.process_time() - computed < _IDLE_SHARE * sum(times)
        return min(times[1:], default=times[0])


def _question(prepared: Prepared, limit: int) -> dict[str, Any]:
    """What the answer depends on: the machine, torch, and the shape of a step."""
    config, network = prepared.config, prepared.forecaster.config
    model = config.model
    return {
        "machine": [platform.machine(), _processor(), os.cpu_count()], "limit": limit, "torch": torch.__version__,
        "architecture": model.network, "units": model.hidden_size, "layers": model.num_layers, "decoder": model.decoder,
        "context": network.context_length, "horizon": network.horizon, "channels": len(prepared.panel.columns.past_features),
        "batch": config.fit.batch_size, "shares": can_share(prepared.forecaster, config.fit),
        "precision": config.fit.precision, "tbptt": config.fit.tbptt_steps,
    }  # fmt: skip


def _processor() -> str:
    """Its model's name; empty where the system does not say."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
