"""The visible loop: everything that happens between two weight updates can be read here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.forecaster import Forecaster, mean_of_parts
from training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    network_tensors,
    optimizer_tensors,
    random_state,
    read_checkpoint,
    restore_network,
    restore_optimizer,
    restore_random_state,
    write_checkpoint,
)
from training.config import FitConfig, OptimizerConfig
from training.data.windows import TrainingWindows, WindowBatch, WindowStore, count_separate
from training.errors import NumericalError
from training.forensics import DIRECTORY as FORENSICS
from training.forensics import FailedStep, explain_non_finite
from training.gradients.monitor import NOOP_MONITOR, GradientMonitor, dashboard_metrics
from training.gradients.norms import GradientNorms, clip_, total_norm, validate_finite_gradient
from training.gradients.readings import Readings
from training.gradients.schedule import Schedule
from training.gradients.updates import UpdateRatio
from training.losses import ForecastLoss
from training.optimizers import LearningRateSchedule, build_optimizer
from training.precision import autocast
from training.progress import FitProgress
from training.shares import AT_ONCE, Shares, share_threads
from training.team import ALONE, Team
from training.tracking.tracker import Tracker
from training.validation_loss import LOWEST, ValidationLoss

VALIDATION_BATCH = 256


class StepReading(NamedTuple):
    """What one step leaves behind, still on the device.

    Attributes:
        loss: Training loss before the update.
        norms: Gradient norm of every leaf, before clipping.
        clip: Factor the gradient was scaled by; 1 where it was not clipped.
    """

    loss: Float[Tensor, ""]
    norms: Float[Tensor, " leaves"]
    clip: Float[Tensor, ""]


@dataclass(frozen=True)
class FitData:
    """What is trained and validated on.

    Attributes:
        store: Gathers windows by index.
        windows: Draws training windows.
        validation: Series and cutoffs of the fixed validation windows.
        scale_floor: Smallest scale a series' errors are measured in, in the unit of `y`.
        ids: Names of the series.
    """

    store: WindowStore
    windows: TrainingWindows
    validation: tuple[Tensor, Tensor]
    scale_floor: Float[Tensor, " N"]
    ids: tuple[str, ...]

    @cached_property
    def num_separate(self) -> int:
        """Validation windows that have no target in common."""
        return count_separate(*self.validation, self.store.horizon)

    def floor(self, batch: WindowBatch) -> Float[Tensor, "B 1"]:
        """Scale floor of each window of a batch."""
        return self.scale_floor[batch.series][:, None]


@dataclass
class FitState:
    """What changes during a fit, besides weights and optimizer.

    Attributes:
        step: Updates done.
        best_step: Update whose weights are kept: the latest whose validation loss chance can explain, were it no higher
            than the lowest.
        best_val_loss: Its validation loss.
        bad_checks: Checks in a row that were clearly worse than the lowest.
        readings: Losses and gradient quantities over steps.
        fit_seconds: Time in training steps, without validation.
        processor_seconds: Processor time of the same, all threads of this process together: on a machine that others keep
            busy it says what the steps cost where `fit_seconds` says how long they took.
        check_seconds: Time in validation and checkpoints.
    """

    step: int = 0
    best_step: int = 0
    best_val_loss: float = math.inf
    bad_checks: int = 0
    readings: Readings = field(default_factory=Readings)
    fit_seconds: float = 0.0
    processor_seconds: float = 0.0
    check_seconds: float = 0.0


class FitInterruptedError(Exception):
    """The user stopped the run.

    Attributes:
        directory: Of the run, which goes on from there; None if it had not begun.
    """

    directory: Path | None = None


def train_step(
    forecaster: Forecaster,
    batch: WindowBatch,
    scale_floor: Float[Tensor, "B 1"],
    loss_function: ForecastLoss,
    optimizer: torch.optim.Optimizer,
    gradient_norms: GradientNorms,
    fit: FitConfig,
    step: int,
    team: Team = ALONE,
    shares: Shares = AT_ONCE,
) -> StepReading:
    """One update of the weights.

    Args:
        forecaster: In training mode.
        batch: Windows; of several processes, the share of this one.
        scale_floor: Smallest scale of each window's errors.
        loss_function: What to minimise.
        optimizer: Turns gradients into updates; its learning rate is set.
        gradient_norms: Measures the gradient.
        fit: Clipping, truncation and precision.
        step: Number of this update, from 1.
        team: Whose gradients are averaged before they are measured.
        shares: How this process computes its gradient.

    Returns:
        Loss, gradient norms and clip factor.

    Raises:
        NumericalError: If loss or gradient is not finite; the weights are untouched then.
        WorkerLostError: If a process of the team is gone.
    """

    def mean_loss(part: WindowBatch, floor: Float[Tensor, "B 1"]) -> Float[Tensor, ""]:
        with autocast(fit.precision, part.target.device):
            parts = forecaster.forward_parts(part.inputs, part.target, part.target_mask, fit.tbptt_steps)
            return mean_of_parts(parts, lambda forecast: loss_function(forecast, part.target, part.target_mask, floor))

    for parameter in gradient_norms.parameters:  # what optimizer.zero_grad does, without the records of its profiler
        parameter.grad = None
    loss = shares.differentiate(mean_loss, batch, scale_floor, gradient_norms.parameters)
    loss = team.average_(loss, batch.target_mask.sum(), gradient_norms.parameters)
    norms = gradient_norms.measure()
    total = total_norm(norms)
    if not math.isfinite(loss + total):
        _raise_non_finite(loss, gradient_norms, norms, step)
    clip = clip_(gradient_norms.parameters, total, fit.max_grad_norm) if fit.max_grad_norm else torch.ones_like(total)
    optimizer.step()
    return StepReading(loss, norms, clip)


def validation_batches(data: FitData, team: Team = ALONE) -> list[Callable[[], WindowBatch]]:
    """The fixed validation windows of this process, gathered batch by batch, each when it is called for."""
    share = team.share(len(data.validation[0]))
    series, cutoff = (part[share] for part in data.validation)
    parts = [slice(first, first + VALIDATION_BATCH) for first in range(0, len(series), VALIDATION_BATCH)]
    return [partial(data.store.gather, series[part], cutoff[part]) for part in parts]


def validate(
    forecaster: Forecaster, data: FitData, loss_function: ForecastLoss, team: Team = ALONE, shares: Shares = AT_ONCE
) -> ValidationLoss:
    """Loss of every fixed validation window, in the same scale as the training loss; each process takes its share."""

    @torch.no_grad()  # in whichever thread
    def window_sums(gather: Callable[[], WindowBatch]) -> Tensor:
        batch = gather()
        forecast = forecaster.forward_taught(batch.inputs, batch.target, batch.target_mask)
        return torch.stack(loss_function.window_sums(forecast, batch.target, batch.target_mask, data.floor(batch)))

    num_windows = len(data.validation[0])
    # Every window is somebody's and 0 elsewhere, so that the sum over the team is the same to the bit in each process.
    table = torch.zeros(2, num_windows, dtype=torch.float64)
    forecaster.eval()
    sums = shares.map(window_sums, validation_batches(data, team))
    forecaster.train()
    if sums:
        table[:, team.share(num_windows)] = torch.cat(sums, dim=1).to(table)
    total, targets = team.total(table)
    return ValidationLoss(total, targets)


class Fit:
    """A fit from the first step to early stopping or the end of the budget, resumable at every check.

    Args:
        forecaster: The network, on its device.
        data: What to train and validate on.
        loss_function: What to minimise, for training and validation alike.
        fit: Budget, clipping, stopping.
        optimizer: Optimizer and schedule.
        schedule: Steps whose gradient norms are logged.
        directory: Where checkpoints go; the record of a non-finite step goes beside it.
        tracker: Where metrics go.
        progress: What the user sees.
        stop_requested: Asked after every step; True ends the fit with a checkpoint.
        monitor: Instruments beside the step.
        is_hopeless: Asked after every check; True ends the fit as if its budget were used up.
        keep_start: Whether the weights at the start are a candidate too: a fit that goes on from trained weights then
            never ends with worse ones.
        team: The processes that take a share of every batch each; all run this fit, the leader alone writes and logs.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        data: FitData,
        loss_function: ForecastLoss,
        fit: FitConfig,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        directory: Path,
        tracker: Tracker,
        progress: FitProgress,
        stop_requested: Callable[[], bool] = lambda: False,
        monitor: GradientMonitor = NOOP_MONITOR,
        is_hopeless: Callable[[FitState], bool] = lambda _state: False,
        keep_start: bool = False,
        team: Team = ALONE,
    ) -> None:
        self.forecaster, self.data, self.loss_function, self.fit = forecaster, data, loss_function, fit
        self.schedule, self.directory, self.tracker, self.progress = schedule, directory, tracker, progress
        self.stop_requested, self.monitor, self.is_hopeless = stop_requested, monitor, is_hopeless
        self.keep_start, self.team = keep_start, team
        self.device = next(forecaster.parameters()).device
        self.optimizer = build_optimizer(optimizer, forecaster.parameters(), self.device)
        self.rates = LearningRateSchedule(optimizer, fit.max_steps)
        self.gradient_norms = GradientNorms(forecaster)
        self.update_ratio = UpdateRatio(forecaster)
        self.generator = torch.Generator().manual_seed(fit.seed)
        self.shares = AT_ONCE
        self.state = FitState()
        self._lowest: ValidationLoss | None = None
        self._recent: list[StepReading] = []
        self._step_began = 0.0

    def run(self) -> FitState:
        """Train; afterwards the network of the leader holds the weights that validation chose.

        Returns:
            The final state, with all readings.

        Raises:
            NumericalError: If a loss or gradient is not finite.
            FitInterruptedError: If the user stopped it; a checkpoint is written.
            WorkerLostError: If a process of the team is gone; the last checkpoint resumes the fit.
        """
        self._start_together()
        self.forecaster.train()
        self.progress.start(self.fit.max_steps, self.state.step)
        try:
            with share_threads(self.forecaster, self.fit) as self.shares:
                self._go_on()
        finally:
            self.shares = AT_ONCE
            self.progress.stop()
        if self.team.is_leader:
            tensors, _ = read_checkpoint(self.directory / BEST)
            restore_network(self.forecaster, tensors, self.directory / BEST)
        self.forecaster.eval()
        return self.state

    def _go_on(self) -> None:
        """Step after step, to the end of the budget or of patience."""
        if self.state.step == 0 and self.monitor.is_due(0):
            self._look(0)
        if self.keep_start and self.state.step == 0:
            self._check()
        while self.state.step < self.fit.max_steps and not self._patience_exhausted():
            self._step_began, computed = time.perf_counter(), time.process_time()
            self._step()
            self.state.fit_seconds += time.perf_counter() - self._step_began
            self.state.processor_seconds += time.process_time() - computed
            if self._is_check(self.state.step):
                self._check()
                if self.team.agree(self.is_hopeless(self.state)):
                    break
            if self.team.agree_to_stop(self.stop_requested()):
                self._write_last()
                raise FitInterruptedError

    def resume(self, path: Path | None = None) -> None:
        """Continue from a checkpoint; what follows is equal to an uninterrupted run to the last bit.

        Args:
            path: The checkpoint; None = the last one.

        Raises:
            CheckpointError: If there is none, or it does not fit.
        """
        path = path or self.directory / LAST
        tensors, document = read_checkpoint(path)
        restore_network(self.forecaster, tensors, path)
        restore_optimizer(self.optimizer, tensors)
        restore_random_state(tensors, self.generator, self.device)
        if LOWEST in tensors:
            self._lowest = ValidationLoss(*tensors[LOWEST])
        plateau = document.pop("plateau")
        self.rates.plateau_factor, self.rates.plateau_best, self.rates.plateau_bad_checks = plateau
        self.state = FitState(**(document | {"readings": Readings.from_dict(document["readings"])}))

    def _start_together(self) -> None:
        """Give every process the leader's weights, optimizer and random state, in the form of its checkpoint."""
        if self.team.size == 1:
            return
        path = self.directory / LAST
        self.team.agree_to_stop(False)  # a wish that came too late for the fit before
        self._write_last()
        content = self.team.broadcast(path.read_bytes() if self.team.is_leader else b"")
        if not self.team.is_leader:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.resume()

    def _is_check(self, step: int) -> bool:
        return step % self.fit.val_check_steps == 0 or step == self.fit.max_steps

    def _patience_exhausted(self) -> bool:
        return self.fit.patience is not None and self.state.bad_checks >= self.fit.patience

    def _step(self) -> None:
        step = self.state.step + 1
        rate = self.rates.apply(self.optimizer, step)
        self.team.seed(self.fit.seed, step)
        # A few microseconds; without it a step with dropout could never be repeated.
        random = random_state(self.generator, self.device)
        series, cutoff = self.data.windows.sample(self.fit.batch_size, self.generator)
        share = self.team.share(len(series))
        batch = self.data.store.gather(series[share], cutoff[share])
        # A checkpoint must not fall between two logged steps: the mean loss since the last one would be lost.
        logged = self.schedule(step) or self._is_check(step)
        if logged:
            self.update_ratio.before_step()
        try:
            reading = train_step(
                self.forecaster, batch, self.data.floor(batch), self.loss_function, self.optimizer,
                self.gradient_norms, self.fit, step, self.team, self.shares,
            )  # fmt: skip
        except NumericalError as error:
            batch = self.data.store.gather(series, cutoff)  # whichever process it came from
            raise self._explained(error, batch, random, step, rate) from None
        self._recent.append(reading)
        self.state.step = step
        if logged:
            self._log(step, rate)
        if self.monitor.is_due(step):
            self._look(step)

    def _explained(
        self, error: NumericalError, batch: WindowBatch, random: Mapping[str, Tensor], step: int, rate: float | None
    ) -> NumericalError:
        """The error with place and windows; the step is recorded beside the checkpoints."""
        if not self.team.is_leader:
            return error
        failed = FailedStep(
            self.forecaster, batch, self.data.floor(batch), self.loss_function, self.fit, step, random, self.data.ids,
            rate, "validation" if rate is None else "step",
        )  # fmt: skip
        return explain_non_finite(error, failed, self.directory.with_name(FORENSICS))

    @torch.no_grad()
    def _validation_failure(self, val_loss: float) -> NumericalError:
        """What to raise for a validation loss that is no number: found again, batch by batch."""
        error = NumericalError(f"validation loss at step {self.state.step}", "finite", str(val_loss))
        self.forecaster.eval()
        for gather in validation_batches(self.data):
            batch = gather()
            forecast = self.forecaster.forward_taught(batch.inputs, batch.target, batch.target_mask)
            loss = self.loss_function(forecast, batch.target, batch.target_mask, self.data.floor(batch))
            if not bool(torch.isfinite(loss)):
                error.loss = loss.item()
                random = random_state(self.generator, self.device)
                return self._explained(error, batch, random, self.state.step, None)
        return error

    def _log(self, step: int, rate: float) -> None:
        losses, norms, clips = (torch.stack(column).cpu() for column in zip(*self._recent, strict=True))
        self._recent = []
        leaf_norms = norms[-1].tolist()
        peak = torch.linalg.vector_norm(norms, dim=1).max().item()
        metrics = {"loss/train": losses.double().mean().item(), "learning_rate": rate}
        ratios, sizes = self.update_ratio.after_step()
        metrics |= self.gradient_norms.named(leaf_norms) | ratios
        if self.fit.max_grad_norm:
            metrics["grad_clip/fraction"] = (clips < 1).double().mean().item()
            metrics["grad_clip/coefficient"] = clips.median().item()
        metrics["speed/windows_per_second"] = self._speed(time.perf_counter() - self._step_began)
        unsent = self.gradient_norms.leaf_named(leaf_norms) | sizes | {"grad_norm/peak": peak}
        self.state.readings.add(step, metrics | unsent)
        self.tracker.log_metrics(metrics, step)
        shown = {
            "loss": metrics["loss/train"],
            "grad_norm": metrics["grad_norm/total"],
            "windows_per_second": metrics["speed/windows_per_second"],
        }
        self.progress.update(step, shown)

    def _look(self, step: int) -> None:
        """Measure what the step itself does not show; part of the fit's time."""
        readings = self.monitor.measure(step)
        self.state.readings.add(step, readings)
        self.tracker.log_metrics(dashboard_metrics(readings), step)
        self.progress.update(step, self._shown_reach())

    def _shown_reach(self) -> dict[str, float]:
        """Of the stack, or of the only layer; measured before or not."""
        names = [name for name in self.state.readings.names("grad_reach/") if not name.endswith("ratio_at_need")]
        reach = self.state.readings.last(names[-1]) if names else None
        return {} if reach is None else {"reach": reach}

    def _speed(self, under_way: float = 0.0) -> float:
        """Windows per second so far; a step that is not over yet has taken `under_way` seconds."""
        return (self.state.step * self.fit.batch_size) / max(self.state.fit_seconds + under_way, 1e-9)

    def _check(self) -> None:
        started = time.perf_counter()
        self._validate_and_keep()
        self.state.check_seconds += time.perf_counter() - started

    def _validate_and_keep(self) -> None:
        state = self.state
        validation = validate(self.forecaster, self.data, self.loss_function, self.team, self.shares)
        val_loss = validation.mean
        if not math.isfinite(val_loss):
            raise self._validation_failure(val_loss)
        self.rates.observe(val_loss)
        if self._lowest is None or val_loss < self._lowest.mean - self.fit.min_delta:
            self._lowest = validation
        if validation.is_clearly_above(self._lowest, self.data.num_separate):
            state.bad_checks += 1
        else:
            state.best_val_loss, state.best_step, state.bad_checks = val_loss, state.step, 0
            self._write(BEST, network_tensors(self.forecaster), {"step": state.step})
        state.readings.add(state.step, {"loss/val": val_loss})
        self.tracker.log_metrics({"loss/val": val_loss}, state.step)
        self._write_last()
        _, losses = state.readings.series("loss/train")
        shown = (
            {"loss": losses[-1], "val_loss": val_loss, "windows_per_second": self._speed()}
            if losses
            else {"val_loss": val_loss}
        )
        total = state.readings.last("grad_norm/total")
        shown |= {"grad_norm": total} if total is not None else {}
        self.progress.check(state.step, shown | self._shown_reach())

    def _write_last(self) -> None:
        tensors = network_tensors(self.forecaster) | optimizer_tensors(self.optimizer)
        tensors |= random_state(self.generator, self.device)
        if self._lowest is not None:
            tensors[LOWEST] = torch.stack(self._lowest)
        document = vars(self.state) | {"readings": self.state.readings.to_dict()}
        document["plateau"] = (self.rates.plateau_factor, self.rates.plateau_best, self.rates.plateau_bad_checks)
        self._write(LAST, tensors, document, keep_as=self.directory / PREVIOUS)

    def _write(
        self, name: str, tensors: Mapping[str, Tensor], document: Mapping[str, Any], keep_as: Path | None = None
    ) -> None:
        if self.team.is_leader:
            write_checkpoint(self.directory / name, tensors, document, keep_as=keep_as)


def _raise_non_finite(loss: Tensor, gradient_norms: GradientNorms, norms: Tensor, step: int) -> None:
    try:
        if not bool(torch.isfinite(loss)):
            raise NumericalError(f"loss at step {step}", "finite", f"{loss.item()}")
        validate_finite_gradient(gradient_norms, norms, step)
        raise NumericalError(f"total gradient norm at step {step}", "finite", "too large for the number format")
    except NumericalError as error:
        error.loss = loss.item()
        raise
