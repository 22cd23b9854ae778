"""Everything the rules look at besides the readings: settings, need, facts about the data, and the outcome."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from training.gradients.need import Need

TRIVIAL_BASELINES = ("naive", "seasonal_naive", "mean", "median")


class _Frozen(BaseModel):
    # Infinity is a value here (a fit that failed has that error), and JSON has no number for it.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class NeedEvidence(_Frozen):
    """How far back the data pays.

    Attributes:
        steps: Smallest context that holds what pays.
        source: Where the number comes from.
        is_shown: Whether a shorter reach would cost anything.
        gain: Share of a linear model's error that the far half of the need takes away; 0 if declared.
        contexts: Contexts tried, in steps.
        errors: A linear model's validation error with each, in units of a window's spread.
    """

    steps: int
    source: Literal["declared", "ridge", "season"]
    is_shown: bool
    gain: float = 0.0
    contexts: tuple[int, ...] = ()
    errors: tuple[float, ...] = ()

    @classmethod
    def of(cls, need: Need) -> NeedEvidence:
        """As `estimate_need` found it."""
        gain = need.evidence.get("gain", 0.0)
        return cls(
            steps=need.steps, source=need.source, is_shown=need.is_shown, gain=gain, contexts=need.contexts,
            errors=need.errors,
        )  # fmt: skip


class DataFacts(_Frozen):
    """Sizes of what the network reads, over the training rows.

    Attributes:
        level: Median over series of the median of abs(y), in the unit of y.
        spread: Median over series of the standard deviation, in the unit of y.
        outlier_ratio: 99.9 % quantile of abs(y - median) over the interquartile range, median over series.
        channel_ratio: Largest over smallest spread of the channels the recurrence reads, after scaling.
    """

    level: float
    spread: float
    outlier_ratio: float
    channel_ratio: float


class Outcome(_Frozen):
    """How good the forecasts are on validation: no fault is declared from the gradient alone.

    Attributes:
        metric: `mase`, where the series have a scale, so that large series do not decide alone; else `mae`.
        val_error: Of the model.
        baseline_error: On the same windows, of `naive`, `seasonal_naive`, `linear`, `mean` (of the window) and
            `median` (of the series' training rows).
        step: Update after which it was measured.
    """

    metric: Literal["mase", "mae"]
    val_error: float
    baseline_error: dict[str, float]
    step: int

    @property
    def trivial_error(self) -> float:
        """Of the best forecast that learns nothing; infinite if there is none."""
        errors = (self.baseline_error.get(name, math.inf) for name in TRIVIAL_BASELINES)
        return min((error for error in errors if math.isfinite(error)), default=math.inf)


class Evidence(_Frozen):
    """One run as the rules see it.

    Attributes:
        settings: The resolved configuration, flat: `model.hidden_size` and so on.
        layers: Recurrent layers, from the input on.
        need: How far back the data pays; None if nobody knows.
        data: Facts about the data; None if there are none.
        outcome: Skill; None while it has not been measured.
        past_gain: Share of the model's loss that what lies beyond half of the need takes away, by permutation; to be
            held against `need.gain`, a linear model's. None while it has not been measured.
        step: Updates done.
        best_step: Update with the lowest validation loss.
    """

    settings: dict[str, Any]
    layers: tuple[str, ...] = ()
    need: NeedEvidence | None = None
    data: DataFacts | None = None
    outcome: Outcome | None = None
    past_gain: float | None = None
    step: int = 0
    best_step: int = 0
