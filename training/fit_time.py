"""Time of a fit before its first step: everything that a fit does again and again, done a few times on a copy."""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import nn

from training.backtest import WINDOWS_PER_BATCH
from training.checkpoint import BEST, LAST, network_tensors, random_state, write_checkpoint
from training.config import OptimizerConfig
from training.data.windows import WindowBatch
from training.evaluation import Evaluation
from training.fit_memory import num_moments
from training.gradients.monitor import NOOP_MONITOR, PAST_USE_EVERY, GradientMonitor
from training.gradients.norms import GradientNorms
from training.gradients.schedule import logging_schedule
from training.gradients.updates import UpdateRatio
from training.judgement import build_monitor, build_probe
from training.loop import VALIDATION_BATCH, FitData, train_step, validate
from training.losses import build_loss
from training.preparation import Prepared, build_fit_data
from training.shares import AT_ONCE, share_threads

# After a step on so many windows a whole batch is tried, if it will not take too long; else batches are made larger by this
# factor while they can be, and a line is drawn through the last two. So a machine that cannot hold the fit is not filled.
SAMPLE_WINDOWS = 8
_GROWTH = 4
_WHOLE_STEP_SECONDS = 1.0
_LEAST_RUNS, _MOST_RUNS = 3, 40
_TIMED_SECONDS = 0.4
_BUSY_SHARE = 0.5

# Kept beside what the gradient's norms and the updates give, as `Fit` does.
_OF_EVERY_LOG = (
    "loss/train",
    "learning_rate",
    "grad_clip/fraction",
    "grad_clip/coefficient",
    "speed",
    "grad_norm/peak",
)


class Seconds(NamedTuple):
    """How long something took.

    Attributes:
        clock: On the clock.
        processor: Of all cores together.
    """

    clock: float
    processor: float


NOTHING = Seconds(0.0, 0.0)


@dataclass(frozen=True)
class FitTime:
    """Seconds a fit takes if nothing else keeps the machine busy and early stopping does not end it before.

    Attributes:
        step: One update.
        logged: What a step takes longer whose norms are kept.
        look: One measurement of the instruments.
        check: One pass over the validation windows, and the checkpoint.
        updates: All updates of the budget with what is measured beside them: what a run reports as `fit_seconds`.
        fit: The same with checks, and the fit on all rows if there is to be one: at most as long again.
        processor: Processor seconds of `updates`, all threads together.
        num_threads: Threads it was measured with: those the fit will use.
        is_measured: Whether whole batches were timed; else a line was drawn through steps on fewer windows.
        is_busy: Whether the clock ran on more than twice as long as the one thread computed: others use this machine.
    """

    step: float
    logged: float
    look: float
    check: float
    updates: float
    fit: float
    processor: float
    num_threads: int
    is_measured: bool
    is_busy: bool


