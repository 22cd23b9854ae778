"""The instruments of a fit: what is measured at which step, on windows that stay the same throughout."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Int64
from torch import Tensor

from models.forecaster import ForecastInputs, RecurrentForecaster, step_channels
from training.gradients.depth import measure_depth
from training.gradients.envelope import measure_envelope
from training.gradients.gates import measure_gates
from training.gradients.jacobian import STACK, SUB_BATCH, measure_jacobian
from training.gradients.lags import LagCurve, half_life_steps, log_spaced_lags, reach_steps
from training.gradients.lyapunov import measure_lyapunov
from training.gradients.past_use import measure_past_use
from training.gradients.reach import Objective, measure_reach
from training.gradients.series_share import measure_series_share
from training.gradients.spectral import measure_spectral_radius
from training.gradients.states import measure_dead_units, measure_states
from training.gradients.trace import trace_layers

Preset = Literal["off", "economy", "full"]

# Steps between two measurements through time; the first is taken before the first update. Short fits are looked at more
# often, so that every fit is measured a few times.
INTERVAL = 100
MIN_INTERVAL = 10
MEASUREMENTS = 4
# The permutation test runs the network once per lag: every so many measurements.
PAST_USE_EVERY = 5
PROBE_WINDOWS = 64
# Sent to the dashboard beside the norms; lag curves and the rest stay in the readings, or they would bury them.
DASHBOARD_PREFIXES = ("grad_reach/", "gate/", "state/")
DASHBOARD_GATE_SUFFIX = ".saturated"
MAX_DASHBOARD_KEYS = 40


@dataclass(frozen=True)
class Probe:
    """The windows that are measured on.

    Attributes:
        inputs: The same throughout a fit, so that a change is the network's.
        objective: The training loss of their forecast.
        series: Which series each is from.
    """

    inputs: ForecastInputs
    objective: Objective
    series: Int64[Tensor, " B"]


class GradientMonitor(ABC):
    """Measures what the training step itself does not show."""

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether to measure after this update; 0 is before the first."""

    @abstractmethod
    def measure(self, step: int) -> dict[str, float]:
        """Everything that is due at this step, by the names of the readings."""


@final
class _NoopMonitor(GradientMonitor):
    def is_due(self, step: int) -> bool:
        return False

    def measure(self, step: int) -> dict[str, float]:
        return {}


NOOP_MONITOR: GradientMonitor = _NoopMonitor()


