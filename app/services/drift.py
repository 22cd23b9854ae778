"""Whether what comes in still looks like what a model was trained on.

Per input channel the shift: how far the windows' mean lies from the training data's, in standard deviations of the
training data. The target is compared with the last rows of the trained series, as far as the bundle keeps them; covariates with
the statistics that the network scales them by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.services.loading import LoadedModel
from models.forecaster import ForecastInputs

# Looking at every window would cost a tenth of its forecast; a slow change needs no more than this.
SECONDS_BETWEEN_LOOKS = 0.1
# A window's weight in the running mean is halved by so many later ones.
HALF_LIFE_WINDOWS = 200.0
MAX_WINDOWS_PER_LOOK = 64


@dataclass(frozen=True)
class Reference:
    """Level and spread of every channel in the training data.

    Attributes:
        channels: `y` first if it is known, then the past covariates.
        loc: Means.
        scale: Standard deviations, positive.
        has_target: Whether `y` is among them.
    """

    channels: tuple[str, ...]
    loc: NDArray[np.float64]
    scale: NDArray[np.float64]
    has_target: bool

    @classmethod
    def of(cls, model: LoadedModel) -> Reference:
        """What a bundle says of its training data."""
        forecaster, y = model.bundle.forecaster, model.context.target_statistics()
        names = model.manifest.columns.past_features
        loc = np.concatenate([[y[0]] if y else [], forecaster.past_loc.numpy()])
        scale = np.concatenate([[y[1]] if y else [], forecaster.past_scale.numpy()])
        return cls((("y",) if y else ()) + tuple(names), loc, scale, y is not None)


class RunningShift:
    """Running means over the windows of one model.

    Args:
        model: The model.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.reference = Reference.of(model)
        self.shift = np.zeros(len(self.reference.channels))
        self.missing = 0.0
        self._weight = 0.0

    def observe(self, inputs: ForecastInputs) -> None:
        """Take windows into the means."""
        observed = inputs.observed_mask[:MAX_WINDOWS_PER_LOOK].numpy()
        count = observed.sum(axis=1)
        means = inputs.past_covariates[:MAX_WINDOWS_PER_LOOK].numpy().mean(axis=1, dtype=np.float64)
        if self.reference.has_target:
            context = inputs.context[:MAX_WINDOWS_PER_LOOK].numpy()
            level = np.where(observed, context, 0.0).sum(axis=1, dtype=np.float64) / np.maximum(count, 1)
            means = np.concatenate([level[:, None], means], axis=1)
        kept = 0.5 ** (len(observed) / HALF_LIFE_WINDOWS)
        self._weight = 1.0 - kept * (1.0 - self._weight)
        share = (1.0 - kept) / self._weight
        shift = ((means - self.reference.loc) / self.reference.scale).mean(axis=0)
        self.shift += share * (np.nan_to_num(shift, posinf=1e9, neginf=-1e9) - self.shift)
        self.missing += share * (1.0 - float(count.sum()) / observed.size - self.missing)


class DriftMonitor:
    """Looks at the windows of every model, a few times per second.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_look: dict[str, float] = {}
        self._running: dict[str, RunningShift] = {}

    def observe(self, model: LoadedModel, inputs: ForecastInputs) -> None:
        """Look at the windows of one request, unless others of this model were looked at a moment ago."""
        name, now = model.version.name, self._clock()
        if now < self._next_look.get(name, 0.0):
            return
        self._next_look[name] = now + SECONDS_BETWEEN_LOOKS
        running = self._running.get(name)
        if running is None or running.model.bundle is not model.bundle:
            running = self._running[name] = RunningShift(model)
        running.observe(inputs)

    def rows(self) -> Iterable[tuple[str, Mapping[str, float], float]]:
        """Name, shift by channel, and share of missing targets of every model that was asked."""
        for name, running in list(self._running.items()):
            yield name, dict(zip(running.reference.channels, running.shift.tolist(), strict=True)), running.missing
