"""The gradient made visible: how much of it arrives how far back, in which layer, at which step of the training.

Lags run to the right, "now" at the left edge. In the heat maps full colour means that all of the gradient arrives, no
colour that none does, and red that it grows on its way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from training.gradients.evidence import NeedEvidence
from training.gradients.jacobian import STACK
from training.gradients.lags import REACH_THRESHOLD
from training.gradients.readings import Readings
from training.gradients.rules.thresholds import VANISHING_FAULT
from training.plain_words import Unit, ratio_text
from training.plots import (
    BLUE,
    FAINT,
    INK,
    LINE_COLOURS,
    ORANGE,
    VERMILION,
    build_figure,
    label_steps,
    legend_beside,
    legend_on_top,
    style_axis,
)

# Decades shown: from a tenth of what float32 can still add, up to gradients that have exploded.
LOWEST, HIGHEST = -8.0, 4.0
MAX_PANELS = 6
MAX_LABELLED_CELLS = 18
LAG_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000)
STEPS = Unit()
_GATE_MAPS = {"open": "open, on average", "saturated": "units at their limit", "shut": "units shut or dead"}


def _shade(decade: float, colour: str, alpha: float) -> tuple[float, tuple[float, float, float, float]]:
    return (decade - LOWEST) / (HIGHEST - LOWEST), (*to_rgb(colour), alpha)


# Transparent where nothing arrives, so that the maps work on a white and on a dark page.
FLOW_COLOURS = LinearSegmentedColormap.from_list(
    "flow",
    [
        _shade(LOWEST, BLUE, 0.0), _shade(-7, BLUE, 0.03), _shade(-3, BLUE, 0.35), _shade(0, BLUE, 0.95),
        _shade(1, BLUE, 1.0), _shade(3, VERMILION, 1.0), _shade(HIGHEST, VERMILION, 1.0),
    ],
)  # fmt: skip
FLOW_NORM = Normalize(LOWEST, HIGHEST, clip=True)
SHARE_COLOURS = LinearSegmentedColormap.from_list("share", [(*to_rgb(ORANGE), 0.0), (*to_rgb(ORANGE), 1.0)])


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
    height = 0.34 * len(names)
    figure = build_figure(7.6, 3.5 + height)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(0.55 + height, 2.7))
    _draw_flow(above, curves, lags)
    when = "" if step is None else f" at step {step:,}"
    above.set_title(f"What arrives{when}, by layer and by how far back", fontsize=10, loc="left", color=INK)
    for k, layer in enumerate(names):
        _draw_curve(below, curves[layer], _colour(layer, k), layer_words(layer))
    _draw_thresholds(below, lags)
    _label_lags(below, lags, unit)
    for axis in (above, below):
        _mark_need(axis, need, lags, unit if axis is below else None)
    if len(names) > 1:
        legend_beside(below)
    return figure


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
    names = _spread(list(layers) or layers_of(readings))
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
            _edges(steps), _log_edges(lags), decades, cmap=FLOW_COLOURS, norm=FLOW_NORM, rasterized=True
        )
        reach_steps, reach = readings.series(f"grad_reach/{layer}")
        axis.plot(reach_steps, np.maximum(reach, 1), color=INK, linewidth=1.6, label="reach of this network")
        if need is not None and need <= lags[-1]:
            axis.axhline(need, color=VERMILION, linewidth=1.8, label=f"your need: {unit.count(need)}")
        label_steps(axis, layer_words(layer))
        _scale_lags(axis.yaxis, axis.set_yscale, lags)
    figure.supxlabel("optimizer step", fontsize=9, color=INK)
    figure.supylabel(f"{unit.many} back", fontsize=9, color=INK)
    if mesh is not None:
        legend_on_top(figure, axes[0])
        _colour_bar(figure, mesh, axes[: len(names)])
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
        One panel; the last measurement is solid, the first dashed, the gradient of the loss itself dotted.
    """
    names = _spread(list(layers) or layers_of(readings))
    steps = flow_steps(readings)
    figure = build_figure(7.6, 4.2)
    axis = figure.subplots()
    style_axis(axis)
    lags = sorted({lag for layer in names for lag in readings.curve(f"jacobian/{layer}")})
    for k, layer in enumerate(names):
        colour, words = _colour(layer, k), layer_words(layer)
        _draw_curve(axis, readings.curve(f"jacobian/{layer}", steps[-1]), colour, f"{words}, step {steps[-1]:,}")
        if len(steps) > 1:
            first = readings.curve(f"jacobian/{layer}", steps[0])
            _draw_curve(axis, first, colour, f"{words}, step {steps[0]:,}", linestyle=(0, (4, 2)), alpha=0.65)
        _draw_curve(axis, readings.curve(f"reach/{layer}"), colour, f"{words}, of the loss", linestyle=(0, (1, 1.5)))
    _draw_thresholds(axis, lags)
    _label_lags(axis, lags, unit)
    _mark_need(axis, need, lags, unit)
    axis.set_title("Share of the gradient that arrives, first and last measurement", fontsize=10, loc="left", color=INK)
    legend_beside(axis)
    return figure


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
                _edges(steps), (position - 0.42, position + 0.42), np.asarray([shares]), cmap=SHARE_COLOURS, vmin=0, vmax=1,
                rasterized=True,
            )  # fmt: skip
            last = f"{shares[-1]:.0%}"
            axis.text(1.01, position, last, transform=axis.get_yaxis_transform(), va="center", fontsize=7.5, color=INK)
        label_steps(axis, title)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_yticks(range(len(rows)), list(rows))
    figure.supxlabel("optimizer step (last value beside each row)", fontsize=9, color=INK)
    figure.colorbar(mesh, ax=axes, format=FuncFormatter(lambda share, _: f"{share:.0%}"), shrink=0.9, pad=0.02)
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
    _name_line(axis, need.steps, f" need: {unit.count(need.steps)}", VERMILION, 0.94, max(need.contexts))
    if reach is not None and reach < max(need.contexts) and reach != need.steps:
        axis.axvline(reach, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        _name_line(axis, reach, f" this network's reach: {unit.count(reach)}", INK, 0.84, max(need.contexts))
    axis.set_xlabel(f"{unit.many} of the past shown to the linear model", fontsize=9, color=INK)
    axis.set_ylabel("validation error (spread of a window = 1)", fontsize=9, color=INK)
    axis.set_title("What a longer memory is worth on this data", fontsize=10, loc="left", color=INK)
    return figure


def flow_map(readings: Readings, layer: str) -> tuple[list[int], list[int], Float[np.ndarray, "lags steps"]]:
    """One layer's flow as numbers.

    Args:
        readings: With `jacobian/<layer>@<lag>`.
        layer: Its name, or `stack`.

    Returns:
        Steps, lags, and the decimal logarithm of the ratio: -8 where it is below 1e-8 or zero, NaN where it was not
        measured.
    """
    steps = flow_steps(readings, layer)
    curves = [readings.curve(f"jacobian/{layer}", step) for step in steps]
    lags = sorted({lag for curve in curves for lag in curve})
    rows = [[_decade(curve.get(lag, math.nan)) for curve in curves] for lag in lags]
    return steps, lags, np.asarray(rows, dtype=np.float64).reshape(len(lags), len(steps))


def flow_steps(readings: Readings, layer: str | None = None) -> list[int]:
    """Steps at which a layer's flow (None = any layer's) was measured, increasing."""
    prefix = "jacobian/" if layer is None else f"jacobian/{layer}@"
    return sorted({step for name in readings.names(prefix) for step in readings.series(name)[0]})


def layers_of(readings: Readings) -> list[str]:
    """Layers with a measured flow: the whole stack, then from the output down to the input."""
    names = dict.fromkeys(name.removeprefix("jacobian/").partition("@")[0] for name in readings.names("jacobian/"))
    return [name for name in (STACK, *[name for name in reversed(names) if name != STACK]) if name in names]


def layer_words(layer: str) -> str:
    """What a layer is called in a figure."""
    return "whole network" if layer == STACK else layer


def _decade(ratio: float) -> float:
    if math.isnan(ratio):
        return math.nan
    return min(max(math.log10(ratio), LOWEST), HIGHEST) if ratio > 0 else LOWEST


def _colour(layer: str, position: int) -> str:
    return INK if layer == STACK else LINE_COLOURS[position % len(LINE_COLOURS)]


def _spread(layers: list[str]) -> list[str]:
    """At most six: the first, the last, and some between."""
    if len(layers) <= MAX_PANELS:
        return layers
    chosen = np.linspace(0, len(layers) - 1, MAX_PANELS).round().astype(int)
    return [layers[int(index)] for index in chosen]


def _edges(points: Sequence[int]) -> Float[np.ndarray, " edges"]:
    """Borders of cells around points: halfway between neighbours."""
    values = np.asarray(points, dtype=np.float64)
    if len(values) == 1:
        return np.asarray([values[0] - 0.5, values[0] + 0.5])
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[values[0]], middle, [values[-1] + (values[-1] - middle[-1])]])


