"""What a run's gradients say, for people who never heard of a gradient: the same sentences in report, terminal and card."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.gradients.evidence import Evidence, Outcome
from training.gradients.lags import REACH_THRESHOLD
from training.gradients.rules.thresholds import EXPLODING_RATIO
from training.gradients.verdict import Finding, Remedy, Verdict, VerdictName

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = {
    "s": "second", "min": "minute", "T": "minute", "h": "hour", "H": "hour", "D": "day", "B": "business day", "W": "week",
    "MS": "month", "ME": "month", "M": "month", "QS": "quarter", "QE": "quarter", "Q": "quarter", "YS": "year",
    "YE": "year", "Y": "year", "A": "year",
}  # fmt: skip
BASELINE_WORDS = {
    "naive": "repeating the last value",
    "seasonal_naive": "repeating the last season",
    "mean": "the mean of the recent past",
    "linear": "a linear model",
}
RULE_WORDS = {
    "non_finite": "A number became infinite or undefined",
    "scale": "Inputs of an unsuitable size",
    "gradient_spike": "Sudden jumps of the gradient",
    "clip_dominated": "Nearly every step is cut short",
    "vanishing_through_time": "The learning signal fades on its way into the past",
    "exploding_through_time": "The learning signal grows on its way into the past",
    "static_memory": "The network starts with a short memory",
    "gate_stuck": "Gates that no longer move",
    "state_saturation": "States stuck at their limits",
    "dead_units": "Units that never fire",
    "layer_imbalance": "Layers learn at very different speeds",
    "update_ratio": "Steps of an unsuitable size",
    "divergence": "The error grows instead of shrinking",
    "oscillation": "The error swings up and down",
    "never_learned": "Less was learned than a simple method knows",
    "untrained_parameter": "Weights that were never trained",
    "overfitting": "Examples learned by heart",
    "window_too_short": "The network is shown too little of the past",
    "precision": "Numbers too small for the number format",
}


@dataclass(frozen=True)
class Unit:
    """What one step of the data is called.

    Attributes:
        one: Singular.
        many: Plural.
        note: How long a step is, where the word does not say it.
    """

    one: str = "step"
    many: str = "steps"
    note: str = ""

    @classmethod
    def of(cls, freq: str | None) -> Unit:
        """From a pandas offset alias: `h` is an hour, `30min` a step of 30 minutes, `1` a step."""
        match = re.fullmatch(r"(\d*)([A-Za-z]+)(-[A-Z]+)?", freq or "")
        word = _UNITS.get(match[2]) if match else None
        if match is None or word is None:
            return cls()
        if match[1] in ("", "1"):
            return cls(word, f"{word}s")
        return cls(note=f"1 step = {match[1]} {word}s")

    def count(self, steps: float) -> str:
        """A number of steps with its unit."""
        number = f"{steps:,.0f}" if steps >= 10 or steps == round(steps) else f"{steps:.2g}"
        return f"{number} {self.one if number == '1' else self.many}"


def headline(verdict: Verdict, evidence: Evidence, unit: Unit, typical_reach: int | None = None) -> str:
    """The verdict in one sentence without a technical term.

    Args:
        verdict: What the rules concluded.
        evidence: What they looked at.
        unit: What a step of the data is called.
        typical_reach: Reach over the whole training; None = only that at its end is known.
    """
    reach, need = verdict.reach_steps, verdict.need_steps
    if verdict.verdict == "vanishing" and need is not None and reach is not None:
        if reach < need:
            return f"The network is told about {_only_the_last(reach)} of the {unit.count(need)} it needs."
        if typical_reach is not None and typical_reach < need:
            told = _only_the_last(typical_reach)
            return f"For most of its training, the network was told about {told} of the {unit.count(need)} it needs."
        return f"The network learned too little from what lies {unit.count(need)} back."
    if verdict.verdict == "window_too_short" and need is not None:
        shown = _visible_steps(evidence)
        return f"The network is shown only the last {shown:,} of the {unit.count(need)} the data needs."
    if verdict.verdict == "bad_learning_rate":
        return _rate_sentence(verdict)
    if verdict.verdict == "healthy":
        return _healthy_sentence(verdict, evidence, unit)
    return _HEADLINES[verdict.verdict]


_HEADLINES: Mapping[VerdictName, str] = {
    "vanishing": "Corrections fade before they reach the past that the network should learn from.",
    "exploding": "Corrections grow out of control on their way into the past, and throw the network off course.",
    "saturated": "Most of the network is stuck at its limits and can hardly learn any more.",
    "dead": "Most of the network has switched itself off and passes nothing on.",
    "diverged": "The training went off the rails: the error grew instead of shrinking.",
    "non_finite": "The training stopped because a number became infinite or undefined.",
    "not_learning": "The network learned less than a simple method already knows.",
    "overfitting": "The network learned its examples by heart and got worse on data it has not seen.",
    "window_too_short": "The network is shown too little of the past.",
    "bad_scale": "The data reaches the network in a size it cannot work with.",
    "untrained_parameter": "Part of the network was never trained.",
    "inconclusive": "It is too early to say how this training is going.",
}


def explanation(verdict: Verdict, evidence: Evidence, unit: Unit, typical_reach: int | None = None) -> str:
    """Two or three sentences on what the headline means for this network.

    Args:
        verdict: What the rules concluded.
        evidence: What they looked at.
        unit: What a step of the data is called.
        typical_reach: Reach over the whole training, where it differs from that at its end; None = it does not.
    """
    if not evidence.layers:
        return "This network has no recurrence, so nothing has to travel back through time."
    reach = verdict.reach_steps
    signal = (
        f"A network learns from its errors: each sends a correction back through the past, {unit.one} by {unit.one}."
    )
    if reach is None:
        return f"{signal} How far it got was not measured in this run."
    context = context_steps(evidence)
    if typical_reach is not None and typical_reach < reach:
        arrives = (
            f"Until late in this training, less than a thousandth of it was left beyond {unit.count(typical_reach)}; only "
            f"at the end it got as far as {unit.count(reach)}."
        )
    elif verdict.verdict == "vanishing" and verdict.need_steps is not None and reach >= verdict.need_steps:
        arrives = (
            f"During part of this training little or nothing of it was left {unit.count(verdict.need_steps)} back, "
            "although it got there at the end."
        )
    elif reach >= context:
        arrives = f"Here it arrives everywhere in the {unit.count(context)} the {_learner(evidence)} is shown."
    else:
        arrives = (
            f"Beyond {unit.count(reach)}, less than a thousandth of it is left: nothing that happened earlier can teach "
            f"the {_learner(evidence)} anything."
        )
    return f"{signal} {arrives}{_need_sentence(verdict, evidence, unit)}"


def context_steps(evidence: Evidence) -> int:
    """How much of the past the network's recurrence is shown; 0 if the settings do not say."""
    settings = evidence.settings
    return int(settings.get("model.recurrent_length") or settings.get("model.context_length") or 0)


