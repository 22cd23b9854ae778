"""Rules on whether anything was learned at all."""

from __future__ import annotations

import itertools
import math

from training.gradients.rules.case import Case, robust_sigma, share_still_falling, smoothed
from training.gradients.rules.remedies import ADAPTIVE, GATED, GOOD_RATE, more_steps, one_layer, unset, usual_rate
from training.gradients.rules.thresholds import (
    EARLIEST_SHARE,
    OVERFIT_CHECKS,
    OVERFIT_FACTOR,
    OVERFIT_SIGMAS,
    STEEP_FALL,
    STILL_FALLING,
    UNTRAINED_POINTS,
)
from training.gradients.verdict import Finding, Remedy


def untrained_parameter(case: Case) -> list[Finding]:
    """A parameter that never received a gradient."""
    findings = []
    for name in case.readings.names("grad_norm/"):
        norms = case.values(name)
        if len(norms) >= UNTRAINED_POINTS and not any(norms):
            where = name.removeprefix("grad_norm/")
            message = f"{where} never received a gradient in {len(norms)} logged steps: it is not being trained"
            remedy = Remedy(
                why="start where units are active", set={"model.initialization": "torch"} | usual_rate(case)
            )
            findings.append(case.finding("untrained_parameter", where, 0.0, 0.0, message, [remedy]))
    return findings


def overfitting(case: Case) -> list[Finding]:
    """Validation rises from its own best, beyond its noise, while training goes on falling."""
    steps, validation = case.readings.series("loss/val")
    training = smoothed(case.values("loss/train"))
    if len(validation) <= OVERFIT_CHECKS or len(training) < 2 * OVERFIT_CHECKS:
        return []
    best = min(validation)
    position = validation.index(best)
    after = validation[position + 1 :]
    changes = [b - a for a, b in itertools.pairwise(validation)]
    limit = max(OVERFIT_FACTOR * best, best + OVERFIT_SIGMAS * robust_sigma(changes) if len(changes) > 4 else best)
    rising = len(after) >= OVERFIT_CHECKS and min(after[-OVERFIT_CHECKS:]) > limit
    if not (rising and training[-1] < training[len(training) // 2]):
        return []
    factor = min(after[-OVERFIT_CHECKS:]) / best
    message = (
        f"the validation loss rose {factor - 1:.0%} from its best at step {steps[position]} while training fell on"
    )
    hidden = case.setting("model.hidden_size") or 64
    remedies = [
        Remedy(
            why="a smaller network that forgets at random",
            set={"model.dropout": 0.3, "model.hidden_size": max(hidden // 2, 8), "optimizer.weight_decay": 0.1},
        ),
        Remedy(why="decay and dropout", set={"model.dropout": 0.2, "optimizer.weight_decay": 0.01}),
    ]
    return [case.finding("overfitting", "loss/val", factor, OVERFIT_FACTOR, message, remedies)]


def never_learned(case: Case) -> list[Finding]:
    """The outcome is bad and no other rule has said why; what the loss did decides what to try first."""
    budget = case.setting("fit.max_steps") or case.evidence.step
    if not case.skill.is_bad or (case.evidence.step < EARLIEST_SHARE * budget and not case.evidence.best_step):
        return []
    still = share_still_falling(case.values("loss/train"))
    # A loss of which hardly a point was logged is one that was given no time.
    is_short = still > STEEP_FALL or math.isnan(still)
    remedies = [more_steps(case)] if is_short else []
    rate = case.setting("optimizer.learning_rate") or math.inf
    plain = case.setting("optimizer.name") not in ADAPTIVE
    if plain or not 3e-4 <= rate <= 1e-2:
        remedies.append(Remedy(why="a rate that adaptive optimizers usually train with", set=usual_rate(case)))
    elif still > STILL_FALLING and rate < GOOD_RATE:
        remedies.append(
            Remedy(why="the loss falls steadily, so larger steps may get there in time", set=usual_rate(case))
        )
    if STILL_FALLING < still <= STEEP_FALL:
        remedies.append(more_steps(case))
    if case.setting("model.architecture") not in GATED:
        remedies.append(
            Remedy(
                why="gates carry a state unchanged",
                set={"model.architecture": "lstm", "model.initialization": "forget_bias"} | unset(case, "model.dilations"),
            )
        )
    if case.setting("model.scaler") != case.usual_scaler:
        remedies.append(Remedy(why="scale every window", set={"model.scaler": case.usual_scaler}))
    if (case.setting("model.num_layers") or 1) > 1:
        remedies.append(Remedy(why="fewer layers learn faster", set=one_layer(case)))
    if not (still > STILL_FALLING or is_short):
        remedies.append(more_steps(case).model_copy(update={"why": "plateaus can end abruptly"}))
    course = "was still falling" if still > STILL_FALLING else "lies on a plateau"
    message = f"there is more to learn than was learned: {case.skill.sentence}; the training loss {course}"
    return [case.finding("never_learned", "val/mae", case.skill.ratio, case.skill.threshold, message, remedies)]
