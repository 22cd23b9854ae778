"""How a network starts: the smallest change to torch's own start whose gradient, measured, reaches what the data needs.

Reach is not accuracy: a start with a long memory learns more slowly where nothing asks for it, so more reach than the need
asks for is never chosen. Beside a linear skip, which sees all of the context itself, that goes for chrono altogether: on each
of the five data sets where the rule chose it, it was worse than a forget bias (benchmarks/results/initialization.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from models.config import InitializationName
from training.config import ArchitectureName, TrainingConfig
from training.data.panel import Panel
from training.data.splits import build_splits
from training.errors import DataError
from training.initial_reach import LayerReach, StartProbe

_GATED: tuple[InitializationName, ...] = ("torch", "forget_bias", "chrono")


def start_order(architecture: ArchitectureName, nonlinearity: str) -> tuple[InitializationName, ...]:
    """Initializations from the smallest change on; the identity keeps a gradient through ReLU, tanh spoils it."""
    if architecture in ("rnn", "dilated_rnn"):
        return ("torch", "orthogonal", "identity") if nonlinearity == "relu" else ("torch", "orthogonal")
    return _GATED


def choose_initialization(config: TrainingConfig, panel: Panel, need_steps: int) -> tuple[InitializationName, str]:
    """The first initialization that reaches; if none does, the one that reaches farthest.

    Args:
        config: Resolved but for the initialization.
        panel: The series, calendar included.
        need_steps: What is to be reached; beyond the context there is nothing to reach.

    Returns:
        The initialization, and the measurements it rests on in a sentence.

    Raises:
        NetworkConfigError: If the network cannot be built.
    """
    model = config.model
    if model.network == "linear":
        return "torch", "a linear network has no recurrence"
    assert model.context_length is not None
    assert model.horizon is not None
    try:
        splits = build_splits(panel, model.horizon, config.data.val_size, config.data.test_size)
        probe = StartProbe(panel, splits)
    except DataError:
        return "torch", "there is no window to measure another on"
    wanted = min(need_steps, model.context_length)
    tried: list[tuple[InitializationName, LayerReach]] = []
    for name in start_order(model.network, model.nonlinearity):
        if name == "chrono" and model.skip == "linear":
            continue
        start = config.model_copy(update={"model": model.model_copy(update={"initialization": name})})
        tried.append((name, probe.measure(start, wanted).reach))
        if tried[-1][1].reaches(wanted):
            return name, _reason(need_steps, tried)
    farthest, _ = max(tried, key=lambda entry: (not entry[1].explodes, entry[1].steps))
    return farthest, f"{_reason(need_steps, tried)}; none reaches it"


def _reason(need_steps: int, tried: Sequence[tuple[str, LayerReach]]) -> str:
    (name, first), *others = tried
    measured = ", ".join([f"{name} reaches {first.steps}", *(f"{other} {reach.steps}" for other, reach in others)])
    need = f"need is {need_steps} steps" if need_steps > 1 else "no need of memory is shown"
    return f"{need}, {measured}"