def _log_edges(lags: Sequence[int]) -> Float[np.ndarray, " edges"]:
    """Borders of cells around lags, halfway on the logarithmic axis."""
    values = np.log(np.asarray(lags, dtype=np.float64))
    if len(values) == 1:
        return np.exp(np.asarray([values[0] - 0.35, values[0] + 0.35]))
    middle = (values[1:] + values[:-1]) / 2
    return np.exp(np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]]))


def _draw_flow(axis: Axes, curves: Mapping[str, Mapping[int, float]], lags: list[int]) -> None:
    style_axis(axis)
    axis.grid(visible=False)
    edges = _log_edges(lags)
    decades = np.asarray([[_decade(curve.get(lag, math.nan)) for lag in lags] for curve in curves.values()])
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
                strong = -1.3 < _decade(curve[lag])
                axis.text(centre, row, ratio_text(curve[lag]), ha="center", va="center", fontsize=6.5,
                          color="#FFFFFF" if strong else INK)  # fmt: skip


def _draw_curve(axis: Axes, curve: Mapping[int, float], colour: str, label: str, **style: Any) -> None:
    if not curve:
        return
    ratios = np.clip([ratio if ratio > 0 else 0.0 for ratio in curve.values()], 10**LOWEST, 1e12)
    # Below what is shown the curve leaves the picture once instead of running along its edge.
    gone = np.flatnonzero(ratios <= 10**LOWEST)
    stop = int(gone[0]) + 1 if len(gone) else len(ratios)
    options = {"linewidth": 1.7, "marker": "o", "markersize": 3} | style
    axis.plot(list(curve)[:stop], ratios[:stop], color=colour, label=label, **options)


