"""From evidence and readings to the verdict: every rule speaks, the cause that lies deepest decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from training.gradients.evidence import Evidence
from training.gradients.readings import Readings
from training.gradients.rules import data, learning, steps, through_time, units
from training.gradients.rules.case import Case
from training.gradients.rules.remedies import explosion_remedies, is_badly_scaled, usual_rate
from training.gradients.verdict import Finding, Remedy, Verdict, VerdictName

Rule = Callable[[Case], list[Finding]]

# In the order in which one explains the other: what was so before the first step no step has done; a rate that throws
# weights about also kills units, saturates states and lets the gradient vanish; and whatever is wrong ends in "never
# learned".
RULES: Mapping[Rule, VerdictName] = {
    data.scale: "bad_scale",
    through_time.window_too_short: "window_too_short",
    through_time.exploding_from_start: "exploding",
    units.stuck_from_start: "saturated",
    steps.update_ratio: "bad_learning_rate",
    through_time.exploding_through_time: "exploding",
    steps.clip_dominated: "bad_learning_rate",
    steps.gradient_spike: "exploding",
    steps.divergence: "diverged",
    steps.oscillation: "bad_learning_rate",
    units.dead_units: "dead",
    learning.untrained_parameter: "untrained_parameter",
    through_time.vanishing_through_time: "vanishing",
    through_time.vanishing_through_depth: "vanishing",
    steps.layer_imbalance: "vanishing",
    units.gate_stuck: "saturated",
    units.state_saturation: "saturated",
    through_time.static_memory: "vanishing",
    learning.overfitting: "overfitting",
    data.precision: "vanishing",
    units.dead_decoder: "dead",
    learning.never_learned: "not_learning",
}
_ORDER = {"fault": 0, "warning": 1, "info": 2}


def conclude(evidence: Evidence, readings: Readings) -> Verdict:
    """Apply every rule; nothing but evidence and readings is looked at, so a verdict can be drawn again at any time.

    Args:
        evidence: Settings, need, data and outcome.
        readings: What the instruments measured.

    Returns:
        `healthy` without a fault, `inconclusive` if the outcome is unknown, else the verdict of the fault that explains
        the others; findings by severity, then by that order.
    """
    case = Case.of(evidence, readings)
    found = [(name, finding) for rule, name in RULES.items() for finding in rule(case)]
    found.sort(key=lambda pair: _ORDER[pair[1].severity])
    faults = [name for name, finding in found if finding.severity == "fault"]
    verdict: VerdictName = "healthy" if case.skill.is_known else "inconclusive"
    return Verdict(
        verdict=faults[0] if faults else verdict,
        reach_steps=reach_of(readings, evidence.layers),
        need_steps=evidence.need.steps if evidence.need is not None else None,
        findings=tuple(finding for _, finding in found),
    )


def conclude_non_finite(message: str, where: str, step: int, evidence: Evidence, readings: Readings) -> Verdict:
    """The verdict on a fit that stopped because a number was none.

    Args:
        message: What happened, for the user.
        where: Loss, gradient or layer.
        step: Update it would have been.
        evidence: What is known of the fit; it has no outcome.
        readings: What was measured until then.

    Returns:
        `non_finite`; its first remedy does all at once that kept no number from growing: the recurrence, the rate, the
        limit, and the scale of what goes in.
    """
    case = Case.of(evidence, readings)
    bounded = explosion_remedies(case)
    settings = usual_rate(case) | {"fit.max_grad_norm": 1.0} | bounded[0].set
    if case.setting("model.scaler") == "none" and is_badly_scaled(case):
        settings["model.scaler"] = case.usual_scaler
    first = Remedy(why="bounded steps at a usual rate, in a recurrence and a scale that keep numbers small", set=settings)
    slower = Remedy(why="smaller steps", set=settings | {"optimizer.learning_rate": 1e-4})
    finding = Finding(
        rule="non_finite", severity="fault", where=where, step=step, value=math.inf, threshold=0.0, message=message,
        remedies=(first, slower),
    )  # fmt: skip
    return Verdict(verdict="non_finite", findings=(finding,))


def reach_of(readings: Readings, layers: tuple[str, ...]) -> int | None:
    """Lag out to which a thousandth of the gradient arrives, of the stack or of the only layer, as last measured."""
    name = "stack" if len(layers) > 1 else (layers or ("",))[0]
    reach = readings.last(f"grad_reach/{name}")
    return int(reach) if reach is not None and math.isfinite(reach) else None