def _learner(evidence: Evidence) -> str:
    """What the correction passes through: a linear map beside it may see more."""
    return "recurrence" if evidence.settings.get("model.linear_share") else "network"


def _need_sentence(verdict: Verdict, evidence: Evidence, unit: Unit) -> str:
    need = evidence.need
    if need is None:
        return ""
    if not need.is_shown:
        return (
            f" This data asks for little memory: a linear model gains next to nothing beyond {unit.count(need.steps)}."
        )
    but = " But what" if (verdict.reach_steps or 0) < need.steps else " What"
    return f"{but} lies up to {unit.count(need.steps)} back helps to forecast this data: {NEED_SOURCES[need.source]}."


NEED_SOURCES = {
    "declared": "you said so in the settings",
    "ridge": "a linear model shows it",
    "season": "that is the data's season",
}


def outcome_sentence(outcome: Outcome | None) -> str:
    """How the forecasts compare with the best simple method; empty if they were not scored."""
    if outcome is None:
        return ""
    simple = {name: error for name, error in outcome.baseline_error.items() if math.isfinite(error) and error > 0}
    if not math.isfinite(outcome.val_error):
        return "Its forecasts are no numbers."
    if not simple:
        return f"Its forecast error is {outcome.val_error:.3g} ({outcome.metric.upper()})."
    best = min(simple, key=simple.__getitem__)
    change = outcome.val_error / simple[best] - 1
    size = (
        f"{abs(change):.0%} {'higher' if change > 0 else 'lower'} than"
        if abs(change) < 9
        else f"{change + 1:,.0f} times"
    )
    words = BASELINE_WORDS.get(best, best.replace("_", " "))
    return (
        f"Its forecast error is {outcome.val_error:.3g} ({outcome.metric.upper()}), {size} that of the best simple "
        f"method, {words} ({simple[best]:.3g})."
    )


