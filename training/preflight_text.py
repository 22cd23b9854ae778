"""The preflight in words: a headline, notes before training, and a page for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from training.fit_cost import FitCost
from training.fit_disk import DiskEstimate
from training.fit_memory import MemoryEstimate
from training.gradients.need import Need

if TYPE_CHECKING:
    from training.preflight import Alternative, Preflight

MAX_NAMED = 2
_NO_NEED = "shows no need of memory beyond what scaling and covariates hand over"
_SOURCES = {"declared": "as you declared", "ridge": "by a linear model", "season": "a season of your data"}


def headline(found: Preflight) -> str:
    """What was found, and what to do, in a sentence."""
    start, network, wanted = found.whole, found.config.model.network, found.wanted_steps
    if start is None:
        return "A linear network has no recurrence: there is no gradient through time that could vanish."
    if start.explodes:
        grown = f"The gradient of this {network} grows {start.largest_ratio:.2g}-fold on its way back, before any step"
        return f"{grown}: {_advice(found)}."
    if found.need is None:
        return f"The gradient of this {network} reaches {_steps(start.steps)} at its start; how far the data pays was not asked."
    if wanted <= 1:
        nothing = "pays back to the last step and no further" if found.need.is_shown else _NO_NEED
        return f"Your data {nothing}; this {network} reaches {_steps(start.steps)} at its start."
    pays = f"Your data pays back to {_steps(wanted)}{_gain(found.need)}"
    if found.visible_steps < wanted:
        return f"{pays}; training sees {_steps(found.visible_steps)}: {_advice(found)}."
    if found.reaches:
        return (
            f"{pays}; this {network} reaches there at its start: {ratio(start.ratio_at_need)} of its gradient arrives."
        )
    return f"{pays}; this {network} reaches {start.steps} at its start: {_advice(found)}."


def notes(found: Preflight) -> tuple[str, ...]:
    """Reach against need, the memory in the weights, and the cost."""
    said = [f"preflight: {found.headline}"]
    slowest = max((layer.p90 for layer in found.memory), default=math.nan)
    if found.whole is not None and found.wanted_steps > 1 and not math.isnan(slowest):
        keeps = "a state without end" if slowest == math.inf else f"a state for {number(slowest)} steps"
        said.append(f"at the start the slowest tenth of units keeps {keeps}")
    said.append(f"the fit needs {_cost(found.cost)}")
    return tuple(said)


def describe(found: Preflight) -> str:
    """A page for a terminal."""
    model = found.config.model
    rows = [
        ("network", f"{model.network}{_network(found)}"),
        ("context", _context(found)),
        ("need", _need(found.need)),
    ]
    lines = [found.headline, "", *_aligned(rows)]
    if found.layers:
        lines += ["", *_table(found)]
    memory, cost = found.cost.memory, found.cost
    parts = f"weights {size(memory.weights)}, gradients {size(memory.gradients)}, optimizer {size(memory.optimizer)}"
    parts += f", activations of a batch {size(memory.activations)}, series {size(memory.panel)}"
    costs = [("memory", f"{size(memory.total)} for the fit: {parts}"), *_process(memory)]
    lines += ["", *_aligned([*costs, ("disk", _disk(cost.disk)), ("time", _time(cost, found))])]
    if found.alternatives:
        lines += ["", "settings whose start would reach, the smallest change first, each for --set"]
        lines += [_alternative_line(alternative) for alternative in found.alternatives]
        lines += ["Reach is where learning can begin, not accuracy: whether a change helps, validation loss says."]
    return "\n".join(lines)


def settings_text(settings: dict[str, Any]) -> str:
    """Changes as one would type them after --set."""
    return " ".join(f"{key}={'null' if value is None else value}" for key, value in settings.items())


def ratio(value: float) -> str:
    """A share of the gradient, with as many digits as it deserves."""
    if math.isnan(value):
        return "nothing measurable"
    return f"{value:.2f}" if 0.01 <= value < 100 else f"{value:.0e}"


def number(value: float) -> str:
    """A number of steps or units: whole from 10 on."""
    return (
        "no end"
        if value == math.inf
        else "none"
        if math.isnan(value)
        else f"{value:.1f}"
        if value < 10
        else f"{value:,.0f}"
    )


def size(num_bytes: int) -> str:
    """Bytes in decimal units."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def duration(seconds: float) -> str:
    """A time that people say."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _steps(count: int) -> str:
    return f"{count:,} step{'' if count == 1 else 's'}"


def _gain(need: Need) -> str:
    gain = need.evidence.get("gain", 0.0)
    if need.source == "declared":
        return " (as you declared)"
    return f" (a linear model gains {gain:.0%})" if gain > 0 else " (its season)"


def _advice(found: Preflight) -> str:
    if not found.alternatives:
        return "no other start that was tried reaches; bring the need closer with covariates or a shorter step"
    named = [
        f"{' with '.join(settings_text({key: value}) for key, value in entry.set.items())} ({entry.reach_steps})"
        for entry in _named(found)
    ]
    return f"set {', or '.join(named)}"


def _named(found: Preflight) -> list[Alternative]:
    """The smallest change; where that leaves a cell without gates, also the first with gates."""
    first, *others = found.alternatives
    if found.config.model.network != "rnn" or "model.architecture" in first.set:
        return [first]
    return [first, *(entry for entry in others if "model.architecture" in entry.set)][:MAX_NAMED]


def _network(found: Preflight) -> str:
    model = found.config.model
    if not found.layers:
        return ""
    layers = f", {model.num_layers} layers" if model.num_layers > 1 else ""
    return f", {model.hidden_size} units{layers}, initialization {model.initialization}"


def _context(found: Preflight) -> str:
    truncated = (
        f", of which backpropagation sees {found.visible_steps:,}" if found.visible_steps < found.context_steps else ""
    )
    return f"{_steps(found.context_steps)}{truncated}"


def _need(need: Need | None) -> str:
    if need is None:
        return "not looked for"
    text = f"{_steps(need.steps)}, {_SOURCES[need.source]}"
    if not need.is_shown:
        return f"{text}; less costs a linear model nothing" if need.errors else f"{text}; too few windows to show it"
    gain = need.evidence.get("gain")
    return text if gain is None else f"{text}; its far half takes away {gain:.0%} of a linear model's error"


def _table(found: Preflight) -> list[str]:
    """Reach, half life, what is left and static memory, layer by layer."""
    constants = {memory.layer: memory for memory in found.memory}
    lag = min(found.wanted_steps, found.context_steps) if found.wanted_steps > 1 else found.context_steps
    rows = [("at the start", "reach", "half-life", f"left at {lag:,}", "memory p90", "spectral radius")]
    for layer in found.layers:
        memory = constants.get(layer.layer)
        radius = found.spectral_radius.get(f"spectral_radius/{layer.layer}")
        rows.append(
            (
                layer.layer, f"{layer.steps:,}", number(layer.half_life), ratio(layer.ratio_at_need),
                "" if memory is None else number(memory.p90), "" if radius is None else f"{radius:.2f}",
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _time(cost: FitCost, found: Preflight) -> str:
    if cost.time is None:
        return f"unknown, the first step fails: {cost.failure}"
    fit = found.config.fit
    checks = -(-fit.max_steps // fit.val_check_steps)
    how = "" if cost.time.is_measured else ", scaled up from a few windows"
    looks = f" and {duration(cost.time.look)} per look at the gradient" if cost.time.look else ""
    parts = f"{fit.max_steps:,} steps of {duration(cost.time.step)}{looks}, {checks} checks of {duration(cost.time.check)}{how}"
    others = f"; {duration(cost.time.processor)} of processor time: others keep this machine busy" if cost.time.is_busy else ""
    final = ", and at most as many steps on all rows" if fit.final else ""
    bound = ", less if it stops early" if fit.patience is not None else ""
    return f"about {duration(cost.time.fit)} on {_threads(cost.time.num_threads)}{bound}: {parts}{final}{others}"


def _process(memory: MemoryEstimate) -> list[tuple[str, str]]:
    process = memory.process
    if process is None:
        return []
    parts = f"interpreter, torch and other libraries {size(process.libraries)}, preparation {size(process.preparation)}"
    return [("process", f"at most {size(process.peak)} resident: {parts}, fit and backtest {size(process.fit)}")]


def _disk(disk: DiskEstimate) -> str:
    parts = f"checkpoints {size(disk.checkpoints)}, bundle {size(disk.bundle)}, backtest {size(disk.backtest)}"
    mapped = f"; and {size(disk.map)} for the mapped panel, once for all runs on this data" if disk.map else ""
    return f"{size(disk.run)} for the run: {parts}, reports {size(disk.reports)}{mapped}"


def _cost(cost: FitCost) -> str:
    process = cost.memory.process
    memory = f"about {size(cost.memory.total)}" if process is None else f"about {size(process.peak)} resident"
    if cost.time is None:
        return f"{memory}; its first step fails: {cost.failure}"
    return f"{memory}, {size(cost.disk.total)} of disk and {duration(cost.time.fit)} on {_threads(cost.time.num_threads)}"


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _alternative_line(alternative: Alternative) -> str:
    memory = "without end" if alternative.memory_steps == math.inf else f"of {number(alternative.memory_steps)} steps"
    facts = f"reaches {alternative.reach_steps:,}, {ratio(alternative.ratio_at_need)} arrives, memory {memory}"
    return f"  {settings_text(alternative.set)}: {facts}"


def _aligned(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {text}" for name, text in rows]