def _draw_thresholds(axis: Axes, lags: list[int]) -> None:
    style_axis(axis)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(10 ** (LOWEST - 0.3) if low < 2 * VANISHING_FAULT else min(low, REACH_THRESHOLD / 5), max(high, 3.0))
    words = {REACH_THRESHOLD: "a thousandth: reach ends here", VANISHING_FAULT: "float32 cannot add it any more"}
    for threshold, text in words.items():
        if threshold >= axis.get_ylim()[0]:
            axis.axhline(threshold, color=FAINT, linewidth=0.9, linestyle=(0, (3, 2)))
            axis.text(lags[0] * 0.9, threshold * 1.25, text, fontsize=7.5, color=FAINT, va="bottom")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: ratio_text(ratio).removeprefix("1·")))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylabel("share of the gradient\n(lags 1–5 = 1)", fontsize=9, color=INK)


def _label_lags(axis: Axes, lags: list[int], unit: Unit) -> None:
    _scale_lags(axis.xaxis, axis.set_xscale, lags)
    axis.set_xlim(*_log_edges(lags)[[0, -1]])
    axis.set_xlabel(f"{unit.many} back from the forecast", fontsize=9, color=INK)


def _scale_lags(direction: Any, set_scale: Any, lags: list[int]) -> None:
    set_scale("log")
    direction.set_major_locator(FixedLocator([tick for tick in LAG_TICKS if tick <= lags[-1]]))
    direction.set_minor_locator(NullLocator())
    direction.set_major_formatter(FuncFormatter(lambda lag, _: f"{lag:,.0f}"))


def _mark_need(axis: Axes, need: int | None, lags: list[int], unit: Unit | None) -> None:
    """A line at the need with its words; without a unit only a mark above."""
    if need is None:
        return
    inside = need <= lags[-1]
    if inside and unit is not None:
        axis.axvline(need, color=VERMILION, linewidth=1.5)
    elif inside:
        # A line would cross out the number in the cell.
        axis.plot([need], [1.0], marker="v", color=VERMILION, transform=axis.get_xaxis_transform(), clip_on=False)
    if unit is not None:
        words = f"your need: {unit.count(need)}" + ("" if inside else ", outside of what is shown →")
        _name_line(axis, min(need, lags[-1]), words, VERMILION, 0.06, lags[-1], lags[0])


def _name_line(axis: Axes, where: float, words: str, colour: str, height: float, last: float, first: float = 0.0) -> None:
    """Words beside a vertical line, on the side with more room."""
    logarithmic = axis.get_xscale() == "log"
    share = math.log(where / first) / math.log(last / first) if logarithmic and first else where / last
    right = share < 0.55
    axis.annotate(
        words.strip(), (where, height), xycoords=axis.get_xaxis_transform(), xytext=(4 if right else -4, 0),
        textcoords="offset points", ha="left" if right else "right", fontsize=8.5, color=colour, fontweight="bold",
    )  # fmt: skip


def _colour_bar(figure: Figure, mesh: Any, axes: Any) -> None:
    bar = figure.colorbar(mesh, ax=list(axes), shrink=0.9, pad=0.02)
    ticks = {-7: "10⁻⁷ nothing", -3: "10⁻³ reach", 0: "1 all", 3: "10³ explodes"}
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(labelsize=7.5, color=FAINT)


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
