"""What a fit will cost, from a few real steps on a copy of the network: memory in bytes, time in seconds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from models.forecaster import RecurrentForecaster
from models.initialization import GATES
from training.config import OptimizerConfig
from training.data.panel import Panel
from training.data.windows import TrainingWindows, WindowBatch, validation_cutoffs
from training.errors import NumericalError
from training.gradients.norms import GradientNorms
from training.loop import VALIDATION_BATCH, FitData, train_step, validate
from training.losses import build_loss
from training.preparation import DTYPES, Prepared, series_scale_floor
from training.threads import one_thread

# What an optimizer keeps per weight besides the weight and its gradient.
_MOMENTS = {"sgd": 0, "nesterov": 0, "rmsprop": 1, "adagrad": 1, "adam": 2, "adamw": 2, "nadam": 2, "radam": 2}
# Activations are counted on this many windows and scaled up: they grow in proportion. Time does not: it is drawn
# through two points, so many windows and three times as many.
_SAMPLE_WINDOWS = 8
_LARGER_SAMPLE = 3
# While one layer is differentiated, its inputs, outputs and their gradients are held beside what autograd saved; and the
# windows themselves as gathered, standardised and joined. With both the estimate lay between 0.7 and 1.6 of the measured
# peak (linear, rnn, gru, lstm; 64 to 256 units, one and two layers, batches of 64 to 2048).
_SEQUENCES_IN_FLIGHT = 3
_COPIES_OF_A_BATCH = 3
# Whole batches are timed only if they are not expected to take longer than this; beyond that a line is drawn.
_WHOLE_STEP_SECONDS = 0.25
_TIMED_RUNS = 3
_TIMED_SECONDS = 0.25


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a fit holds beside the process itself.

    The weights, one gradient per weight, what the optimizer keeps per weight (two numbers for Adam and its kin); the
    activations that autograd saves for one batch, counted on a few windows and scaled by the batch, with three copies of
    the windows and three sequences of a layer while it is differentiated - or what validation holds, if that is more;
    the panel.

    Attributes:
        weights: Parameters.
        gradients: One per parameter.
        optimizer: Moments.
        activations: Of one batch.
        panel: The series, as far as they are not mapped from a file.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    panel: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.panel


@dataclass(frozen=True)
class FitTime:
    """Seconds a fit takes if nothing else keeps the machine busy and early stopping does not end it before.

    Measured with one thread: what more of them save on large networks is not counted, and on a busy machine two threads
    that wait for each other would make any number of it.

    Attributes:
        step: One update.
        check: One pass over the validation windows.
        fit: All updates and checks of the budget.
        is_measured: Whether whole batches were timed; else a line was drawn through steps on few windows.
    """

    step: float
    check: float
    fit: float
    is_measured: bool


@dataclass(frozen=True)
class FitCost:
    """Memory, time, and whether the first step works at all.

    Attributes:
        memory: In bytes.
        time: In seconds; None if the first step failed.
        failure: Why it failed: a loss or a gradient that is not finite.
    """

    memory: MemoryEstimate
    time: FitTime | None
    failure: str | None


def measure_cost(prepared: Prepared) -> FitCost:
    """Run a few steps on a copy; the network, its gradients and all random states stay as they are.

    Args:
        prepared: Data and network.
    """
    with torch.random.fork_rng(), one_thread():
        rehearsal = _Rehearsal(prepared)
        size = min(_SAMPLE_WINDOWS, prepared.config.fit.batch_size)
        saved = _SavedBytes(rehearsal.network)
        sample = rehearsal.draw(size)
        duration, failure = None, None
        try:
            with saved.counting():
                rehearsal.take_step(sample)
            duration = rehearsal.measure_time(sample)
        except NumericalError as error:
            failure = str(error)
    held = saved.total + _COPIES_OF_A_BATCH * _batch_bytes(sample)
    return FitCost(_memory(prepared, held * prepared.config.fit.batch_size // size), duration, failure)


class _Rehearsal:
    """Training steps and checks on a copy of the network."""

    def __init__(self, prepared: Prepared) -> None:
        config, store = prepared.config, prepared.store
        floor = series_scale_floor(prepared.panel, prepared.splits, config.model.scaler != "none")
        self.fit = config.fit
        self.data = FitData(
            store,
            TrainingWindows(store, prepared.splits),
            validation_cutoffs(prepared.splits),
            floor.to(store.device, DTYPES[config.fit.precision]),
            prepared.panel.ids,
        )
        self.loss = build_loss(config.fit.loss, prepared.forecaster.config.output_levels, config.model.head)
        self.network = copy.deepcopy(prepared.forecaster).train()
        self._norms = GradientNorms(self.network)
        self._update = _PassOverWeights(config.optimizer, list(self.network.parameters()))
        self._generator = torch.Generator().manual_seed(config.fit.seed)

    def draw(self, size: int) -> WindowBatch:
        """Training windows."""
        return self.data.store.gather(*self.data.windows.sample(size, self._generator))

    def take_step(self, batch: WindowBatch) -> None:
        """All that the fit does between two batches.

        Raises:
            NumericalError: If loss or gradient is not finite.
        """
        optimizer = cast("torch.optim.Optimizer", self._update)
        floor = self.data.floor(batch)
        train_step(self.network, batch, floor, self.loss, optimizer, self._norms, self.fit, step=1)

    def measure_time(self, sample: WindowBatch) -> FitTime:
        """Seconds per step, per check and in all."""
        fit, size = self.fit, len(sample.target)
        larger = self.draw(min(_LARGER_SAMPLE * size, fit.batch_size))
        short, longer = (self._fastest(partial(self.take_step, batch)) for batch in (sample, larger))
        growth = max(longer - short, 0.0) / max(len(larger.target) - size, 1)
        step = short + growth * (fit.batch_size - size)
        is_measured = step <= _WHOLE_STEP_SECONDS
        if is_measured:
            step = self._fastest(partial(self.take_step, self.draw(fit.batch_size)))
        check = self._check_seconds(VALIDATION_BATCH if is_measured else len(larger.target))
        checks = -(-fit.max_steps // fit.val_check_steps)
        return FitTime(step, check, fit.max_steps * step + checks * check, is_measured)

    def _check_seconds(self, limit: int) -> float:
        data, (series, cutoff) = self.data, self.data.validation
        count = min(len(series), limit)
        part = FitData(data.store, data.windows, (series[:count], cutoff[:count]), data.scale_floor, data.ids)
        return self._fastest(partial(validate, self.network, part, self.loss)) * len(series) / count

    def _fastest(self, action: Callable[[], object]) -> float:
        """Seconds of the fastest of a few runs: other work makes a run slower, never faster."""
        seconds: list[float] = []
        while len(seconds) < _TIMED_RUNS and sum(seconds) < _TIMED_SECONDS:
            self._wait()
            started = time.perf_counter()
            action()
            self._wait()
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def _wait(self) -> None:
        if self.data.store.device.type == "cuda":
            torch.cuda.synchronize(self.data.store.device)


def _batch_bytes(batch: WindowBatch) -> int:
    return sum(part.nbytes for part in (*batch.inputs, batch.target, batch.target_mask))


def _memory(prepared: Prepared, held: int) -> MemoryEstimate:
    config, network = prepared.config, prepared.forecaster
    weights = sum(parameter.nbytes for parameter in network.parameters())
    model = config.model
    sequence = 0
    if isinstance(network, RecurrentForecaster):
        sequence = network.config.num_updates * model.hidden_size * next(network.parameters()).element_size()
    gates = max((len(GATES.get(layer.partition(".")[0], ())) for layer in network.layers()), default=0) or 1
    training = held + _SEQUENCES_IN_FLIGHT * config.fit.batch_size * sequence
    validation = (gates + 2) * VALIDATION_BATCH * sequence
    optimizer = weights * _moments(config.optimizer)
    return MemoryEstimate(weights, weights, optimizer, max(training, validation), _panel_bytes(prepared.panel))


def _moments(optimizer: OptimizerConfig) -> int:
    return _MOMENTS[optimizer.name] + (optimizer.momentum > 0)


def _panel_bytes(panel: Panel) -> int:
    arrays = [value for value in vars(panel).values() if isinstance(value, np.ndarray)]
    return sum(array.nbytes for array in arrays if not isinstance(array, np.memmap))


class _SavedBytes:
    """Counts what autograd saves for the backward pass, weights left out."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        # Every storage is kept alive until the end, or its address might be given to another and counted once.
        self._seen: dict[int, Tensor] = {}

    @property
    def total(self) -> int:
        """Bytes of all distinct storages."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._seen.values())

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Within it every saved tensor is counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in self._weights:
            self._seen[address] = tensor.detach()
        return tensor


class _PassOverWeights:
    """Stands in for an optimizer: as many passes over the weights, without changing them.

    A real one would import torch's compiler, more than a second, to measure a small part of a step.
    """

    def __init__(self, config: OptimizerConfig, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.passes = 1 + _moments(config)

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
