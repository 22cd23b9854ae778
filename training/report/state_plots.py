"""Figures of what lies behind the flow: gates and states over the training, and what a longer memory would be worth."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from training.gradients.evidence import NeedEvidence
from training.gradients.readings import Readings
from training.plots import BLUE, INK, ORANGE, VERMILION, build_figure, label_steps, style_axis
from training.report.lag_axes import STEPS, cell_edges, name_line, style_bar
from training.report.words import Unit

_GATE_MAPS = {"open": "open, on average", "saturated": "units at their limit", "shut": "units shut or dead"}
SHARE_COLOURS = LinearSegmentedColormap.from_list("share", [(*to_rgb(ORANGE), 0.0), (*to_rgb(ORANGE), 1.0)])


def plot_gate_map(readings: Readings) -> Figure | None:
    """Draw every layer's gates over the training: how far open, how many at their limit, how many shut.

    Args:
        readings: With `gate/<layer>.<gate>.open|saturated|shut`, `state/<layer>.saturated|dead`.

    Returns:
        Three maps side by side with one row per gate, layers from the output down, full colour = 100 %; a last row per
        layer for its states. None if neither gates nor states were measured.
    """
    rows = _gate_rows(readings)
    if not rows:
        return None
    shown = {kind: title for kind, title in _GATE_MAPS.items() if any(kind in row for row in rows.values())}
    figure = build_figure(3.0 + 2.9 * len(shown), 1.3 + 0.27 * len(rows))
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False).reshape(-1)
    mesh: Any = None
    for axis, (kind, title) in zip(axes, shown.items(), strict=True):
        style_axis(axis)
        axis.grid(visible=False)
        for position, row in enumerate(rows.values()):
            if kind not in row:
                continue
            steps, shares = readings.series(row[kind])
            mesh = axis.pcolormesh(
                cell_edges(steps), (position - 0.42, position + 0.42), np.asarray([shares]), cmap=SHARE_COLOURS, vmin=0, vmax=1,
                rasterized=True,
            )  # fmt: skip
            last = f"{shares[-1]:.0%}"
            axis.text(1.01, position, last, transform=axis.get_yaxis_transform(), va="center", fontsize=7.5, color=INK)
        label_steps(axis, title)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_yticks(range(len(rows)), list(rows))
    figure.supxlabel("optimizer step (last value beside each row)", fontsize=9, color=INK)
    percent = FuncFormatter(lambda share, _: f"{share:.0%}")
    style_bar(figure.colorbar(mesh, ax=list(axes), format=percent, shrink=0.9, pad=0.02))
    return figure


def plot_need(need: NeedEvidence, reach: int | None = None, unit: Unit = STEPS) -> Figure | None:
    """Draw how a linear model's error falls as it is shown more of the past: what a long memory is worth.

    Args:
        need: With contexts and errors.
        reach: How far the network's gradient reaches, for comparison.
        unit: What a step of the data is called.

    Returns:
        One panel; None if the need was declared and nothing was tried.
    """
    if not need.contexts:
        return None
    figure = build_figure(7.6, 3.4)
    axis = figure.subplots()
    style_axis(axis)
    axis.plot(need.contexts, need.errors, color=BLUE, linewidth=1.8, marker="o", markersize=3.5, label="linear model")
    axis.set_ylim(bottom=0)
    axis.set_xlim(0, max(need.contexts) * 1.02)
    axis.axvline(need.steps, color=VERMILION, linewidth=1.4)
    name_line(axis, need.steps, f" need: {unit.count(need.steps)}", VERMILION, 0.95, max(need.contexts))
    if reach is not None and reach < max(need.contexts) and reach != need.steps:
        axis.axvline(reach, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        name_line(axis, reach, f" this network's reach: {unit.count(reach)}", INK, 0.86, max(need.contexts))
    axis.set_xlabel(f"{unit.many} of the past shown to the linear model", fontsize=9, color=INK)
    axis.set_ylabel("validation error (spread of a window = 1)", fontsize=9, color=INK)
    axis.set_title("What a longer memory is worth on this data", fontsize=10, loc="left", color=INK)
    return figure


def _gate_rows(readings: Readings) -> dict[str, dict[str, str]]:
    """Row label to the reading of each map, layers from the output down, gates in the cell's order."""
    rows: dict[str, dict[str, str]] = {}
    for name in readings.names("gate/"):
        key, _, kind = name.removeprefix("gate/").rpartition(".")
        layer, _, gate = key.rpartition(".")
        # The mean of a tanh says nothing about how far a gate is open.
        if kind in _GATE_MAPS and not (kind == "open" and gate in ("cell", "new")):
            rows.setdefault(f"{layer} {gate}", {})[kind] = name
    for name in readings.names("state/"):
        layer, _, kind = name.removeprefix("state/").rpartition(".")
        if kind == "saturated":
            rows.setdefault(f"{layer} state", {})["saturated"] = name
        else:
            rows.setdefault(f"{layer} units", {})["shut"] = name
    order = list(dict.fromkeys(label.partition(" ")[0] for label in rows))[::-1]
    return dict(sorted(rows.items(), key=lambda item: order.index(item[0].partition(" ")[0])))
