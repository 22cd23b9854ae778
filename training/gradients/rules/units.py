"""Rules on gates, states and units that no longer move."""

from __future__ import annotations

from collections.abc import Callable

from training.gradients.rules.case import Case
from training.gradients.rules.remedies import (
    GATED,
    GOOD_RATE,
    PLAIN,
    TORCH_REACH,
    is_badly_scaled,
    longer_memory,
    usual_rate,
)
from training.gradients.rules.thresholds import CONFIRMATIONS, MOST_UNITS
from training.gradients.verdict import Finding, Remedy

# Gates through which a state is kept: open for good they are memory, not damage.
KEEP_GATES = (".forget", ".update")
DECODER = "decoder"
ShareOf = Callable[[Case, str], float]


def stuck_from_start(case: Case) -> list[Finding]:
    """Most gates or states of a layer cannot move before the first update: no rate has done that."""
    found = _stuck_gates(case, _first) + _saturated_states(case, _first)
    return [finding.model_copy(update={"message": f"Before the first step {_lower(finding.message)}"}) for finding in found[:1]]


def gate_stuck(case: Case) -> list[Finding]:
    """Most gates of a layer are beyond the slope of their sigmoid, or shut."""
    return [] if stuck_from_start(case) else _stuck_gates(case, _confirmed)[:1]


def state_saturation(case: Case) -> list[Finding]:
    """Most states sit at their bounds, where tanh passes nothing."""
    return [] if stuck_from_start(case) else _saturated_states(case, _confirmed)


def dead_units(case: Case) -> list[Finding]:
    """Most ReLU units of the recurrence never fire."""
    return [finding for finding in _dead(case) if finding.where != DECODER]


def dead_decoder(case: Case) -> list[Finding]:
    """Most ReLU units between state and head never fire: mostly because nothing worth firing for arrives."""
    return [finding for finding in _dead(case) if finding.where == DECODER]


def _stuck_gates(case: Case, share_of: ShareOf) -> list[Finding]:
    findings = []
    for name in case.readings.names("gate/"):
        key, _, quantity = name.rpartition(".")
        keeps = key.endswith(KEEP_GATES)
        # Chrono shuts the input gates of its slow units: that is their memory.
        by_design = case.setting("model.initialization") == "chrono" and not keeps
        is_stuck = (quantity == "shut" and not by_design) or (quantity == "saturated" and not keeps)
        share = share_of(case, name)
        if not is_stuck or share <= MOST_UNITS:
            continue
        where = key.removeprefix("gate/")
        word = "shut" if quantity == "shut" else "beyond the slope of their nonlinearity"
        message = f"{share:.0%} of the units' gates {where} are {word}"
        findings.append(case.finding("gate_stuck", where, share, MOST_UNITS, message, _unstick(case)))
    return findings


def _saturated_states(case: Case, share_of: ShareOf) -> list[Finding]:
    findings = []
    for name in case.readings.names("state/"):
        share = share_of(case, name)
        if name.endswith(".saturated") and share > MOST_UNITS:
            where = name.removeprefix("state/").removesuffix(".saturated")
            message = f"{share:.0%} of the units of {where} are beyond 0.99 at most steps"
            findings.append(case.finding("state_saturation", where, share, MOST_UNITS, message, _unstick(case)))
    return findings


def _dead(case: Case) -> list[Finding]:
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
    rate = case.setting("optimizer.learning_rate") or GOOD_RATE
    settings = dict(usual_rate(case)) if rate > 2 * GOOD_RATE or case.setting("optimizer.name") in PLAIN else {}
    for key in ("model.forget_bias", "model.init_gain"):
        if case.setting(key) is not None:
            settings[key] = None
    if case.setting("model.scaler") == "none" and is_badly_scaled(case):
        settings["model.scaler"] = case.usual_scaler
    need = case.shown_need
    if case.setting("model.architecture") not in GATED:
        settings["model.initialization"] = "orthogonal"
    else:
        settings["model.initialization"] = "chrono" if need is not None and need.steps > TORCH_REACH else "forget_bias"
    first = Remedy(why="gates and states that start where they can move", set=settings)
    return [first, *(longer_memory(case, need.steps)[:1] if need else ())]


def _confirmed(case: Case, name: str) -> float:
    """Smallest of the last measurements; 0 while there are too few."""
    values = case.values(name)
    return min(values[-CONFIRMATIONS:]) if len(values) >= CONFIRMATIONS else 0.0


def _first(case: Case, name: str) -> float:
    """The measurement before the first update; 0 if there is none."""
    steps, values = case.readings.series(name)
    return values[0] if steps[:1] == [0] else 0.0


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
