"""Before the first step: does the gradient of this very configuration reach as far back as its data needs?

Reach is measured on the network that training would start from, on windows of its own data; need, memory and time come
with it, and where the reach is short, the settings that would reach, measured in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from models.config import InitializationName
from models.errors import NetworkConfigError
from models.forecaster import ForecastInputs, RecurrentForecaster
from models.initialization import ALLOWED
from training.config import ArchitectureName, TrainingConfig
from training.data.windows import TrainingWindows
from training.data_need import steps_to_cover
from training.fit_cost import FitCost, measure_cost
from training.gradients.evidence import NeedEvidence
from training.gradients.jacobian import SUB_BATCH
from training.gradients.memory import StaticMemory, measure_static_memory
from training.gradients.need import Need
from training.gradients.spectral import measure_spectral_radius
from training.initial_reach import LayerReach, StartProbe, measure_layers, whole_stack
from training.preflight_text import describe, headline, notes
from training.preparation import Prepared
from training.process_memory import MemoryGrowth
from training.start_choice import start_order
from training.threads import one_thread

# No alternative is begun after so many seconds: a large network is not built ten times over.
ALTERNATIVE_SECONDS = 1.5


@dataclass(frozen=True)
class Alternative:
    """Settings whose start reaches the need, measured.

    Attributes:
        set: Dotted keys to change.
        reach_steps: How far its gradient reaches.
        ratio_at_need: What arrives at the need, over lags 1-5.
        memory_steps: Time constant of its slowest tenth of units, from the weights alone; infinite if nothing decays.
    """

    set: dict[str, Any]
    reach_steps: int
    ratio_at_need: float
    memory_steps: float


@dataclass(frozen=True)
class Preflight:
    """What is known about a fit before its first step.

    Attributes:
        config: Without nulls.
        need: How far back the data pays; None for a network without recurrence.
        layers: Reach of every recurrent layer and of the stack, at the start; empty without recurrence.
        memory: Time constants that follow from the weights alone, per recurrent layer.
        spectral_radius: Of every layer's recurrent matrix.
        cost: Memory, disk and time of the fit.
        alternatives: Settings that would reach, the smallest change first; empty where nothing is amiss.
        seconds: What finding out took.
    """

    config: TrainingConfig
    need: Need | None
    layers: tuple[LayerReach, ...]
    memory: tuple[StaticMemory, ...]
    spectral_radius: dict[str, float]
    cost: FitCost
    alternatives: tuple[Alternative, ...]
    seconds: float

    @property
    def context_steps(self) -> int:
        """Steps the network's recurrence sees."""
        return self.config.model.recurrent_length or self.config.model.context_length or 0

    @property
    def visible_steps(self) -> int:
        """Steps training sees: the context, or what truncation leaves of it."""
        truncation = self.config.fit.tbptt_steps
        return min(self.context_steps, truncation) if truncation else self.context_steps

    @property
    def whole(self) -> LayerReach | None:
        """Reach of the stack, or of the only layer; None without recurrence."""
        return whole_stack(self.layers) if self.layers else None

    @property
    def wanted_steps(self) -> int:
        """What the gradient should reach: the need, or 1 where none is shown."""
        return steps_to_cover(self.need)

    @property
    def reaches(self) -> bool:
        """Whether the gradient arrives, within what training sees, wherever the data needs it."""
        start = self.whole
        if start is None:
            return True
        return self.visible_steps >= self.wanted_steps and start.reaches(self.wanted_steps)

    @property
    def headline(self) -> str:
        """All of it in a sentence."""
        return headline(self)

    def notes(self) -> tuple[str, ...]:
        """A few short sentences, to be said before training."""
        return notes(self)

    def describe(self) -> str:
        """All of it for a terminal."""
        return describe(self)

    def to_dict(self) -> dict[str, Any]:
        """All of it as a JSON document."""
        start = self.whole
        return {
            "headline": self.headline,
            "reaches": self.reaches,
            "need": None if self.need is None else NeedEvidence.of(self.need).model_dump(mode="json"),
            "need_steps": None if self.need is None else self.need.steps,
            "reach_steps": None if start is None else start.steps,
            "ratio_at_need": None if start is None else start.ratio_at_need,
            "context_steps": self.context_steps,
            "visible_steps": self.visible_steps,
            "layers": [asdict(layer) for layer in self.layers],
            "memory": [asdict(memory) for memory in self.memory],
            "spectral_radius": {name.partition("/")[2]: radius for name, radius in self.spectral_radius.items()},
            "cost": {
                "memory_bytes": self._memory(),
                "disk_bytes": asdict(self.cost.disk) | {"run": self.cost.disk.run, "total": self.cost.disk.total},
                "seconds": None if self.cost.time is None else asdict(self.cost.time),
                "failure": self.cost.failure,
            },
            "alternatives": [asdict(alternative) for alternative in self.alternatives],
            "seconds": round(self.seconds, 3),
        }

    def _memory(self) -> dict[str, Any]:
        memory = self.cost.memory
        process = None if memory.process is None else asdict(memory.process) | {"peak": memory.process.peak}
        return asdict(memory) | {"total": memory.total, "process": process}


