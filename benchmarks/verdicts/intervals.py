"""Rates over runs that come in clusters: three seeds of one configuration are not three independent observations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval.

    Attributes:
        value: The share; NaN of nothing.
        low: Lower end.
        high: Upper end.
        count: Observations.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} .. {self.high:.2f}, n = {self.count})" if self.count else "-"


def rate(observations: Sequence[tuple[str, float | bool | None]]) -> Rate:
    """Mean of the observations, its interval from resampling whole clusters.

    Args:
        observations: Cluster and value in [0, 1] of each.

    Returns:
        The mean; where all clusters agree, resampling knows no spread, and the interval is Wilson's for as many
        observations as there are clusters.
    """
    clusters: dict[str, list[float]] = {}
    for cluster, value in observations:
        clusters.setdefault(cluster, []).append(float(value or 0.0))
    if not clusters:
        return Rate(math.nan, math.nan, math.nan, 0)
    sums = np.array([sum(values) for values in clusters.values()])
    counts = np.array([len(values) for values in clusters.values()])
    value = float(sums.sum() / counts.sum())
    if value in (0.0, 1.0):
        low, high = wilson(value, len(clusters))
    else:
        picked = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
        low, high = np.quantile(sums[picked].sum(axis=1) / counts[picked].sum(axis=1), (0.025, 0.975))
    return Rate(value, float(low), float(high), int(counts.sum()))


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of independent observations."""
    square = NORMAL_95**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, centre - half), min(1.0, centre + half)
