"""Whether the forecasts are bad enough for anything to be called a fault."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.gradients.evidence import TRIVIAL_BASELINES, Evidence, Outcome
from training.gradients.rules.thresholds import DECLARED_SHARE, LEARNABLE_SHARE, LINEAR_FACTOR, TRIVIAL_FACTOR

_WORDS = {
    "naive": "repeating the last value",
    "seasonal_naive": "repeating the last season",
    "mean": "the mean of the window",
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


def judge_skill(evidence: Evidence) -> Skill:
    """Hold the model's validation error against what learns nothing, and against a linear model.

    Args:
        evidence: With the outcome, if it was measured.

    Returns:
        Bad if a linear model is 10 % better where it beats every trivial forecast, if nothing was gained over the
        trivial ones although a need was declared, or if even those are 10 % better.
    """
    outcome = evidence.outcome
    if outcome is None or not math.isfinite(outcome.trivial_error):
        return Skill(False, False, math.nan, math.nan, "")
    if not math.isfinite(outcome.val_error):
        return Skill(True, True, math.inf, TRIVIAL_FACTOR, "the forecasts are no numbers")
    linear = outcome.baseline_error.get("linear", math.inf)
    if linear < LEARNABLE_SHARE * outcome.trivial_error and outcome.val_error > LINEAR_FACTOR * linear:
        return _against(outcome, linear, LINEAR_FACTOR, "that of a linear model")
    trivial = _WORDS[_best_trivial(outcome)]
    declared = evidence.need is not None and evidence.need.source == "declared"
    if declared and outcome.val_error > DECLARED_SHARE * min(outcome.trivial_error, linear):
        if linear < outcome.trivial_error:
            return _against(outcome, linear, DECLARED_SHARE, "that of a linear model, although a need is declared")
        return _against(
            outcome, outcome.trivial_error, DECLARED_SHARE, f"that of {trivial}, although a need is declared"
        )
    is_bad = outcome.val_error > TRIVIAL_FACTOR * outcome.trivial_error
    skill = _against(outcome, outcome.trivial_error, TRIVIAL_FACTOR, f"that of {trivial}")
    return Skill(True, is_bad, skill.ratio, skill.threshold, skill.sentence)


def _best_trivial(outcome: Outcome) -> str:
    return min(TRIVIAL_BASELINES, key=lambda name: outcome.baseline_error.get(name, math.inf))


def _against(outcome: Outcome, error: float, threshold: float, whose: str) -> Skill:
    ratio = outcome.val_error / error if error > 0 else math.inf
    difference = f"{abs(ratio - 1):.0%} {'above' if ratio >= 1 else 'below'}" if ratio < 10 else f"{ratio:.3g} times"
    sentence = (
        f"its validation {outcome.metric.upper()} of {outcome.val_error:.4g} is {difference} {whose} ({error:.4g})"
    )
    return Skill(True, True, ratio, threshold, sentence)
