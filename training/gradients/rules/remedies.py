"""Changes of settings that several rules offer."""

from __future__ import annotations

from typing import Any

from training.gradients.rules.case import Case
from training.gradients.rules.thresholds import INPUT_SIZE
from training.gradients.verdict import Remedy

# An LSTM or GRU of torch's initialisation keeps a thousandth of its gradient to about this lag, one with a forget bias
# of 1 to that (measured at 64 units; the table of reach in the tests).
TORCH_REACH = 15
FORGET_BIAS_REACH = 45
GATED = ("lstm", "gru", "segrnn", "mingru", "minlstm", "dilated_gru", "dilated_lstm")
ADAPTIVE = ("adam", "adamw", "nadam", "radam")
PLAIN = ("sgd", "nesterov")
# Whose higher layers are there for the long memory.
DILATED = ("dilated_gru", "dilated_lstm")
# Of AdamW with one cycle: high enough to arrive within a short budget, low enough for every recurrent network tried.
GOOD_RATE = 5e-3


def longer_memory(case: Case, need: int) -> list[Remedy]:
    """Settings whose gradient reaches a need, the surest first.

    Args:
        case: The run.
        need: Steps.

    Returns:
        A gated cell with chrono initialisation; shallower where the stack is deep; a shorter way where nothing else is
        left.
    """
    settings: dict[str, Any] = {}
    words = []
    if case.setting("model.architecture") not in GATED:
        settings |= {"model.architecture": "lstm"} | unset(case, "model.dilations")
        words.append("gates carry a state unchanged")
    if need > TORCH_REACH or case.setting("model.forget_bias") is not None:
        settings |= {"model.initialization": "chrono"} | unset(case, "model.forget_bias", "model.init_gain")
        words.append(f"chrono initialisation starts with time constants up to the context, {need} steps included")
    if (case.setting("model.num_layers") or 1) > 2 and case.setting("model.architecture") not in DILATED:
        settings |= one_layer(case)
        words.append("one layer, so that depth does not weaken the gradient as well")
    remedies = [Remedy(why="; ".join(words), set=settings)] if settings and not _is_set(case, settings) else []
    if need <= FORGET_BIAS_REACH and settings.get("model.initialization") == "chrono":
        milder = settings | {"model.initialization": "forget_bias"}
        remedies.append(Remedy(why=f"a forget bias of 1 reaches about {FORGET_BIAS_REACH} steps", set=milder))
    rate = case.setting("optimizer.learning_rate") or GOOD_RATE
    more = {"fit.max_steps": 3 * (case.setting("fit.max_steps") or case.evidence.step)}
    if rate != GOOD_RATE or case.setting("optimizer.name") == "sgd":
        more |= usual_rate(case)
    remedies.append(Remedy(why="memory that is there at the start still takes long to be used", set=settings | more))
    return remedies


def one_layer(case: Case) -> dict[str, Any]:
    """The shallowest stack; dilations that were written down per layer are taken back."""
    return {"model.num_layers": 1} | unset(case, "model.dilations")


def usual_rate(case: Case) -> dict[str, Any]:
    """The optimizer and rate that recurrent forecasters usually train with."""
    settings: dict[str, Any] = {"optimizer.learning_rate": GOOD_RATE, "optimizer.schedule": "one_cycle"}
    if case.setting("optimizer.name") not in ADAPTIVE:
        settings["optimizer.name"] = "adamw"
        if case.setting("optimizer.momentum"):
            settings["optimizer.momentum"] = 0.0
    if case.setting("fit.max_grad_norm") is None or case.setting("fit.max_grad_norm") < 0.1:
        settings["fit.max_grad_norm"] = 1.0
    return settings


def explosion_remedies(case: Case) -> list[Remedy]:
    """A recurrence that keeps lengths, bounded steps, a smaller rate."""
    rate = case.setting("optimizer.learning_rate") or GOOD_RATE
    stable: dict[str, Any] = {} if case.setting("fit.max_grad_norm") else {"fit.max_grad_norm": 1.0}
    if (case.setting("model.init_gain") or 1.0) > 1.0:
        stable["model.init_gain"] = None
    if case.setting("model.architecture") == "rnn":
        stable |= {"model.initialization": "orthogonal", "model.nonlinearity": "tanh"}
    if rate > GOOD_RATE or case.setting("optimizer.name") in PLAIN:
        stable |= usual_rate(case)
    first = (
        [Remedy(why="a recurrence that keeps the gradient's length, and bounded updates", set=stable)] if stable else []
    )
    cautious = {"fit.max_grad_norm": 1.0, "optimizer.learning_rate": min(rate / 3, GOOD_RATE)}
    return [*first, Remedy(why="bounded and smaller updates", set=cautious, restart="checkpoint")]


def is_badly_scaled(case: Case) -> bool:
    """Whether what the recurrence reads is far from size one; not if nobody knows."""
    data = case.evidence.data
    return data is not None and (max(data.level, data.spread) > INPUT_SIZE or 0 < data.spread < 1 / INPUT_SIZE)


def scale_remedies(case: Case) -> list[Remedy]:
    """Windows scaled inside the network; plain gradient descent, whose steps grow with the values, given another rate."""
    if case.setting("model.scaler") == case.usual_scaler == "standard":
        return [Remedy(why="a scale that outliers do not set", set={"model.scaler": "robust"})]
    settings: dict[str, Any] = {"model.scaler": case.usual_scaler}
    if case.setting("optimizer.name") in PLAIN:
        settings |= usual_rate(case)
    return [Remedy(why="scale every window inside the network", set=settings)]


def more_steps(case: Case) -> Remedy:
    """Three times the budget."""
    steps = case.setting("fit.max_steps") or case.evidence.step
    return Remedy(why="the loss was still falling when the budget ended", set={"fit.max_steps": 3 * steps})


def unset(case: Case, *keys: str) -> dict[str, Any]:
    """Back to the default, those of the keys that have a value."""
    return {key: None for key in keys if case.setting(key) is not None}


def _is_set(case: Case, settings: dict[str, Any]) -> bool:
    return all(case.setting(key) == value for key, value in settings.items())
