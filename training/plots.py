"""Figures for the dashboard and the model card: drawn with matplotlib's objects, never its global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from training import metrics
from training.data.panel import Panel

if TYPE_CHECKING:
    from training.backtest import BacktestResult

# Okabe & Ito (2008): told apart by every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"
LINE_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
INK, FAINT, GRID = "#222222", "#6B6B6B", "#E4E4E4"
LINE_STYLES = ("-", "--", "-.", ":")
HISTORY_HORIZONS = 2
MAX_MATRICES = 16
DPI = 150


def figure_to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """Render a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def plot_forecasts(result: BacktestResult, panel: Panel, max_series: int = 6) -> Figure:
    """Draw forecasts over what happened, in small panels.

    The panels are spread evenly over the series, each with its newest window; where there are fewer series than
    panels, evenly over all windows. They are not chosen by their score.

    Args:
        result: Forecasts to draw.
        panel: The series, for their history.
        max_series: Panels at most.

    Returns:
        Per panel the tail of the history, the actual values, the median, the widest and narrowest central interval,
        the seasonal naive forecast where there is one, and the cutoff.
    """
    windows = _spread_windows(result, max_series)
    columns = 1 if len(windows) == 1 else 2
    rows = -(-len(windows) // columns)
    figure = build_figure(7.6 if columns == 1 else 5.4 * columns, 2.5 * rows + 0.75)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis in axes[len(windows) :]:
        axis.remove()
    for axis, window in zip(axes, windows, strict=False):
        _draw_window(axis, result, panel, int(window))
    for axis in axes[: len(windows) : columns]:
        axis.set_ylabel(panel.target, color=INK, fontsize=9)
    legend_on_top(figure, axes[0])
    return figure


def plot_losses(
    train_steps: Sequence[int],
    train_losses: Sequence[float],
    val_steps: Sequence[int],
    val_losses: Sequence[float],
    best_step: int | None = None,
) -> Figure:
    """Draw training and validation loss over optimizer steps, the best validation marked.

    Args:
        train_steps: Steps of the training losses.
        train_losses: In the same scale as the validation losses.
        val_steps: Steps of the validation losses.
        val_losses: One per validation.
        best_step: Step whose weights were kept; None marks the lowest validation loss.

    Returns:
        One panel; the axis is logarithmic where the losses span more than a factor of ten.
    """
    figure = build_figure(7.0, 3.6)
    axis = figure.subplots()
    style_axis(axis)
    axis.plot(train_steps, train_losses, color=SKY, linewidth=1.0, label="train")
    axis.plot(val_steps, val_losses, color=BLUE, linewidth=1.8, marker="o", markersize=3, label="validation")
    losses = np.asarray([*train_losses, *val_losses], dtype=np.float64)
    losses = losses[np.isfinite(losses)]
    if len(losses) and losses.min() > 0.0 and losses.max() > 10.0 * losses.min():
        axis.set_yscale("log")
    _mark_best(axis, val_steps, val_losses, best_step)
    label_steps(axis, "Loss", "loss")
    axis.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def plot_grad_norms(
    steps: Sequence[int], norms: Mapping[str, Sequence[float]], max_grad_norm: float | None = None
) -> Figure:
    """Draw the L2 norm of every layer's gradient before clipping, on a logarithmic axis.

    Args:
        steps: Optimizer steps of the readings.
        norms: Norms per layer (`total`, `lstm.0`, ...), one per step; NaN and infinite readings leave a cross on top.
        max_grad_norm: Norm at which the total is clipped, drawn as a line.

    Returns:
        One panel; `total` is drawn in ink.
    """
    figure = build_figure(7.0, 3.8)
    axis = figure.subplots()
    style_axis(axis)
    _draw_norms(axis, steps, norms)
    if max_grad_norm is not None:
        axis.axhline(
            max_grad_norm, color=FAINT, linewidth=1.0, linestyle=(0, (2, 2)), label=f"clip at {max_grad_norm:g}"
        )
    label_steps(axis, "Gradient norm per layer", "L2 norm before clipping")
    legend_beside(axis)
    return figure


def plot_gate_norms(steps: Sequence[int], norms: Mapping[str, Sequence[float]]) -> Figure:
    """Draw gradient norms per gate, one panel per weight matrix, on shared logarithmic axes.

    Args:
        steps: Optimizer steps of the readings.
        norms: Norms per `<layer>.<matrix>.<gate>`, as in `lstm.0.weight_hh.forget`.

    Returns:
        One panel per matrix, at most 16.
    """
    matrices: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in norms.items():
        matrix, _, gate = name.rpartition(".")
        matrices.setdefault(matrix, {})[gate] = values
    shown = dict(list(matrices.items())[:MAX_MATRICES])
    columns = 1 if len(shown) == 1 else 2 if len(shown) <= 8 else 4
    rows = max(1, -(-len(shown) // columns))
    figure = build_figure(max(6.0, 4.0 * columns), 2.2 * rows + 0.7)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).reshape(-1)
    for axis in axes[len(shown) :]:
        axis.remove()
    for axis, (matrix, gates) in zip(axes, shown.items(), strict=False):
        style_axis(axis)
        _draw_norms(axis, steps, gates)
        label_steps(axis, matrix)
    omitted = f" ({len(shown)} of {len(matrices)} matrices)" if len(shown) < len(matrices) else ""
    figure.supxlabel(f"optimizer step{omitted}", fontsize=9, color=INK)
    figure.supylabel("L2 norm before clipping", fontsize=9, color=INK)
    legend_on_top(figure, axes[0])
    return figure


def build_figure(width: float, height: float, is_fixed: bool = False) -> Figure:
    """An empty white figure of a size in inches, drawn without a display; fixed margins are the caller's to set."""
    figure = Figure(figsize=(width, height), layout=None if is_fixed else "constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_axis(axis: Axes) -> None:
    """Give a panel this project's look."""
    axis.set_facecolor("white")
    axis.grid(True, axis="y", color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(FAINT)
    axis.tick_params(colors=INK, labelsize=8, length=3, color=FAINT)


def label_steps(axis: Axes, title: str, unit: str | None = None) -> None:
    """Title a panel over optimizer steps; with a unit, name both axes."""
    if unit is not None:
        axis.set_xlabel("optimizer step", fontsize=9, color=INK)
        axis.set_ylabel(unit, fontsize=9, color=INK)
    axis.set_title(title, fontsize=10, loc="left", color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def legend_on_top(figure: Figure, axis: Axes) -> None:
    """Put a panel's legend above the whole figure."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(max(1, len(labels)), int(figure.get_figwidth() // 1.3))
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK
    )


def legend_beside(axis: Axes) -> None:
    """Put a panel's legend to its right."""
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(
        handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8.5, labelcolor=INK
    )


def _mark_best(axis: Axes, steps: Sequence[int], losses: Sequence[float], best_step: int | None) -> None:
    finite = {step: loss for step, loss in zip(steps, losses, strict=True) if np.isfinite(loss)}
    if not finite:
        return
    step = best_step if best_step in finite else min(finite, key=finite.__getitem__)
    axis.plot([step], [finite[step]], color=VERMILION, marker="*", markersize=11, linestyle="none", zorder=5,
              label=f"best: {finite[step]:.4g} at step {step:,}")  # fmt: skip


def _draw_norms(axis: Axes, steps: Sequence[int], norms: Mapping[str, Sequence[float]]) -> None:
    axis.set_yscale("log")
    layers = [name for name in norms if name != "total"]
    for name, values in norms.items():
        norm = np.asarray(values, dtype=np.float64)
        k = layers.index(name) if name in layers else 0
        colour = INK if name == "total" else LINE_COLOURS[k % len(LINE_COLOURS)]
        style = "-" if name == "total" else LINE_STYLES[k // len(LINE_COLOURS) % len(LINE_STYLES)]
        shown = np.where(np.isfinite(norm) & (norm > 0.0), norm, np.nan)
        axis.plot(steps, shown, color=colour, linestyle=style, linewidth=1.8 if name == "total" else 1.2, label=name)
        broken = np.asarray(steps)[~np.isfinite(norm)]
        if len(broken):
            top = axis.get_xaxis_transform()
            axis.plot(broken, np.full(len(broken), 0.98), color=colour, marker="x", linestyle="none", transform=top)


def _spread_windows(result: BacktestResult, most: int) -> Integer[np.ndarray, " panels"]:
    """Windows to draw: the newest of evenly spread series, or evenly spread windows where the series are few."""
    series = result.origins.series
    newest = np.flatnonzero(np.append(series[1:] != series[:-1], True))
    candidates = newest if len(newest) >= most else np.arange(len(series))
    count = min(most, len(candidates))
    return candidates[np.linspace(0, len(candidates) - 1, count).round().astype(np.int64)]


def _draw_window(axis: Axes, result: BacktestResult, panel: Panel, window: int) -> None:
    series, cutoff, horizon = (
        int(result.origins.series[window]),
        int(result.origins.cutoff[window]),
        result.origins.horizon,
    )
    first = max(0, cutoff - HISTORY_HORIZONS * horizon)
    clock = _clock(panel, series, first, cutoff + horizon)
    past, future = clock[: cutoff - first], clock[cutoff - first :]
    history = slice(int(panel.offsets[series]) + first, int(panel.offsets[series]) + cutoff)
    known = np.where(panel.observed[history], panel.values[history], np.nan)
    actual = np.where(result.observed[window], result.y[window], np.nan)
    style_axis(axis)
    _draw_bands(axis, future, result, window)
    axis.plot(clock, np.concatenate([known, actual]), color=INK, linewidth=1.1, label="actual")
    if "seasonal_naive" in result.baseline_forecasts:
        axis.plot(future, result.baseline_forecasts["seasonal_naive"][window], color=VERMILION, linewidth=0.9,
                  linestyle=(0, (3, 1.5)), label="seasonal naive")  # fmt: skip
    axis.plot(future, result.point[window], color=BLUE, linewidth=1.6, label="median forecast")
    axis.axvline(past[-1], color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)), label="cutoff")
    axis.set_title(_window_title(result, panel, window, past[-1]), fontsize=9, loc="left", color=INK)
    axis.margins(x=0.01)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if np.nanmax(np.abs(np.append(known, result.point[window])), initial=0.0) >= 1000:
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if panel.time_kind == "datetime":
        locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axis.xaxis.get_offset_text().set(fontsize=8, color=FAINT)


def _draw_bands(axis: Axes, future: Any, result: BacktestResult, window: int) -> None:
    intervals = list(metrics.central_intervals(result.quantile_levels).items())
    for k, (percent, (lower, upper)) in enumerate([intervals[0], intervals[-1]] if len(intervals) > 1 else intervals):
        low, high = result.quantiles[window, :, lower], result.quantiles[window, :, upper]
        label = f"{percent} % interval"
        axis.fill_between(future, low, high, color=BLUE, alpha=(0.16, 0.28)[k], linewidth=0, label=label)


def _window_title(result: BacktestResult, panel: Panel, window: int, cutoff: Any) -> str:
    series = int(result.origins.series[window])
    error = metrics.mae(result.y[[window]], result.point[[window]], result.observed[[window]])
    name = panel.ids[series] if len(panel.ids[series]) <= 28 else panel.ids[series][:27] + "…"
    scaled = error / float(result.scale.absolute[series])
    when = np.datetime_as_string(cutoff, unit="m").replace("T", " ") if panel.time_kind == "datetime" else str(cutoff)
    return f"{name}, known to {when.removesuffix(' 00:00')} · " + (
        f"MASE {scaled:.2f}" if np.isfinite(scaled) else f"MAE {error:.3g}"
    )


def _clock(panel: Panel, series: int, start: int, stop: int) -> Any:
    """Timestamps as numpy understands them, in local time."""
    timestamps: Any = panel.timestamps(series, start, stop)
    return np.asarray(timestamps.tz_localize(None) if getattr(timestamps, "tz", None) is not None else timestamps)
