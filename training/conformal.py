"""Calibrating a trained network's quantiles on windows that it did not train on: split conformal prediction.

The shift of a level is the quantile of the errors `(y - quantile) / scale` over the calibration windows, with the rank that
makes the coverage hold for one more exchangeable window: the `ceil((n + 1) * level)`-th smallest error in the upper half, and its
mirror in the lower half (Vovk, Gammerman & Shafer 2005; Romano, Patterson & Candes 2019). Validation windows chose the
weights too, and overlap: the promise is approximate, and the backtest on test rows says how it was kept.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.conformal import SplitConformal
from models.forecaster import Forecaster
from training.data.splits import Splits
from training.data.windows import WindowStore, validation_cutoffs
from training.metrics import central_intervals

MAX_WINDOWS = 4096
WINDOWS_PER_BATCH = 256
# Errors per step that a shift should rest on; where there are fewer, neighbouring steps lend theirs.
WANTED_ERRORS = 100


class Errors(NamedTuple):
    """Errors of held-out windows, in units of each window's scale.

    Attributes:
        values: `(y - quantile) / scale` before any shift; 0 where the target is missing.
        mask: True where the target is real and the window has a scale of its own.
    """

    values: Float[np.ndarray, "W H Q"]
    mask: Bool[np.ndarray, "W H"]


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration rests on.

    Attributes:
        method: `split`.
        num_windows: Calibration windows with a real target.
        errors_per_step: Fewest errors that the shift of a step rests on.
        neighbours: Steps on either side that lend their errors.
        coverage_before: Share of the calibration targets inside each central interval, before and ...
        coverage_after: ... after; the latter by construction near its level.
    """

    method: str
    num_windows: int
    errors_per_step: int
    neighbours: int
    coverage_before: dict[str, float]
    coverage_after: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)


def calibrate(
    forecaster: Forecaster, store: WindowStore, splits: Splits, scale_floor: Float[Tensor, " N"]
) -> CalibrationReport | None:
    """Fix the shifts of a network with conformal calibration on the validation windows.

    Args:
        forecaster: Trained; its shifts are replaced.
        store: Windows over the data.
        splits: Where the validation rows are.
        scale_floor: Smallest scale that counts as a window's own, per series; flatter windows are left out.

    Returns:
        What it rests on; None if the network has no calibration, or too few errors for its outermost level: then
        the shifts stay zero.
    """
    calibration, levels = forecaster.calibration, forecaster.config.output_levels
    if not isinstance(calibration, SplitConformal):
        return None
    calibration.set_shift(torch.zeros_like(calibration.shift))
    errors = measure_errors(forecaster, store, splits, scale_floor)
    neighbours = lending_neighbours(errors, levels)
    if neighbours is None:
        return None
    shift = conformal_shift(errors, levels, neighbours)
    calibration.set_shift(torch.from_numpy(shift).to(calibration.shift))
    pooled = [pool_errors(errors, step, neighbours) for step in range(len(shift))]
    return CalibrationReport(
        "split",
        int(errors.mask.any(axis=1).sum()),
        min(len(part) for part in pooled),
        neighbours,
        _coverages(errors, np.zeros_like(shift), levels),
        _coverages(errors, shift, levels),
    )


@torch.no_grad()
def measure_errors(
    forecaster: Forecaster, store: WindowStore, splits: Splits, scale_floor: Float[Tensor, " N"]
) -> Errors:
    """Errors of the network's quantiles as they are, on windows spread over the validation rows."""
    series, cutoff = validation_cutoffs(splits, MAX_WINDOWS)
    parts: list[tuple[Tensor, Tensor]] = []
    was_training = forecaster.training
    forecaster.eval()
    for first in range(0, len(series), WINDOWS_PER_BATCH):
        batch = store.gather(series[first : first + WINDOWS_PER_BATCH], cutoff[first : first + WINDOWS_PER_BATCH])
        scale = forecaster.scale_window(batch.inputs).scale
        error = (batch.target[..., None] - forecaster(batch.inputs)) / scale[..., None]
        has_scale = scale > scale_floor[batch.series][:, None]
        mask = batch.target_mask & has_scale
        parts.append((torch.where(mask[..., None], error, 0.0).float().cpu(), mask.cpu()))
    forecaster.train(was_training)
    return Errors(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))


def lending_neighbours(errors: Errors, levels: tuple[float, ...]) -> int | None:
    """Steps on either side that must lend errors so that every step has enough; None if all together are too few."""
    horizon = errors.mask.shape[1]
    needed = min_errors(levels)
    counts = np.concatenate([[0], np.cumsum(errors.mask.sum(axis=0))])
    for neighbours in range(horizon):
        low = np.maximum(np.arange(horizon) - neighbours, 0)
        high = np.minimum(np.arange(horizon) + neighbours + 1, horizon)
        if (counts[high] - counts[low]).min() >= max(WANTED_ERRORS, needed):
            return neighbours
    return horizon - 1 if counts[-1] >= needed else None


def min_errors(levels: tuple[float, ...]) -> int:
    """Errors without which the outermost level has no finite shift."""
    tail = min(min(level, 1.0 - level) for level in levels)
    return max(1, math.ceil(round(1.0 / tail, 9)) - 1)


def conformal_shift(errors: Errors, levels: tuple[float, ...], neighbours: int) -> Float[np.ndarray, "H Q"]:
    """Shift of every step and level, in units of the window's scale; 0 at the median."""
    horizon = errors.mask.shape[1]
    shift = np.zeros((horizon, len(levels)))
    for step in range(horizon):
        pooled = np.sort(pool_errors(errors, step, neighbours), axis=0)
        for k, level in enumerate(levels):
            if level != 0.5:
                shift[step, k] = pooled[conformal_rank(len(pooled), level) - 1, k]
    return shift


def conformal_rank(count: int, level: float) -> int:
    """Which of `count` errors in increasing order is the shift of a level, from 1; outwards of what the level asks for."""
    position = round((count + 1) * level, 9)
    rank = math.ceil(position) if level > 0.5 else math.floor(position)
    return min(max(rank, 1), count)


def pool_errors(errors: Errors, step: int, neighbours: int) -> Float[np.ndarray, "n Q"]:
    """Errors of a step and of its neighbours on either side."""
    part = slice(max(0, step - neighbours), step + neighbours + 1)
    return errors.values[:, part][errors.mask[:, part]]


def _coverages(errors: Errors, shift: Float[np.ndarray, "H Q"], levels: tuple[float, ...]) -> dict[str, float]:
    rest = errors.values - shift
    return {
        percent: round(float(((rest[..., low] >= 0) & (rest[..., high] <= 0))[errors.mask].mean()), 4)
        for percent, (low, high) in central_intervals(levels).items()
    }