@final
class RecurrentMonitor(GradientMonitor):
    """The instruments of a recurrent network.

    `economy` measures the Jacobian, gates, states and dead units; `full` also the loss's own reach, the envelope,
    Lyapunov exponent, spectral radius, the series' shares and the use of the past.

    Args:
        forecaster: The network; neither its weights nor their gradients nor any random state are touched.
        probe: What to measure on.
        preset: `economy` or `full`.
        need_steps: Measured exactly, if it lies within the context.
        truncation_steps: As in training.
        max_steps: Budget of the fit; None = long.
    """

    def __init__(
        self,
        forecaster: RecurrentForecaster,
        probe: Probe,
        preset: Preset,
        need_steps: int | None,
        truncation_steps: int | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.forecaster, self.probe, self.preset = forecaster, probe, preset
        self.interval = INTERVAL if max_steps is None else max(min(INTERVAL, max_steps // MEASUREMENTS), MIN_INTERVAL)
        self.truncation_steps = truncation_steps
        length = forecaster.config.recurrent_steps
        self.need_steps = need_steps if need_steps is not None and need_steps <= length else None
        self.lags = log_spaced_lags(length, marks=(self.need_steps,) if self.need_steps else ())

    def is_due(self, step: int) -> bool:
        """Before the first update and after every hundredth, in short fits more often."""
        return step % self.interval == 0

    def measure(self, step: int) -> dict[str, float]:
        """Measure on the probe.

        Args:
            step: Updates done; decides whether the costly permutation test is due as well.

        Returns:
            Readings by name.
        """
        sub_batch = ForecastInputs(*(part[:SUB_BATCH] for part in self.probe.inputs))
        curves = measure_jacobian(self.forecaster, sub_batch, self.lags)
        readings = _curve_readings("jacobian", curves)
        readings |= reach_readings(curves, self.need_steps)
        traces = trace_layers(self.forecaster, sub_batch)
        readings |= measure_gates(traces) | measure_states(traces)
        readings |= measure_dead_units(self.forecaster, sub_batch) | measure_depth(self.forecaster, sub_batch)
        if self.preset == "full":
            readings |= self._measure_fully(step, sub_batch)
        return readings

    def _measure_fully(self, step: int, sub_batch: ForecastInputs) -> dict[str, float]:
        inputs, objective = self.probe.inputs, self.probe.objective
        reach = measure_reach(self.forecaster, inputs, objective, self.lags, self.truncation_steps)
        counted = "c" if self.forecaster.config.cell == "lstm" else "h"
        readings = _curve_readings("reach", [curve for curve in reach if curve.component == counted])
        envelope = measure_envelope(self.forecaster, inputs, objective, self.lags, self.truncation_steps)
        readings |= _curve_readings("envelope", envelope)
        readings |= measure_spectral_radius(self.forecaster)
        readings |= measure_lyapunov(trace_layers(self.forecaster, sub_batch))
        shares = measure_series_share(self.forecaster, inputs, objective, self.probe.series)
        largest, share = next(iter(shares.items()))
        readings |= {"series_share/largest": share, "series_share/largest_series": float(largest)}
        if len(inputs.context) > 1 and step % (self.interval * PAST_USE_EVERY) == 0:
            use = measure_past_use(self.forecaster, inputs, objective, repeats=1)
            readings["past_use/steps"] = float(use.used_steps)
            rises = zip(use.lags, use.increase, strict=True)
            readings |= {f"past_use/increase@{lag}": rise for lag, rise in rises if math.isfinite(rise)}
        return readings


def reach_readings(curves: Sequence[LagCurve], need_steps: int | None) -> dict[str, float]:
    """How far curves reach, and what arrives at the need.

    Args:
        curves: From `measure_jacobian`.
        need_steps: Within the context, or None.

    Returns:
        `grad_reach/<layer>` and `half_life/<layer>` in steps; `grad_reach/ratio_at_need` of the stack, or of the only
        layer.
    """
    readings = {f"grad_reach/{curve.layer}": float(reach_steps(curve)) for curve in curves}
    lives = {f"half_life/{curve.layer}": half_life_steps(curve) for curve in curves}
    readings |= {name: life for name, life in lives.items() if math.isfinite(life)}
    if need_steps is not None:
        ratio = next((curve for curve in curves if curve.layer == STACK), curves[0]).ratio_at(need_steps)
        if math.isfinite(ratio):
            readings["grad_reach/ratio_at_need"] = ratio
    return readings


def dashboard_metrics(readings: dict[str, float]) -> dict[str, float]:
    """What of the readings is sent as metrics: reach, saturated gates and states, at most forty."""
    chosen = {
        name: value
        for name, value in readings.items()
        if name.startswith(DASHBOARD_PREFIXES)
        and (not name.startswith("gate/") or name.endswith(DASHBOARD_GATE_SUFFIX))
    }
    return dict(list(chosen.items())[:MAX_DASHBOARD_KEYS])


def _curve_readings(kind: str, curves: Sequence[LagCurve]) -> dict[str, float]:
    return {
        f"{kind}/{curve.layer}@{lag}": ratio
        for curve in curves
        for lag, ratio in zip(curve.lags, curve.ratio, strict=True)
        if not math.isnan(ratio)
    }


@torch.no_grad()
def data_spreads(forecaster: RecurrentForecaster, inputs: ForecastInputs) -> tuple[float, float, float]:
    """Sizes of what the recurrence reads, after scaling and standardising.

    Args:
        forecaster: The network.
        inputs: Windows.

    Returns:
        Median of abs(y), standard deviation of y, and the largest over the smallest standard deviation of channels
        that vary.
    """
    channels = step_channels(forecaster.standardise(inputs)[0]).double()
    y = channels[..., 0][inputs.observed_mask]
    spreads = channels.flatten(0, 1).std(dim=0)
    varying = spreads[spreads > 0]
    ratio = float(varying.max() / varying.min()) if len(varying) else 1.0
    return float(y.abs().median()) if len(y) else 0.0, float(y.std()) if len(y) > 1 else 0.0, ratio
