"""A short fit on training rows, judged on later ones: what networks are compared by before one of them is trained in earnest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.forecaster import Forecaster, ScaledForecast
from training.assembly import assemble, build_fit_data
from training.config import TrainingConfig
from training.data.mapping import SilentWatch, Watch
from training.data.panel import Panel
from training.data.splits import Splits
from training.errors import NumericalError
from training.gradients.norms import GradientNorms
from training.loop import FitData, train_step, validation_batches
from training.losses import ForecastLoss, build_loss
from training.optimizers import LearningRateSchedule, build_optimizer
from training.shares import share_threads
from training.validation_loss import ValidationLoss

# Steps of a trial at most.
MAX_STEPS = 2000
MAX_HELD_OUT_WINDOWS = 512
SILENT_WATCH = SilentWatch()


# Losses of the held-out windows from forecasts of them, batch by batch.
Judge = Callable[[Sequence[ScaledForecast]], ValidationLoss]


@dataclass(frozen=True)
class Trial:
    """What a short fit forecasts for the held-out windows, and how such forecasts are judged.

    Attributes:
        losses: Of every window, with errors in the spread of their series, so that they can be compared between scalers; None
            if the fit broke or was stopped.
        forecasts: Of every batch of windows.
        judge: What gives the losses of other forecasts of the same windows.
        num_separate: Windows that have no target in common.
    """

    losses: ValidationLoss | None = None
    forecasts: tuple[ScaledForecast, ...] = ()
    judge: Judge | None = None
    num_separate: int = 0

    @property
    def loss(self) -> float:
        """The mean over all targets; infinite if there are no losses, or it is no number."""
        mean = math.inf if self.losses is None else self.losses.mean
        return mean if math.isfinite(mean) else math.inf

    def mean_with(self, other: Trial, share: float) -> Trial:
        """The mean with another's forecasts of the same windows, which have this share; nothing where one of them broke.

        Only where the mean of two predictions is a prediction: see `models.config.SHARED_HEADS`.
        """
        if self.judge is None or other.judge is None:
            return Trial()
        forecasts = tuple(_mean(own, its, share) for own, its in zip(self.forecasts, other.forecasts, strict=True))
        return Trial(self.judge(forecasts), forecasts, self.judge, self.num_separate)

    def is_clearly_worse_than(self, other: Trial) -> bool:
        """Whether chance does not explain that the other's losses of the same windows are lower."""
        if other.losses is None:
            return False
        return self.losses is None or self.losses.is_clearly_above(other.losses, self.num_separate)


def _mean(own: ScaledForecast, other: ScaledForecast, share: float) -> ScaledForecast:
    """The mean of both, in the unit of the first."""
    shift, factor = (other.loc - own.loc) / own.scale, other.scale / own.scale
    prediction = torch.addcmul(shift[..., None], other.prediction, factor[..., None])
    return own._replace(prediction=torch.lerp(own.prediction, prediction, share))


def trial_steps(config: TrainingConfig) -> int:
    """Steps that a candidate is trained for: all of its budget, within reason."""
    return min(MAX_STEPS, config.fit.max_steps)


def try_network(
    config: TrainingConfig, panel: Panel, splits: Splits, device: torch.device, watch: Watch = SILENT_WATCH,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Trial:  # fmt: skip
    """Forecasts of the validation rows of the splits after a short fit on their training rows.

    Args:
        config: Without nulls that depend on the data.
        panel: The series.
        splits: With rows to train on and rows to compare on.
        device: To train on.
        watch: Told how far it is.
        stop_requested: Asked after every step.
    """
    model, fit = config.model, config.fit.model_copy(update={"max_steps": trial_steps(config)})
    panel, store, network = assemble(config, panel, splits, device)
    data = build_fit_data(config, panel, store, splits, MAX_HELD_OUT_WINDOWS)
    loss = build_loss(fit.loss, network.config.output_levels, model.head)
    optimizer = build_optimizer(config.optimizer, network.parameters(), device)
    rates, norms = LearningRateSchedule(config.optimizer, fit.max_steps), GradientNorms(network)
    generator = torch.Generator().manual_seed(fit.seed)
    network.train()
    watch.start(f"trying {model.network}, context {model.context_length}, {fit.max_steps} steps", fit.max_steps, "steps")
    with share_threads(network, fit) as shares:
        try:
            for step in range(1, fit.max_steps + 1):
                rates.apply(optimizer, step)
                batch = store.gather(*data.windows.sample(fit.batch_size, generator))
                train_step(network, batch, data.floor(batch), loss, optimizer, norms, fit, step, shares=shares)
                watch.advance(1)
                if stop_requested():
                    return Trial()
        except NumericalError:
            return Trial()
        finally:
            watch.stop()
    return _held_out(network, data, loss._replace(unit="series"))


@torch.no_grad()
def _held_out(network: Forecaster, data: FitData, loss: ForecastLoss) -> Trial:
    network.eval()
    forecasts: list[ScaledForecast] = []
    targets: list[tuple[Tensor, Tensor, Tensor]] = []
    for gather in validation_batches(data):
        batch = gather()
        forecasts.append(network.forward_taught(batch.inputs, batch.target, batch.target_mask))
        targets.append((batch.target, batch.target_mask, data.floor(batch)))

    def judge(candidates: Sequence[ScaledForecast]) -> ValidationLoss:
        sums = [loss.window_sums(one, *known) for one, known in zip(candidates, targets, strict=True)]
        return ValidationLoss(*(torch.cat(column).double().cpu() for column in zip(*sums, strict=True)))

    return Trial(judge(forecasts), tuple(forecasts), judge, data.num_separate)
