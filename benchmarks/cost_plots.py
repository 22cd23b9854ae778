"""The pictures of docs/scale.md, drawn from the points of the cost curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, INK, FAINT, GRID = "#0072B2", "#D55E00", "#009E73", "#222222", "#6B6B6B", "#E4E4E4"
LABELS = {
    "series": "series",
    "rows": "rows per series",
    "context": "context, steps",
    "hidden": "units",
    "layers": "layers",
}
Point = Mapping[str, Any]
Curve = tuple[str, str, Callable[[Point], float]]
STEP: list[Curve] = [("processor", BLUE, lambda point: point["step_processor"] * 1e3)]
WORKERS: list[Curve] = [("clock", VERMILION, lambda point: point["step_ms"])]
MEMORY: list[Curve] = [("resident", BLUE, lambda point: point["peak_bytes"] / 1e6)]
DISK: list[Curve] = [("run on disk", GREEN, lambda point: point["disk_bytes"] / 1e6)]
PREPARE: list[Curve] = [("preparation", VERMILION, lambda point: point["prepare_processor"])]


def write_pictures(
    points: Sequence[Point], teams: Mapping[str, Sequence[Point]], axes: Mapping[str, Sequence[int]], base: Point, folder: Path
) -> None:
    """Draw and write all of them as SVG.

    Args:
        points: Of all runs of one process.
        teams: Of one and of several, by network: `workers` and `step_ms`.
        axes: Values per axis.
        base: What the other axes are meanwhile.
        folder: Where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = {axis: _line(points, axis, values, base) for axis, values in axes.items()}
    lines |= {f"processes\n{name}": [(team["workers"], team) for team in group] for name, group in teams.items()}
    pictures = {
        "cost_step": (STEP, ("series", "context", "hidden", "layers"), "processor ms per step"),
        "cost_memory": (MEMORY, ("series", "rows", "context", "hidden"), "resident memory, MB"),
        "cost_disk": (DISK, ("series", "rows", "hidden", "layers"), "disk of a run, MB"),
        "cost_preparation": (PREPARE, ("series", "rows"), "preparation, processor s"),
        "cost_workers": (WORKERS, tuple(f"processes\n{name}" for name in teams), "ms per step"),
    }  # fmt: skip
    for name, (curves, chosen, what) in pictures.items():
        _write(_draw({axis: lines[axis] for axis in chosen}, curves, what), folder / f"{name}.svg")


def _line(points: Sequence[Point], axis: str, values: Sequence[int], base: Point) -> list[tuple[int, Point]]:
    def matches(point: Point, value: int) -> bool:
        return all(point[key] == wanted for key, wanted in {**base, axis: value}.items())

    return [(value, next(point for point in points if matches(point, value))) for value in values]


def _draw(lines: Mapping[str, list[tuple[int, Point]]], curves: Sequence[Curve], what: str) -> Figure:
    """Small panels side by side with one vertical axis in common: what costs more stands higher."""
    figure = Figure(figsize=(min(2.3 * len(lines), 9.2) + 0.9, 2.5), layout="constrained")
    panels = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for panel, (axis, line) in zip(panels, lines.items(), strict=True):
        for _, colour, value in curves:
            places, heights = [place for place, _ in line], [value(point) for _, point in line]
            rises = heights[-1] >= heights[0]  # a number stands where the line is not
            panel.plot(places, heights, color=colour, marker="o", markersize=4.5, linewidth=1.8)
            for place, height in zip(places, heights, strict=True):
                panel.annotate(
                    _short(height),
                    (place, height),
                    xytext=(-2 if rises else 2, 5),
                    textcoords="offset points",
                    ha="right" if rises else "left",
                    fontsize=7.5,
                    color=INK,
                )
        _dress(panel, axis, [place for place, _ in line])
    panels[0].set_ylabel(what, color=INK, fontsize=9)
    panels[0].set_ylim(0, panels[0].get_ylim()[1] * 1.12)
    return figure


def _dress(panel: Axes, axis: str, places: Sequence[int]) -> None:
    if max(places) / min(places) > 4:
        panel.set_xscale("log")
    panel.set_xticks(places, [f"{place // 1000}k" if place % 1000 == 0 else str(place) for place in places])
    panel.minorticks_off()
    panel.margins(x=0.22)
    panel.set_xlabel(LABELS.get(axis, axis), color=INK, fontsize=9)
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=FAINT, labelsize=8, length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(GRID)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _write(figure: Figure, path: Path) -> None:
    """Text stays text, and the same points give the same file."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gradcast", "font.family": "sans-serif"}):
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
