"""Whether the forecasts are bad enough for anything to be called a fault."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from training.gradients.evidence import TRIVIAL_BASELINES, Evidence, Outcome
from training.gradients.rules.thresholds import (
    ATTAINABLE_MISSING,
    ATTAINABLE_SHARE,
    DECLARED_FALLING_SHARE,
    DECLARED_SHARE,
    LEARNABLE_SHARE,
    LINEAR_FACTOR,
    MISSING_OF_CONSTANT,
    MISSING_SHARE,
    STEEP_FALL,
    TRIVIAL_FACTOR,
)

_WORDS = {
    "naive": "repeating the last value",
    "seasonal_naive": "repeating the last season",
    "mean": "the mean of the window",
    "median": "the median of the series",
}


@dataclass(frozen=True)
class Skill:
    """The outcome in a sentence.

    Attributes:
        is_known: Whether it was measured.
        is_bad: Whether the model is worse than it could easily be.
        ratio: Its error over that of the forecast it was held against.
        threshold: Above which it is bad.
        sentence: What the user reads.
    """

    is_known: bool
    is_bad: bool
    ratio: float
    threshold: float
    sentence: str


def judge_skill(evidence: Evidence, falling: float = math.nan) -> Skill:
    """Hold the model's validation error against what learns nothing, and against a linear model.

    Args:
        evidence: With the outcome, if it was measured.
        falling: Share by which the training loss fell over the last fifth of the run.

    Returns:
        Bad if a linear model is better by 10 %, and by more than a small share of what there is to gain, where it beats
        every trivial forecast; if nothing was gained over the trivial ones although a need was declared; or if even
        those are 10 % better.
    """
    outcome = evidence.outcome
    if outcome is None or not math.isfinite(outcome.trivial_error):
        return Skill(False, False, math.nan, math.nan, "")
    if not math.isfinite(outcome.val_error):
        return Skill(True, True, math.inf, TRIVIAL_FACTOR, "the forecasts are no numbers")
    trivial, linear = outcome.trivial_error, _linear_reference(evidence, outcome)
    if linear.error < LEARNABLE_SHARE * trivial:
        constant = outcome.baseline_error.get("mean", trivial)
        missing = (linear.missing * (trivial - linear.error), MISSING_OF_CONSTANT * (constant - linear.error))
        if outcome.val_error > linear.error + max((LINEAR_FACTOR - 1) * linear.error, *missing):
            return _against(outcome, linear.error, LINEAR_FACTOR, linear.whose)
    declared = evidence.need is not None and evidence.need.source == "declared"
    share = DECLARED_FALLING_SHARE if falling > STEEP_FALL else DECLARED_SHARE
    if declared and outcome.val_error > share * min(trivial, linear.error):
        if linear.error < trivial:
            return _against(outcome, linear.error, share, f"{linear.whose}, although a need is declared")
        words = _WORDS[_best_trivial(outcome)]
        return _against(outcome, trivial, share, f"that of {words}, although a need is declared")
    is_bad = outcome.val_error > TRIVIAL_FACTOR * trivial
    skill = _against(outcome, trivial, TRIVIAL_FACTOR, f"that of {_WORDS[_best_trivial(outcome)]}")
    return Skill(True, is_bad, skill.ratio, skill.threshold, skill.sentence)


class _Reference(NamedTuple):
    """What a linear model reaches.

    Attributes:
        error: In the metric of the outcome.
        missing: Share of its gain over the best trivial forecast that a network may miss.
        whose: Whose error it is, in words.
    """

    error: float
    missing: float
    whose: str


def _linear_reference(evidence: Evidence, outcome: Outcome) -> _Reference:
    """The linear baseline, or what the regression behind the need found attainable where that is far better.

    That regression sees past covariates and beyond the network's context, which the baseline does not; its error counts
    as a share of the constant forecast's.
    """
    baseline, need = outcome.baseline_error.get("linear", math.inf), evidence.need
    if need is not None and need.errors and need.contexts[0] == 0 and need.errors[0] > 0:
        constant = "median" if evidence.settings.get("model.scaler") == "none" else "mean"
        attainable = outcome.baseline_error.get(constant, math.inf) * need.errors[-1] / need.errors[0]
        if attainable < ATTAINABLE_SHARE * baseline:
            whose = f"what a linear model with a context of {need.contexts[-1]} reaches"
            return _Reference(attainable, ATTAINABLE_MISSING, whose)
    return _Reference(baseline, MISSING_SHARE, "that of a linear model")


def _best_trivial(outcome: Outcome) -> str:
    return min(TRIVIAL_BASELINES, key=lambda name: outcome.baseline_error.get(name, math.inf))


def _against(outcome: Outcome, error: float, threshold: float, whose: str) -> Skill:
    ratio = outcome.val_error / error if error > 0 else math.inf
    difference = f"{abs(ratio - 1):.0%} {'above' if ratio >= 1 else 'below'}" if ratio < 10 else f"{ratio:.3g} times"
    sentence = (
        f"its validation {outcome.metric.upper()} of {outcome.val_error:.4g} is {difference} {whose} ({error:.4g})"
    )
    return Skill(True, True, ratio, threshold, sentence)
