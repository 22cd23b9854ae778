"""Single changes of settings: which of them solve a case is what its cause was.

The cause is read off the outcome of these runs and off the configuration, never off a gradient: a case that a longer
context solves had too short a window; one that a usual rate solves had a bad rate; one that another start of the
recurrence solves vanished if that start shrinks what passes through it, and exploded if it stretches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]

# Spectral radius of a recurrent matrix at its start, by initialization: uniform in +-1/sqrt(D) has 1/sqrt(3), an
# orthogonal matrix and the identity have 1.
_RADIUS = {"torch": 3**-0.5, "orthogonal": 1.0, "identity": 1.0}
# A forget gate of sigmoid(-2) keeps an eighth of the state: it is shut, which may be called either way.
_SHUT_BIAS = -2.0
_ADAPTIVE = ("adam", "adamw", "nadam", "radam")


@dataclass(frozen=True)
class Change:
    """One change and what it says about the cause if it helps.

    Attributes:
        name: Short name.
        what: In a few words.
        apply: The keys it sets for a case, given its settings and the task's; empty where there is nothing to change.
        causes: Verdicts that are right if it solves a case of these settings.
    """

    name: str
    what: str
    apply: Callable[[Settings, Settings], dict[str, Any]]
    causes: Callable[[Settings], frozenset[str]]


def _clip(_settings: Settings, _task: Settings) -> dict[str, Any]:
    return {"fit.max_grad_norm": 1.0}


def _clip_causes(settings: Settings) -> frozenset[str]:
    limit = settings["fit.max_grad_norm"]
    # Raising a limit lets steps through that were cut to nothing: that was a rate; setting one holds back explosions.
    return frozenset({"bad_learning_rate"} if limit is not None and limit < 1.0 else {"exploding"})


def _usual_rate(_settings: Settings, _task: Settings) -> dict[str, Any]:
    return {"optimizer.name": "adamw", "optimizer.learning_rate": 1e-3, "optimizer.momentum": 0.0}


def _clip_and_lower(settings: Settings, _task: Settings) -> dict[str, Any]:
    return {"fit.max_grad_norm": 1.0, "optimizer.learning_rate": settings["optimizer.learning_rate"] / 10}


def _initialization(settings: Settings, _task: Settings) -> dict[str, Any]:
    start = "orthogonal" if settings["model.architecture"] == "rnn" else "chrono"
    return {"model.initialization": start, "model.forget_bias": None, "model.init_gain": None}


def _architecture(settings: Settings, _task: Settings) -> dict[str, Any]:
    other = "gru" if settings["model.architecture"] == "lstm" else "lstm"
    return {
        "model.architecture": other, "model.initialization": None, "model.forget_bias": None, "model.init_gain": None,
        "model.nonlinearity": "tanh",
    }  # fmt: skip


def recurrence_causes(settings: Settings) -> frozenset[str]:
    """Vanishing or exploding, by whether the recurrence shrinks or stretches at its start; from the settings alone."""
    radius = _RADIUS.get(settings["model.initialization"], _RADIUS["torch"]) * (settings["model.init_gain"] or 1.0)
    if radius > 1.0:
        stuck = "dead" if settings["model.nonlinearity"] == "relu" else "saturated"
        return frozenset({"exploding", stuck})
    bias = settings["model.forget_bias"]
    return frozenset({"vanishing", "saturated"} if bias is not None and bias <= _SHUT_BIAS else {"vanishing"})


def _scaler(_settings: Settings, _task: Settings) -> dict[str, Any]:
    return {"model.scaler": "standard"}


def _context(settings: Settings, task: Settings) -> dict[str, Any]:
    decent = task["model.context_length"]
    return {"model.context_length": decent} if settings["model.context_length"] < decent else {}


def _truncation(_settings: Settings, _task: Settings) -> dict[str, Any]:
    return {"fit.tbptt_steps": None}


def _longer(settings: Settings, _task: Settings) -> dict[str, Any]:
    return {"fit.max_steps": 3 * settings["fit.max_steps"]}


def _shallow(_settings: Settings, _task: Settings) -> dict[str, Any]:
    return {"model.num_layers": 1}


def _tanh(_settings: Settings, _task: Settings) -> dict[str, Any]:
    return {"model.nonlinearity": "tanh"}


def _regularise(settings: Settings, _task: Settings) -> dict[str, Any]:
    return {
        "model.dropout": 0.3, "optimizer.weight_decay": 0.1, "model.hidden_size": min(16, settings["model.hidden_size"]),
        "fit.val_check_steps": 10,
    }  # fmt: skip


def _always(*names: str) -> Callable[[Settings], frozenset[str]]:
    return lambda _settings: frozenset(names)


_ALL = (
    Change("clip", "clip the gradient at 1", _clip, _clip_causes),
    Change("usual_rate", "AdamW at 0.001", _usual_rate, _always("bad_learning_rate", "diverged")),
    Change(
        "clip_and_lower_rate", "always clip at 1 and divide the rate by 10", _clip_and_lower,
        _always("bad_learning_rate", "diverged", "exploding"),
    ),
    Change("initialization", "chrono, or orthogonal for an rnn", _initialization, recurrence_causes),
    Change("architecture", "an LSTM, or a GRU instead of one", _architecture, recurrence_causes),
    Change("scaler", "scale every window", _scaler, _always("bad_scale")),
    Change("context", "the context that the task needs", _context, _always("window_too_short")),
    Change("truncation", "no truncation of backpropagation", _truncation, _always("window_too_short")),
    Change("longer", "three times the steps", _longer, _always("not_learning")),
    Change("shallow", "one layer", _shallow, _always("vanishing")),
    Change("tanh", "tanh instead of ReLU", _tanh, _always("dead", "exploding")),
    Change("regularise", "dropout, decay, fewer units, frequent checks", _regularise, _always("overfitting")),
)  # fmt: skip
CHANGES = {change.name: change for change in _ALL}
FIXED_POLICY = "clip_and_lower_rate"


def difference(change: Change, settings: Settings, task: Settings) -> dict[str, Any]:
    """What a change really changes; empty if it leaves the case as it is.

    Args:
        change: The change.
        settings: Of the case.
        task: Of the task, as a decent run uses it.
    """
    return {key: value for key, value in change.apply(settings, task).items() if settings.get(key) != value}


def solving_causes(solving: list[str], settings: Settings) -> frozenset[str]:
    """Verdicts that are right for a case.

    Args:
        solving: Names of the changes that solve it.
        settings: Of the case.

    Returns:
        The verdicts of their causes; a change that other faults respond to as well counts only where nothing more
        specific helps.
    """
    specific = [name for name in solving if name not in (FIXED_POLICY, "longer")]
    names = specific or solving
    return frozenset().union(*(CHANGES[name].causes(settings) for name in names))
