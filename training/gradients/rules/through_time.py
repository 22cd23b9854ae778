"""Rules on what arrives at the lag the data needs."""

from __future__ import annotations

import itertools
import math
from typing import Any

from training.gradients.evidence import NeedEvidence
from training.gradients.rules.case import Case, median
from training.gradients.rules.remedies import FORGET_BIAS_REACH, explosion_remedies, longer_memory, one_layer, unset
from training.gradients.rules.thresholds import (
    CONFIRMATIONS,
    DEPTH_SHARE,
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
    """Gradient at the need is lost: on the median of the run, so that neither start nor end decides alone.

    A network that began with nothing there and built its memory late, or at the edge of explosion, has the same fault if
    it still gains less from back there than a linear model does.
    """
    need, ratios = case.shown_need, case.values(RATIO)
    if need is None or case.visible_steps < need.steps or len(ratios) < CONFIRMATIONS:
        return []
    ratio, used = median(ratios), case.evidence.past_gain
    enough = UNUSED_SHARE * need.gain if need.gain else UNUSED_DECLARED
    is_unused = used is not None and used < enough
    is_lost = ratio < VANISHING_WARNING or (is_unused and ratio < VANISHING_UNUSED)
    began_without = ratios[0] < VANISHING_FAULT and used is not None and used < max(need.gain, enough)
    if not (is_lost or began_without):
        return []
    if not is_lost:
        ratio = ratios[0]
    half_life = median([value for name in case.readings.names("half_life/") for value in case.values(name)[-1:]])
    lost = "nothing that float32 could add" if ratio < VANISHING_FAULT else f"{ratio:.1g} of the gradient"
    message = f"at lag {need.steps}, {_why_needed(need)}, {lost} {'is' if is_lost else 'was'} left"
    if not is_lost:
        message += " at the start"
    elif math.isfinite(half_life):
        message += f"; its half-life is {half_life:.2g} steps"
    if need.gain:
        message += f"; a linear model gains {need.gain:.0%} from what lies back there"
        message += "" if used is None else ", this one nothing" if used < 0.01 else f", this one {used:.0%}"
    where = "stack" if len(case.evidence.layers) > 1 else (case.evidence.layers or ("recurrence",))[0]
    remedies = longer_memory(case, need.steps)
    return [case.finding("vanishing_through_time", where, ratio, VANISHING_WARNING, message, remedies)]


def exploding_from_start(case: Case) -> list[Finding]:
    """Gradient grows with lag before the first update: no rate has done that."""
    peaks = [(case.values(name)[0], name) for name in _jacobians(case) if case.readings.series(name)[0][:1] == [0]]
    return _explosion(case, [(ratio, name) for ratio, name in peaks if not math.isnan(ratio)])


def exploding_through_time(case: Case) -> list[Finding]:
    """Gradient grows with lag; right on chaotic data whose loss falls (Mikhaeil et al. 2022)."""
    if exploding_from_start(case):
        return []
    peaks = []
    for name in _jacobians(case):
        values = [value for value in case.values(name) if not math.isnan(value)]
        # Twice in a row, except infinity, which needs no second look.
        confirmed = [min(pair) for pair in itertools.pairwise(values)] + [v for v in values if v == math.inf]
        if confirmed:
            peaks.append((max(confirmed), name))
    return _explosion(case, peaks)


def _jacobians(case: Case) -> list[str]:
    return [name for layer in (*case.evidence.layers, "stack") for name in case.readings.names(f"jacobian/{layer}@")]


def _explosion(case: Case, peaks: list[tuple[float, str]]) -> list[Finding]:
    """The finding on the largest of `(ratio, name of its reading)`, if it is large enough."""
    if not peaks or max(peaks)[0] < EXPLODING_RATIO:
        return []
    ratio, name = max(peaks)
    layer, _, lag = name.removeprefix("jacobian/").rpartition("@")
    message = f"the gradient of {layer} grows {ratio:.2g}-fold towards lag {lag}"
    remedies = explosion_remedies(case)
    return [case.finding("exploding_through_time", layer, ratio, EXPLODING_RATIO, message, remedies)]


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


def vanishing_through_depth(case: Case) -> list[Finding]:
    """Little of the gradient at the last layer gets down to the first, before training or during most of it."""
    layers = case.evidence.layers
    shares = case.values(f"grad_depth/{layers[0]}") if len(layers) > 1 else []
    share = min(median(shares), *shares[:1]) if shares else math.nan
    if len(shares) < CONFIRMATIONS or not share < DEPTH_SHARE:
        return []
    message = f"of the gradient at {layers[-1]}, {share:.1g} arrives at {layers[0]}, {len(layers) - 1} layers below"
    remedy = Remedy(why="every layer between takes its share", set=one_layer(case))
    return [case.finding("vanishing_through_depth", layers[0], share, DEPTH_SHARE, message, [remedy])]


def window_too_short(case: Case) -> list[Finding]:
    """What the data pays for lies outside of what training sees."""
    need = case.shown_need
    if need is None or case.visible_steps >= need.steps or not case.visible_steps:
        return []
    truncation, whole = case.setting("fit.tbptt_steps"), case.setting("model.context_length")
    context = case.setting("model.recurrent_length") or whole
    settings: dict[str, Any] = {}
    if whole < need.steps:
        settings["model.context_length"] = need.steps
    if context < need.steps:
        settings |= unset(case, "model.recurrent_length")
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
