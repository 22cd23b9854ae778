"""From measured points to costs nobody measured: a model of a few coefficients, a check, and what it says of large panels.

Seconds per step grow with the context C, and per step of it with units D and their products D^2, of every layer; preparation is
linear in series and rows; memory in those and in the activations (context x units x layers) and weights; disk in last rows and
weights. Coefficients are least squares of relative errors over all points, none of them negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Point = Mapping[str, Any]
QUANTITIES = ("step_processor", "prepare_processor", "peak_bytes", "disk_bytes")
HOUR = 3600.0


@dataclass(frozen=True)
class CostModel:
    """Coefficients.

    Attributes:
        step: Of seconds per step of 64 windows: of one, C, C D, C D^2, C D^2 of deeper layers, whose input is a whole state.
        prepare: Of seconds: of one, series, rows.
        memory: Of bytes: of one, series, rows, activations, weights.
        disk: Of bytes: of one, kept last rows, weights.
    """

    step: tuple[float, ...]
    prepare: tuple[float, ...]
    memory: tuple[float, ...]
    disk: tuple[float, ...]

    @classmethod
    def fit(cls, points: Sequence[Point]) -> CostModel:
        """Least squares of relative errors."""
        return cls(
            _fit(_step_terms, points, "step_processor"), _fit(_prepare_terms, points, "prepare_processor"),
            _fit(_memory_terms, points, "peak_bytes"), _fit(_disk_terms, points, "disk_bytes"),
        )  # fmt: skip

    def predict(self, point: Point) -> dict[str, float]:
        """Every quantity of a point."""
        terms = (_step_terms, _prepare_terms, _memory_terms, _disk_terms)
        coefficients = (self.step, self.prepare, self.memory, self.disk)
        pairs = zip(QUANTITIES, terms, coefficients, strict=True)
        return {name: float(np.dot(term(point), coefficient)) for name, term, coefficient in pairs}


def _fit(terms: Any, points: Sequence[Point], quantity: str) -> tuple[float, ...]:
    """Not negative: nothing gets cheaper by being more."""
    values = np.array([point[quantity] for point in points], dtype=np.float64)
    rows = np.array([terms(point) for point in points]) / values[:, None]
    size = np.abs(rows).max(axis=0)
    active = size > 0
    while True:
        found = np.zeros(len(size))
        found[active] = (
            np.linalg.lstsq(rows[:, active] / size[active], np.ones(len(rows)), rcond=None)[0] / size[active]
        )
        if (found >= 0).all():
            return tuple(float(value) for value in found)
        active &= found > 0


def _step_terms(point: Point) -> np.ndarray:
    context, hidden, layers = point["context"], point["hidden"], point["layers"]
    return np.array(
        [1, context, context * hidden * layers, context * hidden**2, context * hidden**2 * (layers - 1)], dtype=float
    )


def _prepare_terms(point: Point) -> np.ndarray:
    return np.array([1, point["series"], point["series"] * point["rows"]], dtype=float)


def _memory_terms(point: Point) -> np.ndarray:
    activations = point["context"] * point["hidden"] * point["layers"]
    return np.array([1, point["series"], point["series"] * point["rows"], activations, _weights(point)], dtype=float)


def _disk_terms(point: Point) -> np.ndarray:
    return np.array([1, point["series"] * min(point["rows"], point["context"]), _weights(point)], dtype=float)


def _weights(point: Point) -> float:
    return float(point["hidden"] ** 2 * (2 * point["layers"] - 1))


def check_held_out(model: CostModel, held_out: Point) -> tuple[str, float]:
    """Predicted beside measured of a run that no coefficient has seen; the largest error."""
    predicted = model.predict(held_out)
    errors = {name: predicted[name] / held_out[name] - 1 for name in QUANTITIES}
    units = {"step_processor": (1e3, "ms per step"), "prepare_processor": (1, "s of preparation"),
             "peak_bytes": (1e-6, "MB resident"), "disk_bytes": (1e-6, "MB of disk")}  # fmt: skip
    panel = f"{held_out['series']:,} series x {held_out['rows']:,} rows"
    what = f"{panel}, {held_out['layers']} x {held_out['hidden']} units, context {held_out['context']}"
    lines = [f"## A run the model has not seen: {what}", "", "| | predicted | measured | error |", "|---|---|---|---|"]
    for name, (factor, unit) in units.items():
        lines.append(
            f"| {unit} | {predicted[name] * factor:,.1f} | {held_out[name] * factor:,.1f} | {errors[name]:+.0%} |"
        )
    return "\n".join(lines) + "\n", max(map(abs, errors.values()))


@dataclass(frozen=True)
class Scale:
    """A panel nobody has run here.

    Attributes:
        series: Number of series.
        rows: Rows of each.
        passes: Windows trained on per series.
    """

    series: int
    rows: int = 1000
    passes: int = 10


BATCH = 64
BYTES_PER_MAPPED_ROW = 5  # a value in float32 and a flag
SERIES_PER_SHARD = 1_000_000
FORECAST_STEPS, FORECAST_COLUMNS_BYTES = 24, 20  # per step: name and time compressed, mean and levels


def bytes_per_mapped_series(mapped: Sequence[Point]) -> float:
    """Resident bytes that a series takes whose rows are in files: its name, its place, its splits; mapped pages left out."""
    few, many = mapped
    beside = [point["peak_bytes"] - point["map_bytes"] for point in (few, many)]
    return float(max(beside[1] - beside[0], 0) / (many["series"] - few["series"]))


def simulate(
    model: CostModel, scale: Scale, series_bytes: float, windows_per_processor_second: float
) -> dict[str, float]:
    """Core hours, memory and disk of one panel, in shards of a million series.

    Args:
        model: Fitted.
        scale: The panel.
        series_bytes: Resident bytes of a mapped series.
        windows_per_processor_second: Of bulk forecasts, measured.
    """
    base = {"context": 96, "hidden": 64, "layers": 1, "rows": scale.rows}
    shard = min(scale.series, SERIES_PER_SHARD)
    costs = model.predict(base | {"series": shard})
    shards = -(-scale.series // SERIES_PER_SHARD)
    steps = scale.series * scale.passes / BATCH
    return {
        "shards": shards,
        "prepare_hours": shards * costs["prepare_processor"] / HOUR,
        "fit_hours": steps * costs["step_processor"] / HOUR,
        "shard_bytes": costs["peak_bytes"],
        "shard_mapped_bytes": model.predict(base | {"series": 1})["peak_bytes"] + series_bytes * shard,
        "map_bytes": scale.series * scale.rows * BYTES_PER_MAPPED_ROW,
        "forecast_hours": scale.series / windows_per_processor_second / HOUR,
        "forecast_bytes": scale.series * FORECAST_STEPS * FORECAST_COLUMNS_BYTES,
    }


def format_scales(model: CostModel, series_bytes: float, bulk: Mapping[str, Any]) -> str:
    """What the model says of 10^6 and 10^9 series."""
    rate = bulk_rate(bulk)
    scales = (Scale(10**6), Scale(10**9))
    columns = [simulate(model, scale, series_bytes, rate) for scale in scales]
    rows = {
        "shards of at most 10^6 series": lambda c: f"{c['shards']:,}",
        "preparation, core hours": lambda c: f"{c['prepare_hours']:,.2f}",
        "fit, core hours": lambda c: f"{c['fit_hours']:,.1f}",
        "fit on 64 cores, hours": lambda c: f"{c['fit_hours'] / 64:,.2f}",
        "memory of a shard, series in memory, GB": lambda c: f"{c['shard_bytes'] / 1e9:,.1f}",
        "memory of a shard, series mapped, GB": lambda c: f"{c['shard_mapped_bytes'] / 1e9:,.1f}",
        "mapped panel on disk, GB": lambda c: f"{c['map_bytes'] / 1e9:,.0f}",
        "one forecast of all, core hours": lambda c: f"{c['forecast_hours']:,.2f}",
        "one forecast of all, GB": lambda c: f"{c['forecast_bytes'] / 1e9:,.1f}",
    }
    assumed = (
        f"Assumed: 1,000 rows each; context 96, one LSTM layer of 64 units, {BATCH} windows per step; 10 windows of every "
        f"series are trained on; a mapped series holds {series_bytes:,.0f} bytes beside its rows (measured); forecasts of "
        f"{FORECAST_STEPS} steps at the measured {rate:,.0f} windows per processor second."
    )
    heads = " | ".join(f"{scale.series:,} series" for scale in scales)
    lines = ["## What it means for a million and a billion series", "", assumed, "", f"| | {heads} |", "|---|---|---|"]
    lines += [f"| {name} | {' | '.join(show(column) for column in columns)} |" for name, show in rows.items()]
    return "\n".join(lines) + "\n"


def bulk_rate(bulk: Mapping[str, Any]) -> float:
    """Windows per processor second of `gradcast forecast`, from its benchmark."""
    return float(bulk["output"]["series"]) / float(bulk["whole"]["processor_seconds"])
