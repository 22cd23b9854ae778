"""Whether the forecasts are bad enough for anything to be called a fault."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.gradients.evidence import TRIVIAL_BASELINES, Evidence, Outcome
from training.gradients.rules.thresholds import (
    DECLARED_FALLING_SHARE,
    DECLARED_SHARE,
    LEARNABLE_SHARE,
    LINEAR_FACTOR,
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
        Bad if a linear model is better by 10 %, and by 15 % of what there is to gain, where it beats every trivial
        forecast; if nothing was gained over the trivial ones although a need was declared; or if even those are 10 %
        better.
    """
    outcome = evidence.outcome
    if outcome is None or not math.isfinite(outcome.trivial_error):
        return Skill(False, False, math.nan, math.nan, "")
    if not math.isfinite(outcome.val_error):
        return Skill(True, True, math.inf, TRIVIAL_FACTOR, "the forecasts are no numbers")
    trivial = outcome.trivial_error
    linear, whose = _linear_error(evidence, outcome)
    if linear < LEARNABLE_SHARE * trivial:
        limit = linear + max((LINEAR_FACTOR - 1) * linear, MISSING_SHARE * (trivial - linear))
        if outcome.val_error > limit:
            return _against(outcome, linear, LINEAR_FACTOR, whose)
    declared = evidence.need is not None and evidence.need.source == "declared"
    share = DECLARED_FALLING_SHARE if falling > STEEP_FALL else DECLARED_SHARE
    if declared and outcome.val_error > share * min(trivial, linear):
        if linear < trivial:
            return _against(outcome, linear, share, f"{whose}, although a need is declared")
        words = _WORDS[_best_trivial(outcome)]
        return _against(outcome, trivial, share, f"that of {words}, although a need is declared")
    is_bad = outcome.val_error > TRIVIAL_FACTOR * trivial
    skill = _against(outcome, trivial, TRIVIAL_FACTOR, f"that of {_WORDS[_best_trivial(outcome)]}")
    return Skill(True, is_bad, skill.ratio, skill.threshold, skill.sentence)


def _linear_error(evidence: Evidence, outcome: Outcome) -> tuple[float, str]:
    """The better of two linear models: the baseline, and what the regression behind the need found attainable.

    That regression sees past covariates and beyond the network's context, which the baseline does not; its error counts
    as a share of the constant forecast's.
    """
    baseline, need = outcome.baseline_error.get("linear", math.inf), evidence.need
    if need is None or not need.errors or need.contexts[0] != 0 or need.errors[0] <= 0:
        return baseline, "that of a linear model"
    constant = "median" if evidence.settings.get("model.scaler") == "none" else "mean"
    attainable = outcome.baseline_error.get(constant, math.inf) * min(need.errors) / need.errors[0]
    if attainable < baseline:
        return attainable, f"what a linear model with a context of {need.contexts[-1]} reaches"
    return baseline, "that of a linear model"


def _best_trivial(outcome: Outcome) -> str:
    return min(TRIVIAL_BASELINES, key=lambda name: outcome.baseline_error.get(name, math.inf))


def _against(outcome: Outcome, error: float, threshold: float, whose: str) -> Skill:
    ratio = outcome.val_error / error if error > 0 else math.inf
    difference = f"{abs(ratio - 1):.0%} {'above' if ratio >= 1 else 'below'}" if ratio < 10 else f"{ratio:.3g} times"
    sentence = (
        f"its validation {outcome.metric.upper()} of {outcome.val_error:.4g} is {difference} {whose} ({error:.4g})"
    )
    return Skill(True, True, ratio, threshold, sentence)
