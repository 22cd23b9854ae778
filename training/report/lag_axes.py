"""What all figures over lag share: colours, axes, thresholds, and the mark at the need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from training.gradients.jacobian import STACK
from training.gradients.lags import REACH_THRESHOLD
from training.gradients.readings import Readings
from training.gradients.rules.thresholds import VANISHING_FAULT
from training.plots import BLUE, FAINT, INK, LINE_COLOURS, VERMILION, style_axis
from training.report.flow import HIGHEST, LOWEST
from training.report.words import Unit, ratio_text

MAX_PANELS = 6
MOST_SHOWN = 1e12
MAX_LABELLED_CELLS = 18
LAG_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000)
STEPS = Unit()


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


def layer_colour(layer: str, position: int) -> str:
    """Ink for the whole network, else one of the colours that every kind of colour vision tells apart."""
    return INK if layer == STACK else LINE_COLOURS[position % len(LINE_COLOURS)]


def spread_layers(layers: list[str]) -> list[str]:
    """At most six: the first, the last, and some between."""
    if len(layers) <= MAX_PANELS:
        return layers
    chosen = np.linspace(0, len(layers) - 1, MAX_PANELS).round().astype(int)
    return [layers[int(index)] for index in chosen]


def cell_edges(points: Sequence[int]) -> Float[np.ndarray, " edges"]:
    """Borders of cells around points: halfway between neighbours, and the first and the last point themselves."""
    values = np.asarray(points, dtype=np.float64)
    if len(values) == 1:
        return np.asarray([values[0] - 0.5, values[0] + 0.5])
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[values[0]], middle, [values[-1]]])


def lag_edges(lags: Sequence[int]) -> Float[np.ndarray, " edges"]:
    """Borders of cells around lags, halfway on the logarithmic axis."""
    values = np.log(np.asarray(lags, dtype=np.float64))
    if len(values) == 1:
        return np.exp(np.asarray([values[0] - 0.35, values[0] + 0.35]))
    middle = (values[1:] + values[:-1]) / 2
    return np.exp(np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]]))


def draw_curve(axis: Axes, curve: Mapping[int, float], colour: str, label: str, **style: Any) -> None:
    """Draw a curve over lag; an empty one is left out."""
    if not curve:
        return
    ratios = np.clip([ratio if ratio > 0 else 0.0 for ratio in curve.values()], 10**LOWEST, MOST_SHOWN)
    # Below what is shown the curve leaves the picture once instead of running along its edge.
    gone = np.flatnonzero(ratios <= 10**LOWEST)
    stop = int(gone[0]) + 1 if len(gone) else len(ratios)
    options: dict[str, Any] = {"linewidth": 1.7, "marker": "o", "markersize": 3} | style
    axis.plot(list(curve)[:stop], ratios[:stop], color=colour, label=label, **options)


def ratio_range(readings: Readings, layers: Sequence[str]) -> tuple[float, float]:
    """Smallest and largest ratio over the training: pictures of all steps share one axis."""
    names = [name for layer in layers for name in readings.names(f"jacobian/{layer}@")]
    values = [value for name in names for value in readings.series(name)[1] if not math.isnan(value)]
    return min(values, default=1.0), max(values, default=1.0)


def draw_thresholds(axis: Axes, lags: list[int], ratios: tuple[float, float]) -> None:
    """Make the axis logarithmic, wide enough for all ratios worth showing, and draw where reach and float32 end."""
    style_axis(axis)
    axis.set_yscale("log")
    smallest, largest = ratios
    low = 10 ** (LOWEST - 0.3) if smallest < 20 * VANISHING_FAULT else min(smallest, REACH_THRESHOLD) / 5
    axis.set_ylim(low, min(max(2 * largest, 5.0), MOST_SHOWN))
    words = {REACH_THRESHOLD: "a thousandth: reach ends here", VANISHING_FAULT: "float32 cannot add it any more"}
    for threshold, text in words.items():
        if threshold >= low:
            axis.axhline(threshold, color=FAINT, linewidth=0.9, linestyle=(0, (3, 2)))
            axis.text(lags[0] * 0.9, threshold * 1.25, text, fontsize=7.5, color=FAINT, va="bottom")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: ratio_text(ratio)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylabel("share of the gradient\n(lags 1–5 = 1)", fontsize=9, color=INK)


def label_lags(axis: Axes, lags: list[int], unit: Unit) -> None:
    """Name and scale the horizontal axis as lags."""
    scale_lags(axis.xaxis, axis.set_xscale, lags)
    axis.set_xlim(*lag_edges(lags)[[0, -1]])
    axis.set_xlabel(f"{unit.many} back from the forecast", fontsize=9, color=INK)


def scale_lags(direction: Any, set_scale: Any, lags: list[int]) -> None:
    """Make an axis logarithmic with ticks at round lags."""
    set_scale("log")
    direction.set_major_locator(FixedLocator([tick for tick in LAG_TICKS if tick <= lags[-1]]))
    direction.set_minor_locator(NullLocator())
    direction.set_major_formatter(FuncFormatter(lambda lag, _: f"{lag:,.0f}"))


def mark_need(axis: Axes, need: int | None, lags: list[int], unit: Unit | None) -> None:
    """A line at the need with its words; without a unit only a mark above."""
    if need is None:
        return
    inside = lags[0] <= need <= lags[-1]
    if inside and unit is not None:
        axis.axvline(need, color=VERMILION, linewidth=1.5)
    elif inside:
        # A line would cross out the number in the cell.
        axis.plot([need], [1.0], marker="v", color=VERMILION, transform=axis.get_xaxis_transform(), clip_on=False)
    if unit is not None:
        words = f"your need: {unit.count(need)}"
        if need > lags[-1]:
            words += ", outside of what is shown →"
        elif need < lags[0]:  # of a network that reads segments
            words = f"← {words}, nearer than what is shown"
        name_line(axis, min(max(need, lags[0]), lags[-1]), words, VERMILION, 0.95, lags[-1], lags[0])


def name_line(
    axis: Axes, where: float, words: str, colour: str, height: float, last: float, first: float = 0.0
) -> None:
    """Words beside a vertical line, on the side with more room."""
    logarithmic = axis.get_xscale() == "log" and 0 < first < last
    share = math.log(where / first) / math.log(last / first) if logarithmic else where / last
    right = share < 0.35
    axis.annotate(
        words.strip(), (where, height), xycoords=axis.get_xaxis_transform(), xytext=(4 if right else -4, 0),
        textcoords="offset points", ha="left" if right else "right", va="center", fontsize=8.5, color=colour, fontweight="bold",
    )  # fmt: skip


def colour_bar(figure: Figure, mesh: Any, axes: Any) -> None:
    """The scale of a heat map in words."""
    bar = figure.colorbar(mesh, ax=list(axes), shrink=0.9, pad=0.02)
    ticks = {-7: "10⁻⁷ nothing", -3: "10⁻³ reach", 0: "1 all", 3: "10³ explodes"}
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    style_bar(bar)


def style_bar(bar: Any) -> None:
    """Give a colour bar this project's look."""
    bar.ax.tick_params(labelsize=7.5, color=FAINT, labelcolor=INK)
    bar.outline.set_edgecolor(FAINT)
    bar.outline.set_linewidth(0.6)
