"""How far the gradient of a network reaches before it has learned anything, on windows of its own data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from models.forecaster import CovariateStatistics, Forecaster, ForecastInputs, RecurrentForecaster
from training.config import TrainingConfig
from training.data.panel import Panel
from training.data.splits import Splits
from training.data.windows import TrainingWindows, WindowStore, covariate_statistics
from training.gradients.jacobian import STACK, SUB_BATCH, measure_jacobian
from training.gradients.lags import LagCurve, half_life_steps, log_spaced_lags, reach_steps
from training.gradients.memory import measure_static_memory
from training.gradients.rules.thresholds import EXPLODING_RATIO
from training.networks import build_network
from training.threads import one_thread


@dataclass(frozen=True)
class LayerReach:
    """One curve of the Jacobian in numbers.

    Attributes:
        layer: Name of the layer, or `stack`.
        steps: Largest lag at which a thousandth of the gradient at lags 1-5 arrives.
        half_life: Steps over which it halves; infinite if it does not decay, NaN if there is nothing to fit.
        ratio_at_need: What arrives at the need, over lags 1-5; at the start of the context if that is nearer.
        largest_ratio: The most that arrives at any lag.
    """

    layer: str
    steps: int
    half_life: float
    ratio_at_need: float
    largest_ratio: float

    @classmethod
    def of(cls, curve: LagCurve, need_steps: int) -> LayerReach:
        """Read a curve."""
        lag = min(need_steps, curve.lags[-1])
        known = [ratio for ratio in curve.ratio if not math.isnan(ratio)]
        return cls(
            curve.layer, reach_steps(curve), half_life_steps(curve), curve.ratio_at(lag), max(known, default=math.nan)
        )

    @property
    def explodes(self) -> bool:
        """Whether the gradient grows beyond use."""
        return self.largest_ratio > EXPLODING_RATIO

    def reaches(self, need_steps: int) -> bool:
        """Whether enough arrives at a lag, and nowhere too much."""
        return not self.explodes and self.steps >= need_steps


def measure_layers(forecaster: RecurrentForecaster, inputs: ForecastInputs, need_steps: int) -> tuple[LayerReach, ...]:
    """Reach of every layer's own recurrence, and of the stack if there are several.

    Args:
        forecaster: The network; neither weights nor random state are touched.
        inputs: Windows, of which a few are used.
        need_steps: Lag that is measured exactly.
    """
    lags = log_spaced_lags(forecaster.config.recurrent_steps, marks=(need_steps,))
    return tuple(LayerReach.of(curve, need_steps) for curve in measure_jacobian(forecaster, inputs, lags))


def whole_stack(layers: Sequence[LayerReach]) -> LayerReach:
    """What counts for the forecast: the stack, or the only layer."""
    return next((layer for layer in layers if layer.layer == STACK), layers[0])


class Start(NamedTuple):
    """A network before its first step.

    Attributes:
        reach: Of the whole stack.
        memory_steps: Time constant of the slowest tenth of units, from the weights alone; infinite if nothing decays.
    """

    reach: LayerReach
    memory_steps: float


class StartProbe:
    """Builds networks as training would and measures their reach, without touching any random state.

    Args:
        panel: The series.
        splits: Where training rows end.
    """

    def __init__(self, panel: Panel, splits: Splits) -> None:
        self.panel, self.splits = panel, splits
        self._statistics: CovariateStatistics | None = None
        self._inputs: dict[int, ForecastInputs] = {}

    def build(self, config: TrainingConfig) -> Forecaster:
        """The network that training would start from, in float32 on the CPU."""
        if self._statistics is None:
            self._statistics = covariate_statistics(self.panel, self.splits)
        with torch.random.fork_rng():
            torch.manual_seed(config.fit.seed)
            return build_network(config, self.panel, self._statistics)

    def measure(self, config: TrainingConfig, need_steps: int) -> Start:
        """Build the network of a recurrent configuration and measure it.

        Raises:
            NetworkConfigError: If the network cannot be built.
        """
        with one_thread():
            forecaster = self.build(config)
            assert isinstance(forecaster, RecurrentForecaster)
            reach = whole_stack(measure_layers(forecaster, self._windows(config), need_steps))
            return Start(reach, max(layer.p90 for layer in measure_static_memory(forecaster)))

    def _windows(self, config: TrainingConfig) -> ForecastInputs:
        context, horizon = config.model.context_length, config.model.horizon
        assert context is not None
        assert horizon is not None
        if context not in self._inputs:
            store = WindowStore(self.panel, context, horizon)
            generator = torch.Generator().manual_seed(config.fit.seed)
            series, cutoff = TrainingWindows(store, self.splits).sample(SUB_BATCH, generator)
            self._inputs[context] = store.gather(series, cutoff).inputs
        return self._inputs[context]
