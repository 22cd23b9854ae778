"""Finding, remedy, verdict: what the rules say about a run, in words a user can act on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VerdictName = Literal[
    "healthy", "vanishing", "exploding", "saturated", "dead", "diverged", "non_finite", "not_learning", "overfitting",
    "window_too_short", "bad_scale", "untrained_parameter", "bad_learning_rate", "inconclusive",
]  # fmt: skip
Severity = Literal["info", "warning", "fault"]
Restart = Literal["scratch", "checkpoint"]


class Remedy(BaseModel):
    """A change of settings and why it should help.

    Attributes:
        why: In a few words.
        set: Configuration keys and their new values.
        restart: Whether training starts anew with it or can go on from the best checkpoint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    set: dict[str, Any] = Field(default_factory=dict)
    restart: Restart = "scratch"


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
        remedies: Settings that address it, the best first.
    """

    # A ratio may be infinite, and JSON has no number for it.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    rule: str
    severity: Severity
    where: str
    step: int
    value: float
    threshold: float
    message: str
    remedies: tuple[Remedy, ...] = ()


class Verdict(BaseModel):
    """The verdict on a run; anything but healthy or inconclusive rests on a finding of severity `fault`.

    Attributes:
        verdict: Its name.
        reach_steps: Lag out to which gradient arrives; None if it was not measured.
        need_steps: Lag out to which the data pays; None if nobody knows.
        findings: The one the verdict rests on first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: VerdictName
    reach_steps: int | None = None
    need_steps: int | None = None
    findings: tuple[Finding, ...] = ()
