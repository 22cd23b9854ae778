"""The gradient made visible: how much of it arrives how far back, in which layer, at which step of the training.

Lags run to the right, "now" at the left edge. In the heat maps full colour means that all of the gradient arrives, no
colour that none does, and red that it grows on its way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.gradients.readings import Readings
from training.plots import (
    FAINT,
    INK,
    LINE_COLOURS,
    VERMILION,
    build_figure,
    figure_to_png,
    label_steps,
    legend_beside,
    legend_on_top,
    style_axis,
)
from training.report.flow import decade_of, flow_map, flow_steps, layer_words, layers_of, spread_steps
from training.report.lag_axes import (
    FLOW_COLOURS,
    FLOW_NORM,
    MAX_LABELLED_CELLS,
    STEPS,
    cell_edges,
    colour_bar,
    draw_curve,
    draw_thresholds,
    label_lags,
    lag_edges,
    layer_colour,
    mark_need,
    ratio_range,
    scale_lags,
    spread_layers,
)
from training.report.words import Unit, ratio_text

PICTURE_DPI = 110


def plot_flow(
    readings: Readings, step: int | None = None, need: int | None = None, layers: Sequence[str] = (), unit: Unit = STEPS
) -> Figure:
    """Draw what arrives at every lag of every layer at one step: as a heat map, and below it as curves.

    Args:
        readings: With `jacobian/<layer>@<lag>`.
        step: Optimizer step of the measurement; None = the last.
        need: Lag out to which the data pays, marked by a line.
        layers: Drawn from top to bottom; empty = all that were measured, the whole stack first.
        unit: What a step of the data is called.

    Returns:
        One figure; every cell holds its ratio to lags 1-5 where there is room.
    """
    names = list(layers) or layers_of(readings)
    curves = {layer: readings.curve(f"jacobian/{layer}", step) for layer in names}
    lags = sorted({lag for curve in curves.values() for lag in curve})
    strip = 0.3 + 0.28 * len(names)
    # A fixed layout: pictures of several steps lie on top of each other behind the slider.
    figure = build_figure(7.6, strip + 3.4, is_fixed=True)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(strip, 2.4))
    inches = {"top": strip + 3.1, "bottom": 0.52}
    margins = {side: value / (strip + 3.4) for side, value in inches.items()}
    figure.subplots_adjust(left=0.16, right=0.98 if len(names) == 1 else 0.82, hspace=0.16, **margins)
    _draw_flow(above, curves, lags)
    when = "" if step is None else f" at step {step:,}"
    above.set_title(f"What arrives{when}, by layer and by how far back", fontsize=10, loc="left", color=INK)
    for k, layer in enumerate(names):
        draw_curve(below, curves[layer], layer_colour(layer, k), layer_words(layer))
    draw_thresholds(below, lags, ratio_range(readings, names))
    label_lags(below, lags, unit)
    for axis in (above, below):
        mark_need(axis, need, lags, unit if axis is below else None)
    if len(names) > 1:
        legend_beside(below)
    return figure


def flow_pictures(readings: Readings, need: int | None = None, unit: Unit = STEPS) -> dict[int, bytes]:
    """The flow at up to sixteen steps of the training as PNG, for the image slider of the dashboard.

    Args:
        readings: With `jacobian/<layer>@<lag>`.
        need: Lag out to which the data pays.
        unit: What a step of the data is called.

    Returns:
        Optimizer step to picture, steps increasing; empty if nothing was measured.
    """
    steps = spread_steps(flow_steps(readings))
    return {step: figure_to_png(plot_flow(readings, step, need, unit=unit), PICTURE_DPI) for step in steps}


def plot_flow_over_time(
    readings: Readings, need: int | None = None, layers: Sequence[str] = (), unit: Unit = STEPS
) -> Figure:
    """Draw, for every layer, what arrived at every lag over the whole training.

    Args:
        readings: With `jacobian/<layer>@<lag>`.
        need: Lag out to which the data pays, marked by a line.
        layers: Panels, six at most; empty = all that were measured, the whole stack first.
        unit: What a step of the data is called.

    Returns:
        One panel per layer: steps to the right, lags upwards, the reach as a line.
    """
    names = spread_layers(list(layers) or layers_of(readings))
    columns = 1 if len(names) == 1 else 2
    rows = max(1, -(-len(names) // columns))
    figure = build_figure(7.6 if columns == 1 else 9.6, 2.6 * rows + 0.7)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).reshape(-1)
    for axis in axes[len(names) :]:
        axis.remove()
    mesh: Any = None
    for axis, layer in zip(axes, names, strict=False):
        steps, lags, decades = flow_map(readings, layer)
        style_axis(axis)
        axis.grid(visible=False)
        mesh = axis.pcolormesh(
            cell_edges(steps), lag_edges(lags), decades, cmap=FLOW_COLOURS, norm=FLOW_NORM, rasterized=True
        )
        reach_steps, reach = readings.series(f"grad_reach/{layer}")
        axis.plot(reach_steps, np.maximum(reach, 1), color=INK, linewidth=1.6, label="reach of this network")
        if need is not None and need <= lags[-1]:
            axis.axhline(need, color=VERMILION, linewidth=1.8, label=f"your need: {unit.count(need)}")
        label_steps(axis, layer_words(layer))
        scale_lags(axis.yaxis, axis.set_yscale, lags)
    figure.supxlabel("optimizer step", fontsize=9, color=INK)
    figure.supylabel(f"{unit.many} back", fontsize=9, color=INK)
    if mesh is not None:
        legend_on_top(figure, axes[0])
        colour_bar(figure, mesh, axes[: len(names)])
    return figure


def plot_lag_curves(
    readings: Readings, need: int | None = None, layers: Sequence[str] = (), unit: Unit = STEPS
) -> Figure:
    """Draw the share of the gradient over lag at the first and the last measurement, against the need.

    Args:
        readings: With `jacobian/<layer>@<lag>`, and, if measured, `reach/` and `envelope/`.
        need: Lag out to which the data pays.
        layers: Those drawn, six at most; empty = all that were measured, the whole stack first.
        unit: What a step of the data is called.

    Returns:
        One panel; the last measurement is solid, the first dashed, the gradient of the loss itself dotted, and for a
        single layer that of the loss at its input dash-dotted.
    """
    names = spread_layers(list(layers) or layers_of(readings))
    steps = flow_steps(readings)
    figure = build_figure(7.6, 4.2)
    axis = figure.subplots()
    style_axis(axis)
    lags = sorted({lag for layer in names for lag in readings.curve(f"jacobian/{layer}")})
    for k, layer in enumerate(names):
        colour, words = layer_colour(layer, k), layer_words(layer)
        draw_curve(axis, readings.curve(f"jacobian/{layer}", steps[-1]), colour, f"{words}, step {steps[-1]:,}")
        if len(steps) > 1:
            first = readings.curve(f"jacobian/{layer}", steps[0])
            draw_curve(axis, first, colour, f"{words}, step {steps[0]:,}", linestyle=(0, (4, 2)), alpha=0.65)
        draw_curve(axis, readings.curve(f"reach/{layer}"), colour, f"{words}, of the loss", linestyle=(0, (1, 1.5)))
        if len(names) == 1:
            envelope = readings.curve(f"envelope/{layer}")
            draw_curve(axis, envelope, FAINT, f"{words}, at its input", linestyle=(0, (5, 1, 1, 1)), linewidth=1.2)
    draw_thresholds(axis, lags, ratio_range(readings, names))
    label_lags(axis, lags, unit)
    mark_need(axis, need, lags, unit)
    axis.set_title("Share of the gradient that arrives, first and last measurement", fontsize=10, loc="left", color=INK)
    legend_beside(axis)
    return figure


def plot_compared_curves(runs: Mapping[str, Readings], need: int | None = None, unit: Unit = STEPS) -> Figure | None:
    """Draw the lag curves of several runs, each of the whole network, into one panel.

    Args:
        runs: Name to readings.
        need: Lag out to which the data pays.
        unit: What a step of the data is called.

    Returns:
        Per run the last measurement solid and the first dashed; None if no run has any.
    """
    measured = {name: (readings, layers_of(readings)[0]) for name, readings in runs.items() if layers_of(readings)}
    if not measured:
        return None
    figure = build_figure(7.6, 4.2)
    axis = figure.subplots()
    lags: set[int] = set()
    ranges = [ratio_range(readings, [layer]) for readings, layer in measured.values()]
    for k, (name, (readings, layer)) in enumerate(measured.items()):
        steps, colour = flow_steps(readings), LINE_COLOURS[k % len(LINE_COLOURS)]
        last, first = (readings.curve(f"jacobian/{layer}", step) for step in (steps[-1], steps[0]))
        draw_curve(axis, last, colour, f"{name}, step {steps[-1]:,}")
        if len(steps) > 1:
            draw_curve(axis, first, colour, f"{name}, step {steps[0]:,}", linestyle=(0, (4, 2)), alpha=0.65)
        lags.update(last)
    draw_thresholds(axis, sorted(lags), (min(low for low, _ in ranges), max(high for _, high in ranges)))
    label_lags(axis, sorted(lags), unit)
    mark_need(axis, need, sorted(lags), unit)
    axis.set_title("Share of the gradient that arrives", fontsize=10, loc="left", color=INK)
    legend_on_top(figure, axis)
    return figure


def plot_compared_series(
    courses: Mapping[str, tuple[Sequence[int], Sequence[float]]], title: str, unit: str, need: int | None = None
) -> Figure | None:
    """Draw one quantity of several runs over optimizer steps.

    Args:
        courses: Name of the run to steps and values.
        title: Of the panel.
        unit: Of the quantity.
        need: Drawn as a level to hold the values against.

    Returns:
        One panel; None if no run measured it.
    """
    measured = {name: course for name, course in courses.items() if course[0]}
    if not measured:
        return None
    figure = build_figure(7.6, 3.2)
    axis = figure.subplots()
    style_axis(axis)
    for k, (name, (steps, values)) in enumerate(measured.items()):
        colour = LINE_COLOURS[k % len(LINE_COLOURS)]
        axis.plot(steps, values, color=colour, linewidth=1.7, marker="o", markersize=3, label=name)
    if need is not None:
        axis.axhline(need, color=FAINT, linewidth=1.2, linestyle=(0, (3, 2)), label="need")
    label_steps(axis, title, unit)
    legend_on_top(figure, axis)
    return figure


def _draw_flow(axis: Axes, curves: Mapping[str, Mapping[int, float]], lags: list[int]) -> None:
    style_axis(axis)
    axis.grid(visible=False)
    edges = lag_edges(lags)
    decades = np.asarray([[decade_of(curve.get(lag, math.nan)) for lag in lags] for curve in curves.values()])
    rows = np.arange(len(curves) + 1) - 0.5
    axis.pcolormesh(edges, rows, decades, cmap=FLOW_COLOURS, norm=FLOW_NORM, edgecolors="#E4E4E4", linewidth=0.6)
    axis.set_yticks(range(len(curves)), [layer_words(layer) for layer in curves])
    axis.set_ylim(len(curves) - 0.5, -0.5)
    axis.tick_params(axis="x", labelbottom=False, length=0)
    if len(lags) > MAX_LABELLED_CELLS:
        return
    centres = np.sqrt(edges[1:] * edges[:-1])
    for row, curve in enumerate(curves.values()):
        for centre, lag in zip(centres, lags, strict=True):
            if lag in curve:
                strong = decade_of(curve[lag]) > -1.3
                axis.text(centre, row, ratio_text(curve[lag]), ha="center", va="center", fontsize=6.5,
                          color="#FFFFFF" if strong else INK)  # fmt: skip
