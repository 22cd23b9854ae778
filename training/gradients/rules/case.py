"""What every rule is handed: evidence, readings and skill, with the questions rules ask of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.config import ScalerName, usual_scaler
from training.gradients.evidence import Evidence, NeedEvidence
from training.gradients.readings import Readings
from training.gradients.rules.skill import Skill, judge_skill
from training.gradients.verdict import Finding, Remedy, Severity

# A robust standard deviation from the median absolute deviation, for normal data.
MAD_TO_SIGMA = 1.4826
NUM_FIFTHS = 5


@dataclass(frozen=True)
class Case:
    """One run before the rules.

    Attributes:
        evidence: Settings, need, data, outcome.
        readings: What was measured.
        skill: Whether the outcome is bad.
    """

    evidence: Evidence
    readings: Readings
    skill: Skill

    @classmethod
    def of(cls, evidence: Evidence, readings: Readings) -> Case:
        """Judge the skill once for all rules."""
        return cls(evidence, readings, judge_skill(evidence, share_still_falling(readings.series("loss/train")[1])))

    def setting(self, key: str) -> Any:
        """A resolved configuration value; None if it is not there."""
        return self.evidence.settings.get(key)

    def values(self, name: str) -> list[float]:
        """One quantity over steps; empty if it was not measured."""
        return self.readings.series(name)[1]

    @property
    def shown_need(self) -> NeedEvidence | None:
        """The need, if falling short of it costs anything."""
        need = self.evidence.need
        return need if need is not None and need.is_shown else None

    @property
    def usual_scaler(self) -> ScalerName:
        """What the head's values are usually scaled by; counts allow no other."""
        return usual_scaler(self.setting("model.head") or "quantile")

    @property
    def visible_steps(self) -> int:
        """How far back training looks: what the recurrence reads, or what truncation leaves of it."""
        context = self.setting("model.recurrent_length") or self.setting("model.context_length") or 0
        truncation = self.setting("fit.tbptt_steps")
        return min(context, truncation) if truncation else context

    def severity(self, signal: Severity = "fault") -> Severity:
        """A signal is a fault only where the outcome is bad, a warning where it is unknown, and else information."""
        if self.skill.is_bad:
            return signal
        return "info" if self.skill.is_known else "warning"

    def finding(
        self,
        rule: str,
        where: str,
        value: float,
        threshold: float,
        message: str,
        remedies: Sequence[Remedy] = (),
        severity: Severity | None = None,
    ) -> Finding:
        """A finding whose sentence ends with the skill, where that is what makes it a fault."""
        chosen = self.severity() if severity is None else severity
        if chosen == "fault" and self.skill.sentence and self.skill.sentence not in message:
            message = f"{message}; {self.skill.sentence}"
        return Finding(
            rule=rule, severity=chosen, where=where, step=self.evidence.step, value=value, threshold=threshold,
            message=f"{message[:1].upper()}{message[1:]}.", remedies=tuple(remedies),
        )  # fmt: skip


def share_still_falling(losses: Sequence[float]) -> float:
    """Share by which the last fifth of a training loss lies below the fifth before; NaN if there are too few points."""
    fifth = len(losses) // NUM_FIFTHS
    if fifth < 2:
        return math.nan
    last, before = median(losses[-fifth:]), median(losses[-2 * fifth : -fifth])
    return 1.0 - last / before if before > 0 else math.nan


def median(values: Sequence[float]) -> float:
    """Median of the finite values; NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan


def robust_sigma(values: Sequence[float]) -> float:
    """Standard deviation by the median absolute deviation."""
    centre = median(values)
    return MAD_TO_SIGMA * median([abs(value - centre) for value in values])


def smoothed(values: Sequence[float], width: int = 5) -> list[float]:
    """Running median over `width` points; the ends use what there is."""
    half = width // 2
    return [median(values[max(0, index - half) : index + half + 1]) for index in range(len(values))]