class Rehearsal:
    """Training steps, looks and checks on a copy of the network.

    Args:
        prepared: Data and network; the network stays as it is.
        data: What is trained on, if it has been built.

    Attributes:
        size: Windows of the batches that are tried; `measure` makes them larger.
        readings_bytes: What the fit will have to keep of what it measures, as text; 0 before `measure`.
    """

    def __init__(self, prepared: Prepared, data: FitData | None = None) -> None:
        self.network = copy.deepcopy(prepared.forecaster).train()
        self.prepared = replace(prepared, forecaster=self.network)
        self.fit, self.gradients = prepared.config.fit, prepared.config.gradients
        self.data = data or build_fit_data(self.prepared)
        self.loss = build_loss(self.fit.loss, self.network.config.output_levels, prepared.config.model.head)
        self.size = min(SAMPLE_WINDOWS, self.fit.batch_size)
        self.readings_bytes = 0
        self._shares = AT_ONCE
        self._logged_bytes, self._look_bytes = 0, 0
        self._norms = GradientNorms(self.network)
        self._ratio = UpdateRatio(self.network)
        self._update = _PassOverWeights(prepared.config.optimizer, list(self.network.parameters()))
        self._generator = torch.Generator().manual_seed(self.fit.seed)

    @property
    def share(self) -> float:
        """Windows of a batch that were tried together, as a share of all."""
        return self.size / self.fit.batch_size

    def draw(self, size: int) -> WindowBatch:
        """Training windows."""
        return self.data.store.gather(*self.data.windows.sample(size, self._generator))

    def take_step(self, batch: WindowBatch) -> None:
        """One update.

        Raises:
            NumericalError: If loss or gradient is not finite.
        """
        optimizer = cast("torch.optim.Optimizer", self._update)
        train_step(
            self.network, batch, self.data.floor(batch), self.loss, optimizer, self._norms, self.fit, step=1,
            shares=self._shares,
        )  # fmt: skip

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """With torch's threads used as the fit will use them."""
        with share_threads(self.network, self.fit) as self._shares:
            yield
        self._shares = AT_ONCE

    def measure(self) -> FitTime:
        """Seconds of every part, and of all of them.

        Raises:
            NumericalError: If loss or gradient is not finite.
        """
        is_alone, num_threads = self._is_alone, torch.get_num_threads()
        with self.sharing():
            step = self._measure_step()
            logged, look, check = self._measure_logging(), self._measure_look(), self._measure_check()
        fit, steps = self.fit, self.fit.max_steps
        numbers = range(1, steps + 1)
        num_logged, num_looks = sum(map(logging_schedule, numbers)), sum(map(self.monitor.is_due, numbers))
        self.readings_bytes = num_logged * self._logged_bytes + num_looks * self._look_bytes
        updates = Seconds(
            *(steps * step[part] + num_logged * logged[part] + num_looks * look[part] for part in range(len(step)))
        )
        checks = look.clock + -(-steps // fit.val_check_steps) * check.clock
        final = steps * step.clock + check.clock if fit.final else 0.0
        return FitTime(
            step.clock, logged.clock, look.clock, check.clock, updates.clock, updates.clock + checks + final,
            updates.processor, num_threads, self.size == fit.batch_size,
            is_alone and updates.processor < _BUSY_SHARE * updates.clock,
        )  # fmt: skip

    def rehearse_backtest(self) -> None:
        """The linear baseline, and the forecasts of one batch of windows: what the backtest holds."""
        Evaluation(self.prepared).run("val", max(int(WINDOWS_PER_BATCH * self.share), 1))

    @property
    def _is_alone(self) -> bool:
        """Whether one thread does everything, so that on an idle machine the clock shows what the processor does."""
        return self.data.store.device.type == "cpu" and torch.get_num_threads() == 1

    @cached_property
    def monitor(self) -> GradientMonitor:
        """The instruments, on the copy."""
        return build_monitor(self.prepared, build_probe(self.prepared, self.data, self.loss))

    def _measure_step(self) -> Seconds:
        """Of a whole batch, or on the line through the two largest that were tried."""
        whole = self.fit.batch_size
        before, step = None, self._timed(self.update_once)
        while self.size < whole:
            is_cheap = min(step) * whole / self.size <= _WHOLE_STEP_SECONDS
            larger = whole if is_cheap else min(_GROWTH * self.size, whole)
            if min(step) * larger / self.size > _WHOLE_STEP_SECONDS and before is not None:
                return extrapolate(before, (self.size, step), whole)
            before, self.size = (self.size, step), larger
            step = self._timed(self.update_once)
        return step

    def update_once(self) -> None:
        """All that happens between two updates."""
        random_state(self._generator, self.data.store.device)
        self.take_step(self.draw(self.size))

    def _measure_logging(self) -> Seconds:
        return NOTHING if self.gradients.preset == "off" else self._timed(self._keep_norms)

    def _keep_norms(self) -> None:
        norms = self._norms.measure().tolist()
        self._ratio.before_step()
        ratios, sizes = self._ratio.after_step()
        readings = self._norms.named(norms) | self._norms.leaf_named(norms) | ratios | sizes
        self._logged_bytes = text_bytes(readings | dict.fromkeys(_OF_EVERY_LOG, math.pi))

    def _measure_look(self) -> Seconds:
        """Of the preset `full`, every fifth look asks for more."""
        if self.monitor is NOOP_MONITOR:
            return NOTHING
        self._look_bytes = text_bytes(self.monitor.measure(0))
        usual = self._timed(partial(self.monitor.measure, 1))
        if self.gradients.preset != "full":
            return usual
        rare = self._timed(partial(self.monitor.measure, 0))
        share = 1 / PAST_USE_EVERY
        return Seconds(*((1 - share) * u + share * r for u, r in zip(usual, rare, strict=True)))

    def _measure_check(self) -> Seconds:
        data, (series, cutoff) = self.data, self.data.validation
        count = min(len(series), max(int(VALIDATION_BATCH * self.share), 1))
        part = FitData(data.store, data.windows, (series[:count], cutoff[:count]), data.scale_floor, data.ids)
        seconds = self._timed(partial(validate, self.network, part, self.loss, shares=self._shares))
        with tempfile.TemporaryDirectory(prefix="gradcast-preflight-") as place:
            written = self._timed(partial(self._write, Path(place)))
        return Seconds(*(each * len(series) / count + disk for each, disk in zip(seconds, written, strict=True)))

    def _write(self, place: Path) -> None:
        """The two checkpoints of a check, moments in the place of those that an optimizer would have."""
        network, moments = network_tensors(self.network), num_moments(self.prepared.config.optimizer)
        copies = {f"{name}.{number}": tensor.clone() for name, tensor in network.items() for number in range(moments)}
        write_checkpoint(place / BEST, network, {})
        write_checkpoint(place / LAST, network | copies, {})

    def _timed(self, action: Callable[[], object]) -> Seconds:
        """Lower quartile of the clock and median of the processor, over a few runs after one that finds memory and kernels.

        Other work makes the clock run on, never back; on a processor it shows little.
        """
        action()
        clocks: list[float] = []
        processors: list[float] = []
        while len(clocks) < _LEAST_RUNS or (sum(clocks) < _TIMED_SECONDS and len(clocks) < _MOST_RUNS):
            self._wait()
            clock, processor = time.perf_counter(), time.process_time()
            action()
            self._wait()
            clocks.append(time.perf_counter() - clock)
            processors.append(time.process_time() - processor)
        return Seconds(sorted(clocks)[len(clocks) // 4], statistics.median(processors))

    def _wait(self) -> None:
        if self.data.store.device.type == "cuda":
            torch.cuda.synchronize(self.data.store.device)


def text_bytes(values: Mapping[str, float]) -> int:
    """Of one reading per name, with its step, in the header of a checkpoint."""
    return sum(len(repr(float(value))) + 8 for value in values.values())


def extrapolate(smaller: tuple[int, Seconds], larger: tuple[int, Seconds], size: int) -> Seconds:
    """What `size` windows take, on the line through two smaller numbers of them."""
    (x, low), (y, high) = smaller, larger
    return Seconds(*(b + max(b - a, 0.0) * (size - y) / (y - x) for a, b in zip(low, high, strict=True)))


class _PassOverWeights:
    """Stands in for an optimizer: as many passes over the weights, without changing them.

    A real one would import torch's compiler, more than a second, to measure a small part of a step.
    """

    def __init__(self, config: OptimizerConfig, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.passes = 1 + num_moments(config)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As an optimizer's."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Read and write every weight and every moment once."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        for _ in range(self.passes):
            torch._foreach_mul_(gradients, 1.0)
