"""Rules on gates, states and units that no longer move."""

from __future__ import annotations

from training.gradients.rules.case import Case
from training.gradients.rules.remedies import longer_memory, usual_rate
from training.gradients.rules.thresholds import CONFIRMATIONS, MOST_UNITS
from training.gradients.verdict import Finding, Remedy

# Gates through which a state is kept: open for good they are memory, not damage.
KEEP_GATES = (".forget", ".update")


def gate_stuck(case: Case) -> list[Finding]:
    """Most gates of a layer are beyond the slope of their sigmoid, or shut."""
    findings = []
    for name in case.readings.names("gate/"):
        key, _, quantity = name.rpartition(".")
        is_stuck = quantity == "shut" or (quantity == "saturated" and not key.endswith(KEEP_GATES))
        share = _confirmed(case, name)
        if not is_stuck or share <= MOST_UNITS:
            continue
        where = key.removeprefix("gate/")
        word = "shut" if quantity == "shut" else "beyond the slope of their nonlinearity"
        message = f"{share:.0%} of the units' gates {where} are {word}"
        findings.append(case.finding("gate_stuck", where, share, MOST_UNITS, message, _unstick(case)))
    return findings[:1]


def state_saturation(case: Case) -> list[Finding]:
    """Most states sit at their bounds, where tanh passes nothing."""
    findings = []
    for name in case.readings.names("state/"):
        share = _confirmed(case, name)
        if name.endswith(".saturated") and share > MOST_UNITS:
            where = name.removeprefix("state/").removesuffix(".saturated")
            message = f"{share:.0%} of the units of {where} are beyond 0.99 at most steps"
            findings.append(case.finding("state_saturation", where, share, MOST_UNITS, message, _unstick(case)))
    return findings


def dead_units(case: Case) -> list[Finding]:
    """Most ReLU units never fire."""
    findings = []
    for name in case.readings.names("state/"):
        share = _confirmed(case, name)
        if name.endswith(".dead") and share > MOST_UNITS:
            where = name.removeprefix("state/").removesuffix(".dead")
            message = f"{share:.0%} of the ReLU units of {where} are positive in under 1 % of places"
            settings = usual_rate(case)
            if where.startswith("rnn."):
                settings |= {"model.nonlinearity": "tanh", "model.initialization": "orthogonal"}
            remedy = Remedy(why="units that pass a gradient, and steps that do not kill them", set=settings)
            findings.append(case.finding("dead_units", where, share, MOST_UNITS, message, [remedy]))
    return findings


def _unstick(case: Case) -> list[Remedy]:
    settings = dict(usual_rate(case))
    for key in ("model.forget_bias", "model.init_gain"):
        if case.setting(key) is not None:
            settings[key] = None
    if case.setting("model.scaler") == "none":
        settings["model.scaler"] = case.usual_scaler
    settings["model.initialization"] = "forget_bias" if case.setting("model.architecture") == "lstm" else "orthogonal"
    need = case.shown_need
    first = Remedy(why="gates and states that start where they can move", set=settings)
    return [first, *(longer_memory(case, need.steps)[:1] if need else ())]


def _confirmed(case: Case, name: str) -> float:
    """Smallest of the last measurements; 0 while there are too few."""
    values = case.values(name)
    return min(values[-CONFIRMATIONS:]) if len(values) >= CONFIRMATIONS else 0.0
