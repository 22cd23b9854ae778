"""Rules on the size of gradients and updates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from training.gradients.rules.case import Case, median, robust_sigma, smoothed
from training.gradients.rules.remedies import GOOD_RATE, PLAIN, explosion_remedies, one_layer, usual_rate
from training.gradients.rules.thresholds import (
    CLIP_COEFFICIENT,
    CLIPPED_SHARE,
    CONFIRMATIONS,
    DIVERGED_FACTOR,
    DIVERGED_POINTS,
    IMBALANCE_HIGH,
    IMBALANCE_LOW,
    OSCILLATION_SIGN_SHARE,
    OSCILLATION_SWING,
    SPIKE_FACTOR,
    SPIKE_Z,
    SPIKES_PER_1000_STEPS,
    UPDATE_EARLY,
    UPDATE_HIGH,
    UPDATE_LOW,
    WARM_UP_POINTS,
)
from training.gradients.verdict import Finding, Remedy


def gradient_spike(case: Case) -> list[Finding]:
    """The gradient jumps far out of its own distribution; one batch is information, a few are a pattern."""
    steps, peaks = case.readings.series("grad_norm/peak")
    steps, peaks = steps[WARM_UP_POINTS:], peaks[WARM_UP_POINTS:]
    logs = [math.log(max(peak, 1e-30)) for peak in peaks]
    if len(logs) < WARM_UP_POINTS:
        return []
    centre, sigma = median(logs), max(robust_sigma(logs), 1e-3)
    limit = max(centre + SPIKE_Z * sigma, centre + math.log(SPIKE_FACTOR))
    spikes = [(step, math.exp(log - centre)) for step, log in zip(steps, logs, strict=True) if log > limit]
    if not spikes:
        return []
    worst_step, worst = max(spikes, key=lambda spike: spike[1])
    often = len(spikes) >= max(SPIKES_PER_1000_STEPS * case.evidence.step / 1000, SPIKES_PER_1000_STEPS)
    message = (
        f"the gradient jumped {len(spikes)} times beyond {math.exp(limit - centre):.3g} times its median, most at "
        f"step {worst_step} ({worst:.3g} times)"
    )
    ordered = sorted(peaks)
    clip = float(f"{ordered[int(0.9 * (len(ordered) - 1))]:.2g}")
    remedies = [Remedy(why="clip at the norm that nine of ten steps stay below", set={"fit.max_grad_norm": clip})]
    severity = case.severity() if often else "info"
    return [
        case.finding(
            "gradient_spike",
            "grad_norm/total",
            worst,
            SPIKE_FACTOR,
            message,
            [*remedies, *explosion_remedies(case)],
            severity,
        )
    ]


def clip_dominated(case: Case) -> list[Finding]:
    """Nearly every step is cut to a fraction: the limit, not the gradient, decides how far weights move."""
    fraction = median(case.values("grad_clip/fraction"))
    factor = median(case.values("grad_clip/coefficient"))
    if not (fraction > CLIPPED_SHARE and factor < CLIP_COEFFICIENT):
        return []
    limit = case.setting("fit.max_grad_norm")
    message = f"{fraction:.0%} of steps were clipped at {limit}, to {factor:.2g} of their gradient"
    settings = usual_rate(case) | (
        {"fit.max_grad_norm": 1.0} if limit and limit < 1.0 else {"fit.max_grad_norm": 10 * (limit or 1.0)}
    )
    remedy = Remedy(why="a limit that most steps stay below, at a usual rate", set=settings)
    return [case.finding("clip_dominated", "grad_clip", factor, CLIP_COEFFICIENT, message, [remedy])]


def update_ratio(case: Case) -> list[Finding]:
    """Updates too small to move the weights, or so large that they throw them about."""
    names = [name for name in case.readings.names("update_ratio/") if case.values(name)]
    if not names:
        return []
    rate = case.setting("optimizer.learning_rate")
    name, value, threshold = _fastest(case, names)
    words = "high"
    if value <= threshold:
        name, value, threshold, words = *_slowest(case, names), UPDATE_LOW, "low"
        if value >= threshold:
            return []
    where = name.removeprefix("update_ratio/")
    message = f"a step moves the weights of {where} by {value:.2g} of their size: the rate of {rate:g} is too {words}"
    remedy = Remedy(why=f"a rate that adaptive optimizers usually train with, {GOOD_RATE:g}", set=usual_rate(case))
    if words == "high" and rate <= GOOD_RATE:
        remedy = Remedy(why="smaller steps", set=usual_rate(case) | {"optimizer.learning_rate": rate / 3})
    return [case.finding("update_ratio", where, value, threshold, message, [remedy])]


def _fastest(case: Case, names: Sequence[str]) -> tuple[str, float, float]:
    """The largest update with its limit: among the first steps, or at most steps.

    A rate far too high is seen at the start alone: it leaves a network that no longer moves.
    """
    early = {name: _second_largest(case.values(name)[:WARM_UP_POINTS]) for name in names}
    first = max(early, key=early.__getitem__)
    if early[first] > UPDATE_EARLY:
        return first, early[first], UPDATE_EARLY
    usual = {name: median(case.values(name)) for name in names}
    largest = max(usual, key=usual.__getitem__)
    return largest, usual[largest], UPDATE_HIGH


def _slowest(case: Case, names: Sequence[str]) -> tuple[str, float]:
    """The layer that decides whether a rate is too low, with its usual update.

    Adaptive optimizers move all layers alike, so it is the fastest; plain gradient descent may move the head and leave
    the recurrence where it was.
    """
    usual = {name: median(case.values(name)) for name in names}
    recurrent = [name for name in names if name.removeprefix("update_ratio/") in case.evidence.layers]
    if case.setting("optimizer.name") in PLAIN and recurrent:
        slow = min(recurrent, key=usual.__getitem__)
    else:
        slow = max(usual, key=usual.__getitem__)
    return slow, usual[slow]


def _second_largest(values: Sequence[float]) -> float:
    """Confirmed by one more; 0 while there are too few."""
    return sorted(values)[-CONFIRMATIONS] if len(values) >= CONFIRMATIONS else 0.0


def layer_imbalance(case: Case) -> list[Finding]:
    """First and last recurrent layer receive gradients of different orders, relative to their weights."""
    layers = case.evidence.layers
    if len(layers) < 2:
        return []
    first, last = (_relative_gradient(case, layer) for layer in (layers[0], layers[-1]))
    if not (first > 0 and last > 0) or IMBALANCE_LOW <= first / last <= IMBALANCE_HIGH:
        return []
    message = f"relative to its weights, {layers[0]} receives {first / last:.2g} of the gradient of {layers[-1]}"
    remedy = Remedy(why="fewer layers pass it on", set=one_layer(case))
    threshold = IMBALANCE_LOW if first < last else IMBALANCE_HIGH
    return [case.finding("layer_imbalance", layers[0], first / last, threshold, message, [remedy])]


def divergence(case: Case) -> list[Finding]:
    """The loss left its best level and stayed away from it."""
    steps, raw = case.readings.series("loss/train")
    losses = smoothed(raw)
    if len(losses) < 2 * DIVERGED_POINTS:
        return []
    best, last = min(losses), min(losses[-DIVERGED_POINTS:])
    if not (best > 0 and last > DIVERGED_FACTOR * best):
        return []
    at = steps[losses.index(best)]
    message = f"the training loss is {last / best:.3g} times its best of {best:.3g} at step {at}, and stayed there"
    rate = case.setting("optimizer.learning_rate") or GOOD_RATE
    smaller = usual_rate(case) | {"optimizer.learning_rate": min(rate / 3, GOOD_RATE), "optimizer.warmup_steps": 100}
    remedies = [
        Remedy(why="a usual rate", set=usual_rate(case)),
        Remedy(why="smaller steps with a warm-up", set=smaller, restart="checkpoint"),
    ]
    return [case.finding("divergence", "loss/train", last / best, DIVERGED_FACTOR, message, remedies)]


def oscillation(case: Case) -> list[Finding]:
    """The loss swings from point to point by as much as half of its own size."""
    losses = case.values("loss/train")[WARM_UP_POINTS:]
    changes = [after - before for before, after in itertools.pairwise(losses)]
    if len(changes) < WARM_UP_POINTS:
        return []
    flips = sum(a * b < 0 for a, b in itertools.pairwise(changes)) / (len(changes) - 1)
    swing = median([abs(change) for change in changes]) / max(abs(median(losses)), 1e-12)
    if not (flips > OSCILLATION_SIGN_SHARE and swing > OSCILLATION_SWING):
        return []
    message = f"the training loss changes direction at {flips:.0%} of its points, by {swing:.0%} of its size"
    remedy = Remedy(why="smaller steps", set=usual_rate(case), restart="checkpoint")
    return [case.finding("oscillation", "loss/train", flips, OSCILLATION_SIGN_SHARE, message, [remedy])]


def _relative_gradient(case: Case, layer: str) -> float:
    gradients, weights = case.values(f"grad_norm/{layer}"), case.values(f"weight_norm/{layer}")
    return median(gradients) / median(weights) if gradients and weights and median(weights) > 0 else math.nan
