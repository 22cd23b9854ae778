"""The gradient's flow as numbers: what of it arrives how far back, in every layer, at every measured step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from training.gradients.jacobian import STACK
from training.gradients.lags import LagCurve, reach_steps
from training.gradients.readings import Readings

# Decades shown: from a tenth of what float32 can still add, up to gradients that have exploded.
LOWEST, HIGHEST = -8.0, 4.0
# Steps behind a slider: enough to see a change, few enough for a small file.
MAX_FRAMES = 16


def layers_of(readings: Readings) -> list[str]:
    """Layers with a measured flow: the whole stack, then from the output down to the input."""
    names = dict.fromkeys(name.removeprefix("jacobian/").partition("@")[0] for name in readings.names("jacobian/"))
    return [name for name in (STACK, *[name for name in reversed(names) if name != STACK]) if name in names]


def layer_words(layer: str) -> str:
    """What a layer is called in a figure."""
    return "whole network" if layer == STACK else layer


def flow_steps(readings: Readings, layer: str | None = None) -> list[int]:
    """Steps at which a layer's flow (None = any layer's) was measured, increasing."""
    prefix = "jacobian/" if layer is None else f"jacobian/{layer}@"
    return sorted({step for name in readings.names(prefix) for step in readings.series(name)[0]})


def spread_steps(steps: list[int]) -> list[int]:
    """At most as many steps as the slider has places, the first and the last among them."""
    if len(steps) <= MAX_FRAMES:
        return steps
    return [steps[round(place * (len(steps) - 1) / (MAX_FRAMES - 1))] for place in range(MAX_FRAMES)]


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
    rows = [[decade_of(curve.get(lag, math.nan)) for curve in curves] for lag in lags]
    return steps, lags, np.asarray(rows, dtype=np.float64).reshape(len(lags), len(steps))


def median_curve(readings: Readings, layer: str) -> dict[int, float]:
    """A layer's Jacobian curve with the median over the training at every lag."""
    names = readings.names(f"jacobian/{layer}@")
    return dict(sorted((int(name.rpartition("@")[2]), statistics.median(readings.series(name)[1])) for name in names))


def reach_of_curve(curve: Mapping[int, float]) -> int:
    """Lag out to which a curve is at least a thousandth.

    Args:
        curve: Lag to ratio, lags increasing.
    """
    lags, ratios = tuple(curve), tuple(curve.values())
    return reach_steps(LagCurve(STACK, "state", "jacobian", lags, ratios, ratios, (False,) * len(lags)))


def decade_of(ratio: float) -> float:
    """Decimal logarithm within the decades shown; NaN stays NaN."""
    if math.isnan(ratio):
        return math.nan
    return min(max(math.log10(ratio), LOWEST), HIGHEST) if ratio > 0 else LOWEST
