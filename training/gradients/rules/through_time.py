"""Rules on what arrives at the lag the data needs."""

from __future__ import annotations

import itertools
import math
from typing import Any

from training.gradients.evidence import NeedEvidence
from training.gradients.rules.case import Case, median
from training.gradients.rules.remedies import FORGET_BIAS_REACH, GOOD_RATE, longer_memory, usual_rate
from training.gradients.rules.thresholds import (
    CONFIRMATIONS,
    EXPLODING_RATIO,
    MEMORY_SHARE,
    UNUSED_DECLARED,
    UNUSED_SHARE,
    VANISHING_FAULT,
    VANISHING_UNUSED,
    VANISHING_WARNING,
)
from training.gradients.verdict import Finding, Remedy

RATIO = "grad_reach/ratio_at_need"
_NEED_WORDS = {
    "declared": "the need you declared", "ridge": "the need of your data", "season": "the season of your data",
}  # fmt: skip


def vanishing_through_time(case: Case) -> list[Finding]:
    """Gradient at the need is lost: on the median of the run, so that neither start nor end decides alone."""
    need, ratios = case.shown_need, case.values(RATIO)
    if need is None or case.visible_steps < need.steps or len(ratios) < CONFIRMATIONS:
        return []
    ratio, used = median(ratios), case.evidence.past_gain
    enough = UNUSED_SHARE * need.gain if need.gain else UNUSED_DECLARED
    is_unused = used is not None and used < enough
    if not (ratio < VANISHING_WARNING or (is_unused and ratio < VANISHING_UNUSED)):
        return []
    half_life = median([value for name in case.readings.names("half_life/") for value in case.values(name)[-1:]])
    lost = "nothing that float32 could add" if ratio < VANISHING_FAULT else f"{ratio:.1g} of the gradient"
    message = f"at lag {need.steps}, {_why_needed(need)}, {lost} is left"
    if math.isfinite(half_life):
        message += f"; its half-life is {half_life:.2g} steps"
    if need.gain:
        message += f"; a linear model gains {need.gain:.0%} from what lies back there"
        message += "" if used is None else ", this one nothing" if used < 0.01 else f", this one {used:.0%}"
    where = "stack" if len(case.evidence.layers) > 1 else (case.evidence.layers or ("recurrence",))[0]
    remedies = longer_memory(case, need.steps)
    return [case.finding("vanishing_through_time", where, ratio, VANISHING_WARNING, message, remedies)]


def exploding_through_time(case: Case) -> list[Finding]:
    """Gradient grows with lag; right on chaotic data whose loss falls (Mikhaeil et al. 2022)."""
    peaks = []
    for layer in (*case.evidence.layers, "stack"):
        for name in case.readings.names(f"jacobian/{layer}@"):
            values = [value for value in case.values(name) if not math.isnan(value)]
            # Twice in a row, except infinity, which needs no second look.
            confirmed = [min(pair) for pair in itertools.pairwise(values)] + [v for v in values if v == math.inf]
            if confirmed:
                peaks.append((max(confirmed), layer, int(name.rpartition("@")[2])))
    if not peaks or max(peaks)[0] < EXPLODING_RATIO:
        return []
    ratio, layer, lag = max(peaks)
    message = f"the gradient of {layer} grows {ratio:.2g}-fold towards lag {lag}"
    remedies = explosion_remedies(case)
    return [case.finding("exploding_through_time", layer, ratio, EXPLODING_RATIO, message, remedies)]


def explosion_remedies(case: Case) -> list[Remedy]:
    """A recurrence that keeps lengths, bounded steps, a smaller rate."""
    rate = case.setting("optimizer.learning_rate") or GOOD_RATE
    stable: dict[str, Any] = {} if case.setting("fit.max_grad_norm") else {"fit.max_grad_norm": 1.0}
    if (case.setting("model.init_gain") or 1.0) > 1.0:
        stable["model.init_gain"] = None
    if case.setting("model.architecture") == "rnn":
        stable |= {"model.initialization": "orthogonal", "model.nonlinearity": "tanh"}
    if rate > GOOD_RATE or case.setting("optimizer.name") == "sgd":
        stable |= usual_rate(case)
    first = (
        [Remedy(why="a recurrence that keeps the gradient's length, and bounded updates", set=stable)] if stable else []
    )
    cautious = {"fit.max_grad_norm": 1.0, "optimizer.learning_rate": min(rate / 3, GOOD_RATE)}
    return [*first, Remedy(why="bounded and smaller updates", set=cautious, restart="checkpoint")]


def static_memory(case: Case) -> list[Finding]:
    """Even the slowest units forget long before the need, from the biases alone, before step 1."""
    need = case.shown_need
    constants = [case.values(name)[0] for name in case.readings.names("memory/") if name.endswith(".p90")]
    if need is None or not constants or max(constants) >= MEMORY_SHARE * need.steps:
        return []
    slowest = max(constants)
    message = f"at the start the slowest tenth of units keeps a state for {slowest:.2g} steps"
    message += f", {_why_needed(need)} is {need.steps}"
    severity = case.severity("warning")
    remedies = longer_memory(case, need.steps)
    threshold = MEMORY_SHARE * need.steps
    return [case.finding("static_memory", "memory", slowest, threshold, message, remedies, severity)]


def window_too_short(case: Case) -> list[Finding]:
    """What the data pays for lies outside of what training sees."""
    need = case.shown_need
    if need is None or case.visible_steps >= need.steps or not case.visible_steps:
        return []
    truncation, context = case.setting("fit.tbptt_steps"), case.setting("model.context_length")
    settings: dict[str, Any] = {}
    if context < need.steps:
        settings["model.context_length"] = need.steps
    if truncation and truncation < need.steps:
        settings["fit.tbptt_steps"] = None
    what = f"a context of {context} steps" if context < need.steps else f"truncation after {truncation} steps"
    message = f"{what} cannot show what lies {need.steps} steps back, {_why_needed(need)}"
    if need.gain:
        message += f"; a linear model gains {need.gain:.0%} from it"
    reaching = (
        next(iter(longer_memory(case, need.steps)), Remedy(why="")).set if need.steps > FORGET_BIAS_REACH // 3 else {}
    )
    remedies = [Remedy(why="let training see it, with a memory that holds it", set=reaching | settings)]
    if reaching:
        remedies.append(Remedy(why="let training see it", set=settings))
    value = float(case.visible_steps)
    return [case.finding("window_too_short", "context", value, float(need.steps), message, remedies)]


def _why_needed(need: NeedEvidence) -> str:
    return _NEED_WORDS[need.source]
