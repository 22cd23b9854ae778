"""The learning-rate range test (Smith 2017, 1506.01186): every step a higher rate, and where the loss is lowest.

A tenth of the rate with the lowest loss is suggested. The rate of the steepest fall, the other usual choice, was taken in
by the noise of the first steps on weekly gasoline sales (1e-6, where 6e-3 trains).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from training.config import TrainingConfig
from training.errors import NumericalError
from training.loop import Fit, train_step
from training.pipeline import build_fit
from training.plots import BLUE, FAINT, INK, VERMILION, build_figure, legend_on_top, style_axis
from training.preparation import prepare
from training.progress import SILENT_PROGRESS
from training.run_directory import RunDirectory
from training.shares import Shares, share_threads
from training.tracking.tracker import NOOP_TRACKER

LOWEST_RATE, HIGHEST_RATE, NUM_STEPS = 1e-6, 10.0, 200
# Share of the old mean that a new loss keeps; a twentieth of the test is remembered.
MEMORY = 0.9
# The suggestion lies this far below the rate with the lowest loss: at that one, rising noise and falling loss just balance.
MARGIN = 10.0
# Smoothed loss above this multiple of its best: the rate has broken the network, no higher one is worth a step.
BROKEN_FACTOR = 4.0
# A smaller fall is what the noise of the batches does by itself.
SMALLEST_FALL = 0.05


@dataclass(frozen=True)
class RateTest:
    """What a range test saw.

    Attributes:
        rates: Learning rate of every step, increasing.
        losses: Training loss at each, before the step.
        smoothed: Their exponential mean, without the bias of its beginning.
        suggestion: Learning rate to train with; None if no rate lowered the loss.
        is_broken: Whether the test ended because the loss did.
    """

    rates: Float[np.ndarray, " T"]
    losses: Float[np.ndarray, " T"]
    smoothed: Float[np.ndarray, " T"]
    suggestion: float | None
    is_broken: bool

    @property
    def lowest(self) -> float:
        """Rate with the lowest smoothed loss."""
        return float(self.rates[int(np.argmin(self.smoothed))])

    def sentence(self) -> str:
        """The suggestion and what it rests on."""
        if self.suggestion is None:
            return (
                f"No rate from {self.rates[0]:.1e} to {self.rates[-1]:.1e} lowered the loss by more than "
                f"{SMALLEST_FALL:.0%}: look at the data and the scaler before the rate (gradcast preflight)."
            )
        end = f"breaks at {self.rates[-1]:.2g}" if self.is_broken else f"has not broken by {self.rates[-1]:.2g}"
        return (
            f"Try a learning rate of {self.suggestion:.2g}, a tenth of {self.lowest:.2g}, where the loss is lowest; it {end}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `lr-find --json`."""
        return {
            "suggestion": self.suggestion,
            "sentence": self.sentence(),
            "lowest_loss_at": self.lowest,
            "is_broken": self.is_broken,
            "rates": [float(f"{rate:.4g}") for rate in self.rates],
            "losses": self.losses.tolist(),
            "smoothed": self.smoothed.tolist(),
        }


def find_rate(
    config: TrainingConfig,
    say: Callable[[str], None],
    lowest_rate: float = LOWEST_RATE,
    highest_rate: float = HIGHEST_RATE,
    num_steps: int = NUM_STEPS,
) -> RateTest:
    """Train from the beginning with a rate that grows by the same factor every step; nothing is kept of it.

    Args:
        config: As for training; optimizer, clipping and batch size are used, the schedule is not.
        say: Told every choice.
        lowest_rate: Of the first step.
        highest_rate: Of the last step.
        num_steps: Steps in all.

    Returns:
        Losses over rates, with a suggestion.
    """
    prepared = prepare(config)
    for note in prepared.notes:
        say(note)
    # Nothing is written: a fit writes at its checks, and none is reached here.
    fit, _judge = build_fit(prepared, RunDirectory(Path("lr-find")), NOOP_TRACKER, SILENT_PROGRESS)
    rates = np.geomspace(lowest_rate, highest_rate, num_steps)
    losses = _losses(fit, rates)
    return read_test(rates[: len(losses)], np.array(losses), is_broken=len(losses) < num_steps)


def _losses(fit: Fit, rates: Float[np.ndarray, " T"]) -> list[float]:
    with share_threads(fit.forecaster, fit.fit) as shares:
        return _losses_in(shares, fit, rates)


def _losses_in(shares: Shares, fit: Fit, rates: Float[np.ndarray, " T"]) -> list[float]:
    fit.forecaster.train()
    losses: list[float] = []
    mean, best = 0.0, math.inf
    for step, rate in enumerate(rates, start=1):
        for group in fit.optimizer.param_groups:
            group["lr"] = float(rate)
        batch = fit.data.store.gather(*fit.data.windows.sample(fit.fit.batch_size, fit.generator))
        floor = fit.data.floor(batch)
        try:
            reading = train_step(
                fit.forecaster, batch, floor, fit.loss_function, fit.optimizer, fit.gradient_norms, fit.fit, step,
                shares=shares,
            )
        except NumericalError:
            break
        losses.append(reading.loss.item())
        mean = MEMORY * mean + (1 - MEMORY) * losses[-1]
        smoothed = mean / (1 - MEMORY**step)
        best = min(best, smoothed)
        if smoothed > BROKEN_FACTOR * best:
            break
    return losses


def read_test(rates: Float[np.ndarray, " T"], losses: Float[np.ndarray, " T"], is_broken: bool) -> RateTest:
    """Smooth the losses and find where they are lowest.

    Args:
        rates: Learning rate of every step, increasing by a constant factor.
        losses: Training loss at each.
        is_broken: Whether the test ended because the loss did.

    Returns:
        The test; without a suggestion if the smoothed loss never falls by more than a twentieth of its beginning.
    """
    smoothed = smooth(losses)
    lowest = int(np.argmin(smoothed))
    start = float(smoothed[: max(len(smoothed) // 20, 1)].mean())
    if lowest < 2 or start - smoothed[lowest] < SMALLEST_FALL * abs(start):
        return RateTest(rates, losses, smoothed, None, is_broken)
    return RateTest(rates, losses, smoothed, float(rates[lowest]) / MARGIN, is_broken)


def smooth(losses: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Exponential mean, divided by the weight it has gathered so that its beginning is not drawn to zero."""
    mean, means = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = MEMORY * mean + (1 - MEMORY) * float(loss)
        means.append(mean / (1 - MEMORY**step))
    return np.array(means)


def plot_rate_test(test: RateTest) -> Figure:
    """Loss over learning rate, raw and smoothed, with the suggestion and the lowest loss."""
    figure = build_figure(7.6, 3.8)
    axis = figure.subplots()
    style_axis(axis)
    axis.plot(test.rates, test.losses, color=FAINT, lw=0.8, alpha=0.6, label="loss of each step")
    axis.plot(test.rates, test.smoothed, color=BLUE, lw=1.8, label="smoothed")
    if test.suggestion is not None:
        label = f"suggestion {test.suggestion:.2g}"
        axis.axvline(test.suggestion, color=VERMILION, lw=1.3, label=label)
    axis.set_xscale("log")
    low = float(min(test.smoothed.min(), np.quantile(test.losses, 0.02)))
    high = float(test.smoothed[: max(len(test.smoothed) // 2, 1)].max())
    axis.set_ylim(low - 0.1 * (high - low), high + 0.6 * (high - low))
    axis.set_xlabel("learning rate", color=INK, fontsize=9)
    axis.set_ylabel("training loss", color=INK, fontsize=9)
    legend_on_top(figure, axis)
    return figure
