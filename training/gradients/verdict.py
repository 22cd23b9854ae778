"""What the readings and the outcome say about a run, in words a user can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.gradients.readings import Readings

VerdictName = Literal[
    "healthy", "vanishing", "exploding", "saturated", "dead", "diverged", "non_finite", "not_learning", "overfitting",
    "window_too_short", "bad_scale", "untrained_parameter", "bad_learning_rate", "inconclusive",
]  # fmt: skip
Severity = Literal["info", "warning", "fault"]

# Worse than the linear model by this factor, where that beats the naive forecast: there was more to learn.
NOT_LEARNED_FACTOR = 1.1
# Training loss above this multiple of its best, still there at the end.
DIVERGED_FACTOR = 2.0
# Consecutive logged steps without any gradient that make a parameter untrained.
UNTRAINED_STEPS = 3


class Remedy(BaseModel):
    """A change of settings and why it should help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    set: dict[str, Any] = Field(default_factory=dict)


class Finding(BaseModel):
    """One rule's conclusion with its number.

    Attributes:
        rule: Stable name of the rule.
        severity: `info`, `warning` or `fault`.
        where: Layer or quantity.
        step: Step at which it was seen.
        value: The measured number.
        threshold: What it was compared with.
        message: The sentence for the user.
        remedies: Settings that address it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    severity: Severity
    where: str
    step: int
    value: float
    threshold: float
    message: str
    remedies: tuple[Remedy, ...] = ()


class Verdict(BaseModel):
    """The verdict on a run; anything but healthy or inconclusive rests on a finding of severity `fault`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: VerdictName
    reach_steps: int | None = None
    need_steps: int | None = None
    findings: tuple[Finding, ...] = ()


class Outcome(BaseModel):
    """How good the forecasts were: no fault is declared from the gradient alone.

    Attributes:
        val_mae: Of the model on validation, in the unit of `y`.
        baseline_mae: Of the baselines on the same windows.
        step: Last step of the fit.
    """

    val_mae: float
    baseline_mae: dict[str, float]
    step: int


def conclude(readings: Readings, outcome: Outcome, need_steps: int | None) -> Verdict:
    """Apply the rules that norms, losses and the outcome allow.

    Args:
        readings: Losses and gradient norms over steps.
        outcome: Skill on the validation part.
        need_steps: How far back the data is known to reach, if it is.

    Returns:
        The verdict with its findings, worst first.
    """
    found = [*_untrained(readings), *_diverged(readings), *_not_learning(outcome)]
    faults = [finding for finding in found if finding.severity == "fault"]
    names: Mapping[str, VerdictName] = {
        "untrained_parameter": "untrained_parameter",
        "divergence": "diverged",
        "never_learned": "not_learning",
    }
    verdict: VerdictName = names[faults[0].rule] if faults else "healthy"
    return Verdict(verdict=verdict, need_steps=need_steps, findings=tuple(found))


def _untrained(readings: Readings) -> list[Finding]:
    findings = []
    for name in readings.names():
        if not name.startswith("grad_norm/"):
            continue
        steps, norms = readings.series(name)
        if len(norms) >= UNTRAINED_STEPS and not any(norms):
            where = name.removeprefix("grad_norm/")
            message = f"{where} never received a gradient in {len(norms)} logged steps: it is not being trained."
            findings.append(
                Finding(
                    rule="untrained_parameter", severity="fault", where=where, step=steps[-1], value=0.0, threshold=0.0,
                    message=message,
                    remedies=(Remedy(why="start where units are active", set={"model.initialization": "torch"}),),
                )
            )  # fmt: skip
    return findings


def _diverged(readings: Readings) -> list[Finding]:
    steps, losses = readings.series("loss/val")
    if len(losses) < UNTRAINED_STEPS:
        return []
    last = min(losses[-UNTRAINED_STEPS:])
    best = min(losses)
    _, train = readings.series("loss/train")
    if last <= DIVERGED_FACTOR * best or train[-1] <= DIVERGED_FACTOR * min(train):
        return []
    message = f"the last {UNTRAINED_STEPS} validation losses are at least {last / best:.1f} times the best one."
    remedy = Remedy(
        why="smaller steps with a warm-up", set={"optimizer.learning_rate": 1e-3, "optimizer.warmup_steps": 100}
    )
    return [
        Finding(
            rule="divergence", severity="fault", where="loss/val", step=steps[-1], value=last / best,
            threshold=DIVERGED_FACTOR, message=message, remedies=(remedy,),
        )
    ]  # fmt: skip


def _not_learning(outcome: Outcome) -> list[Finding]:
    naive, linear = outcome.baseline_mae.get("naive"), outcome.baseline_mae.get("linear")
    if naive is None or linear is None or not linear < naive or outcome.val_mae <= NOT_LEARNED_FACTOR * linear:
        return []
    message = (
        f"validation MAE {outcome.val_mae:.4g} is {outcome.val_mae / linear - 1:.0%} above that of a linear model "
        f"({linear:.4g}; repeating the last value: {naive:.4g}): there is more to learn than was learned."
    )
    remedies = (
        Remedy(why="more steps", set={"fit.max_steps": 2 * outcome.step}),
        Remedy(why="a rate that adaptive optimizers usually train with", set={"optimizer.learning_rate": 1e-3}),
        Remedy(why="scale every window", set={"model.scaler": "standard"}),
    )
    return [
        Finding(
            rule="never_learned",
            severity="fault",
            where="val/mae",
            step=outcome.step,
            value=outcome.val_mae / linear,
            threshold=NOT_LEARNED_FACTOR,
            message=message,
            remedies=remedies,
        )
    ]
