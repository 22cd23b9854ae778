"""Pictures of a study: its course, what mattered, how settings go together, and each by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from optuna import Study
from optuna.exceptions import OptunaError
from optuna.trial import TrialState

from training.plots import BLUE, FAINT, GREEN, GRID, INK, VERMILION, build_figure, legend_on_top, style_axis
from training.tuning.space import Choices, Dimension, Range
from training.tuning.study import OUTCOME_KEY, counted_trials

MIN_TRIALS_FOR_IMPORTANCE = 4
SLICE_COLUMNS = 3
LOG_MARGIN = 1.15
# State -> colour, marker and what the legend says.
LOOKS = {
    "complete": (BLUE, "o", "healthy"),
    "pruned_by_validation": (FAINT, "v", "pruned: behind the others"),
    "pruned_by_verdict": (VERMILION, "x", "pruned: unhealthy gradients"),
}
Point = Mapping[str, Any]


def study_points(study: Study) -> list[Point]:
    """Ended trials with a validation error: number, state, error and settings."""
    points: list[Point] = []
    for trial in counted_trials(study):
        outcome = trial.user_attrs.get(OUTCOME_KEY)
        if outcome is not None and outcome["val_error"] is not None and math.isfinite(outcome["val_error"]):
            keys = ("state", "val_error", "settings", "metric", "verdict")
            points.append({key: outcome[key] for key in keys} | {"number": trial.number})
    return points


def importances(study: Study) -> dict[str, float]:
    """Share of the variation of the error that each key explains (fANOVA, Hutter et al. 2014); empty if too few trials."""
    complete = [trial for trial in counted_trials(study) if trial.state == TrialState.COMPLETE]
    if len(complete) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    # scikit-learn comes with it: seconds that a search of a few trials need not wait for.
    from optuna.importance import get_param_importances

    try:
        return {key: float(share) for key, share in get_param_importances(study).items()}
    except (OptunaError, ValueError, RuntimeError):
        # All errors equal, or no key that every trial has.
        return {}


def plot_history(points: Sequence[Point]) -> Figure:
    """Validation error of every trial, and the best so far."""
    figure = build_figure(7.6, 3.4)
    axis = figure.subplots()
    _scatter(axis, points, lambda point: point["number"])
    best, course = math.inf, []
    for point in points:
        if point["state"] == "complete":
            best = min(best, point["val_error"])
        course.append(best)
    if math.isfinite(best):
        axis.step([point["number"] for point in points], course, where="post", color=GREEN, lw=1.2, label="best so far")
    _label(axis, "trial", points)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_on_top(figure, axis)
    return figure


def plot_importance(shares: Mapping[str, float]) -> Figure:
    """What explains the differences between the errors."""
    figure = build_figure(7.6, 0.6 + 0.34 * len(shares))
    axis = figure.subplots()
    names = list(shares)[::-1]
    bars = axis.barh(names, [shares[name] for name in names], color=BLUE, height=0.6)
    axis.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=8, color=INK)
    axis.set_xlim(0, 1.08 * max(shares.values()) or 1)
    axis.set_xlabel("share of the variation of the error", color=INK, fontsize=9)
    style_axis(axis)
    return figure


def plot_slices(points: Sequence[Point], space: Mapping[str, Dimension]) -> Figure:
    """Validation error over each key by itself."""
    keys = [key for key in space if any(key in point["settings"] for point in points)]
    columns = min(SLICE_COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    figure = build_figure(3.6 * columns, 2.5 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).reshape(-1)
    for axis in axes[len(keys) :]:
        axis.remove()
    for index, key in enumerate(keys):
        having = [point for point in points if key in point["settings"]]
        scale = Scale(key, space[key])
        _scatter(axes[index], having, lambda point, scale=scale: scale.place(point["settings"]))
        _label(axes[index], key, points if index % columns == 0 else ())
        scale.draw_ticks(axes[index])
    legend_on_top(figure, axes[0])
    return figure


def plot_parallel(points: Sequence[Point], space: Mapping[str, Dimension]) -> Figure:
    """Every trial a line through its settings, ending at its error; the better the darker."""
    keys = [key for key in space if any(key in point["settings"] for point in points)]
    figure = build_figure(max(7.6, 1.3 * (len(keys) + 1)), 4.2)
    axis = figure.subplots()
    errors = np.array([point["val_error"] for point in points])
    low, high = float(errors.min()), float(np.quantile(errors, 0.9))
    spread = max(high - low, 1e-12)
    for point in sorted(points, key=lambda point: -point["val_error"]):
        heights = [_unit(space[key], Scale(key, space[key]).place(point["settings"])) for key in keys]
        rank = min((point["val_error"] - low) / spread, 1.0)
        colour = VERMILION if point["state"] == "pruned_by_verdict" else BLUE
        axis.plot(range(len(keys) + 1), [*heights, 1 - rank], color=colour, alpha=0.15 + 0.75 * (1 - rank), lw=1.1)
    names = [key.partition(".")[2] for key in keys]
    axis.set_xticks(range(len(keys) + 1), [*names, points[0]["metric"].upper()], rotation=25, ha="right", fontsize=8)
    axis.set_yticks([])
    for place, key in enumerate(keys):
        axis.axvline(place, color=GRID, lw=1, zorder=0)
        for text, height in _marks(space[key]):
            axis.text(place, height, f" {text}", fontsize=6.5, color=FAINT, va="center")
    for height, value in ((1.0, low), (0.0, high)):
        axis.text(len(keys), height, f" {value:.3g}", fontsize=6.5, color=INK, va="center")
    axis.set_xlim(-0.1, len(keys) + 0.45)
    return figure


class Scale:
    """Where a key's values stand on an axis: numbers where they are, names at 0, 1, 2 ..."""

    def __init__(self, key: str, dimension: Dimension) -> None:
        self.key, self.dimension = key, dimension

    def place(self, settings: Mapping[str, Any]) -> float:
        """Position of a trial; not a number where it does not have the key."""
        if self.key not in settings:
            return math.nan
        value = settings[self.key]
        return float(self.dimension.choices.index(value)) if isinstance(self.dimension, Choices) else float(value)

    def draw_ticks(self, axis: Axes) -> None:
        """Names, or a logarithmic axis."""
        if isinstance(self.dimension, Choices):
            names = ["null" if choice is None else f"{choice}" for choice in self.dimension.choices]
            axis.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=7)
            return
        if self.dimension.log:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlim(self.dimension.low / LOG_MARGIN, self.dimension.high * LOG_MARGIN)
            if self.dimension.is_whole:
                low, high = math.ceil(math.log2(self.dimension.low)), math.floor(math.log2(self.dimension.high))
                axis.set_xticks([2**power for power in range(low, high + 1)], [str(2**p) for p in range(low, high + 1)])
        elif self.dimension.is_whole:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _unit(dimension: Dimension, place: float) -> float:
    if isinstance(dimension, Choices):
        return place / max(len(dimension.choices) - 1, 1)
    low, high = float(dimension.low), float(dimension.high)
    if dimension.log:
        return (math.log(place) - math.log(low)) / (math.log(high) - math.log(low)) if place == place else math.nan
    return (place - low) / (high - low)


def _marks(dimension: Range | Choices) -> list[tuple[str, float]]:
    if isinstance(dimension, Choices):
        count = max(len(dimension.choices) - 1, 1)
        return [("null" if choice is None else str(choice), i / count) for i, choice in enumerate(dimension.choices)]
    return [(f"{dimension.low:g}", 0.0), (f"{dimension.high:g}", 1.0)]


def _scatter(axis: Axes, points: Sequence[Point], place: Any) -> None:
    for state, (colour, marker, label) in LOOKS.items():
        chosen = [point for point in points if point["state"] == state]
        x, y = [place(point) for point in chosen], [point["val_error"] for point in chosen]
        axis.scatter(x, y, s=22, color=colour, marker=marker, label=label, linewidths=1.2, zorder=3)


def _label(axis: Axes, name: str, points: Sequence[Point]) -> None:
    style_axis(axis)
    axis.set_xlabel(name, color=INK, fontsize=9)
    errors = [point["val_error"] for point in points]
    if errors:
        axis.set_ylabel(points[0]["metric"].upper(), color=INK, fontsize=9)
        # One diverged trial must not press all others into a line.
        if max(errors) > 20 * max(min(errors), 1e-12):
            axis.set_yscale("log")
