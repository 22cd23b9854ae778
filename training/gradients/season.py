"""The seasons of windows: the lags at which they most resemble themselves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_WINDOWS = 4096
# Autocorrelation from which a season counts as one.
MIN_AUTOCORRELATION = 0.3
# A longer season must beat a shorter one by this much, or its multiples would be taken for it.
MARGIN = 0.03
# Lags longer than this share of the window rest on too few pairs.
MAX_LAG_SHARE = 0.9


class Season(NamedTuple):
    """A season in the data.

    Attributes:
        steps: Its length; 0 if there is none.
        autocorrelation: At that lag.
    """

    steps: int
    autocorrelation: float


def autocorrelation(values: Float[Tensor, "W L"], observed: Bool[Tensor, "W L"]) -> Float[Tensor, " L"]:
    """Mean autocorrelation of windows at lags 0 to L - 1, over pairs of which both were observed.

    Args:
        values: Windows of mean zero, 0 where not observed.
        observed: True where a value is real.
    """
    length = values.shape[1]
    size = 2 ** (2 * length - 1).bit_length()

    def pair_sums(part: Tensor) -> Tensor:
        power = torch.fft.rfft(part, n=size).abs().square().sum(dim=0)
        sums: Tensor = torch.fft.irfft(power, n=size)[:length]
        return sums

    products = pair_sums(torch.where(observed, values, 0.0))
    pairs = pair_sums(observed.to(values.dtype)).clamp(min=0.5)
    covariance = products / pairs
    return covariance / covariance[0].clamp(min=torch.finfo(values.dtype).tiny)


def find_seasons(values: Float[Tensor, "W L"], observed: Bool[Tensor, "W L"]) -> tuple[Season, ...]:
    """The highest peak of the autocorrelation, and before it the shortest of nearly equal ones if that is another.

    Args:
        values: Windows of mean zero, 0 where not observed.
        observed: True where a value is real.

    Returns:
        Up to two seasons, the dominant one first; none if no peak reaches 0.3.
    """
    if values.shape[1] < 4 or not bool(observed.any()):
        return ()
    rows = torch.linspace(0, len(values) - 1, min(len(values), MAX_WINDOWS)).round().long()
    found = autocorrelation(values[rows], observed[rows]).tolist()
    limit = min(int(MAX_LAG_SHARE * values.shape[1]), len(found) - 2)
    peaks = [lag for lag in range(2, limit + 1) if found[lag - 1] < found[lag] >= found[lag + 1]]
    peaks = [lag for lag in peaks if found[lag] >= MIN_AUTOCORRELATION]
    if not peaks:
        return ()
    highest = max(peaks, key=found.__getitem__)
    shortest = next(lag for lag in peaks if found[lag] >= found[highest] - MARGIN)
    return tuple(Season(lag, found[lag]) for lag in dict.fromkeys((shortest, highest)))