def remedy_command(remedy: Remedy, config: Path | None) -> str:
    """The command that trains again with a remedy's settings, ready to paste.

    Args:
        remedy: Settings to change.
        config: The run's configuration file; None = the command's defaults.
    """
    words = ["gradcast", "train", *(["--config", str(config)] if config is not None else [])]
    for key, value in remedy.set.items():
        words += ["--set", f"{key}={setting_text(value)}"]
    return shlex.join(words)


def collect_remedies(verdict: Verdict) -> list[tuple[Finding, Remedy]]:
    """What to change, the deepest cause first: of the faults, or where there are none, of the warnings; each once."""
    for severity in ("fault", "warning"):
        found = [
            (finding, remedy)
            for finding in verdict.findings
            if finding.severity == severity
            for remedy in finding.remedies
        ]
        if found:
            unique: dict[str, tuple[Finding, Remedy]] = {}
            for finding, remedy in found:
                unique.setdefault(json.dumps(remedy.set, sort_keys=True, default=str), (finding, remedy))
            return list(unique.values())
    return []


def setting_text(value: Any) -> str:
    """A configuration value as `--set` reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def ratio_text(ratio: float) -> str:
    """A ratio as people write it: `0.42`, `2·10⁻⁹`; `0` only if it is."""
    if ratio == 0 or not math.isfinite(ratio):
        return {0.0: "0", math.inf: "∞"}.get(ratio, "unknown")
    if 0.01 <= abs(ratio) < 1000:
        return f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"
    mantissa, _, exponent = f"{ratio:.1e}".partition("e")
    factor = "" if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}·"
    return f"{factor}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def arrival_sentence(ratio: float, need: int, unit: Unit) -> str:
    """What arrives at the need, in a sentence.

    Args:
        ratio: To lags 1-5.
        need: In steps.
        unit: What a step of the data is called.
    """
    where = f"{unit.count(need)} back"
    if ratio > EXPLODING_RATIO:
        return f"On its way {where} the correction grows {ratio_text(ratio)}-fold."
    if ratio >= 1:
        return f"All of the correction arrives {where}."
    words = one_part_in(ratio)
    return f"{ratio_text(ratio)} of the correction arrives {where}" + (f": {words}." if words else ".")


def one_part_in(ratio: float) -> str:
    """A small ratio as `1 part in 500 million`; empty if it is not small."""
    if not 0 < ratio < REACH_THRESHOLD:
        return ""
    parts = 1 / ratio
    for size, word in ((1e15, ""), (1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if parts >= size:
            return f"1 part in {_two_digits(parts / size)} {word}" if word else "next to nothing"
    return f"1 part in {_two_digits(parts)}"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def _only_the_last(reach: int | None) -> str:
    return "none" if not reach else f"only the last {reach:,}"


def _visible_steps(evidence: Evidence) -> int:
    truncation, context = evidence.settings.get("fit.tbptt_steps"), context_steps(evidence)
    return min(context, int(truncation)) if truncation else context


def _rate_sentence(verdict: Verdict) -> str:
    finding = verdict.findings[0] if verdict.findings else None
    if finding is not None and finding.rule == "update_ratio":
        size = "large" if finding.value > finding.threshold else "small"
        return f"The network takes steps that are far too {size} to learn from."
    return "The network takes steps of the wrong size to learn well."


def _healthy_sentence(verdict: Verdict, evidence: Evidence, unit: Unit) -> str:
    reach, need = verdict.reach_steps, verdict.need_steps
    if reach is None or need is None or evidence.need is None or not evidence.need.is_shown:
        return "Nothing is wrong with the way this network learns."
    if reach >= need:
        return f"The network learns from all of the {unit.count(need)} it needs."
    return (
        f"The forecasts hold up, although the network is told about {_only_the_last(reach)} of the {unit.count(need)} that "
        "would help."
    )