def preflight(prepared: Prepared, preparation: MemoryGrowth | None = None) -> Preflight:
    """Measure the start of a fit; weights, gradients and random states stay as they are.

    Args:
        prepared: Data and network.
        preparation: As in `measure_cost`: from a process of its own, whose memory grows as that of a training.
    """
    started = time.perf_counter()
    need = prepared.need
    layers: tuple[LayerReach, ...] = ()
    memory: tuple[StaticMemory, ...] = ()
    radius: dict[str, float] = {}
    network = prepared.forecaster
    # First: what the other measurements hold would be taken for memory of the fit.
    cost = measure_cost(prepared, preparation)
    if isinstance(network, RecurrentForecaster):
        with one_thread():
            lag = steps_to_cover(need) if steps_to_cover(need) > 1 else network.config.recurrent_steps
            layers = measure_layers(network, _windows(prepared), lag)
            memory, radius = tuple(measure_static_memory(network)), measure_spectral_radius(network)
    found = Preflight(prepared.config, need, layers, memory, radius, cost, (), 0.0)
    alternatives = () if found.reaches else find_alternatives(prepared, found.wanted_steps)
    seconds = time.perf_counter() - started
    return Preflight(prepared.config, need, layers, memory, radius, cost, alternatives, seconds)


def preflight_notes(prepared: Prepared) -> tuple[str, ...]:
    """What to say before the first step, one short sentence each."""
    return preflight(prepared).notes()


def find_alternatives(prepared: Prepared, need_steps: int) -> tuple[Alternative, ...]:
    """Settings whose start reaches, measured one by one from the smallest change on.

    Args:
        prepared: Data and configuration.
        need_steps: What is to be reached.
    """
    probe = StartProbe(prepared.panel, prepared.splits)
    found: list[Alternative] = []
    deadline = time.perf_counter() + ALTERNATIVE_SECONDS
    for changes in candidates(prepared.config, need_steps):
        if time.perf_counter() > deadline:
            break
        config = with_settings(prepared.config, changes)
        try:
            start = probe.measure(config, need_steps)
        except NetworkConfigError:
            continue
        if start.reach.reaches(need_steps):
            found.append(Alternative(changes, start.reach.steps, start.reach.ratio_at_need, start.memory_steps))
    return tuple(found)


def candidates(config: TrainingConfig, need_steps: int) -> Iterator[dict[str, Any]]:
    """Changes of settings that might reach: initialization first, then architecture; a window that holds the need.

    Args:
        config: The configuration at hand.
        need_steps: What is to be reached.
    """
    model = config.model
    longer: dict[str, Any] = {}
    if (model.context_length or 0) < need_steps:
        longer["model.context_length"] = need_steps
    if model.recurrent_length is not None and model.recurrent_length < need_steps:
        longer["model.recurrent_length"] = None
    if config.fit.tbptt_steps is not None and config.fit.tbptt_steps < need_steps:
        longer["fit.tbptt_steps"] = None
    if longer:
        yield longer
    # A bias or a gain set by hand would overrule what an initialization does.
    freed = {f"model.{key}": None for key in ("forget_bias", "init_gain") if getattr(model, key) is not None}
    parts = {"linear_share": 0.0, "linear_length": None, "recurrent_length": None}
    alone = {f"model.{key}": default for key, default in parts.items() if getattr(model, key) != default}  # segrnn's only
    others: list[ArchitectureName] = [name for name in ("lstm", "gru") if name != model.network]
    for architecture in (model.network, *others):
        if architecture == "linear":
            continue
        for name in _initializations(architecture, model.nonlinearity):
            changes: dict[str, Any] = {} if architecture == model.network else {"model.architecture": architecture, **alone}
            if changes or freed or name != model.initialization:
                same = {} if name == model.initialization else {"model.initialization": name}
                yield changes | same | freed | longer


def _initializations(architecture: ArchitectureName, nonlinearity: str) -> Sequence[InitializationName]:
    order = start_order(architecture, nonlinearity)
    return (*order, *(name for name in ALLOWED[architecture] if name not in order))


def with_settings(config: TrainingConfig, changes: dict[str, Any]) -> TrainingConfig:
    """The configuration with dotted keys changed."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


def _windows(prepared: Prepared) -> ForecastInputs:
    generator = torch.Generator().manual_seed(prepared.config.fit.seed)
    windows = TrainingWindows(prepared.store, prepared.splits)
    batch = prepared.store.gather(*windows.sample(SUB_BATCH, generator))
    return batch.inputs
