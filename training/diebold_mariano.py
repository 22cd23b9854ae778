"""Is one forecast really better than another, or only on these few origins? The Diebold-Mariano test, and its answer in words.

The test looks at the difference of two forecasts' losses along the rolling origins. Origins whose horizons overlap share
targets, so that their differences are correlated; the variance counts that (Diebold & Mariano 1995). The small-sample
correction and Student's distribution are those of Harvey, Leybourne & Newbold (1997). Series are averaged at each origin
first, each in units of its own scale, so that what they share moves the variance too (Timmermann & Zhu 2019).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.special import stdtr

# What is called significant, in words.
SIGNIFICANCE = 0.05
MIN_ORIGINS = 3


class DieboldMariano(NamedTuple):
    """Result of one test.

    Attributes:
        statistic: Corrected statistic, Student-distributed with `num_origins - 1` degrees of freedom where both
            forecasts are equally good; negative where the first one loses less. NaN where it cannot be computed.
        p_value: Probability of a statistic at least as large on either side, if both were equally good; NaN likewise.
        num_origins: Differences it rests on.
        overlap: Neighbouring origins whose horizons overlap, itself included.
    """

    statistic: float
    p_value: float
    num_origins: int
    overlap: int


def diebold_mariano(difference: Float[np.ndarray, " n"], overlap: int = 1) -> DieboldMariano:
    """Test whether a series of loss differences has mean zero.

    Args:
        difference: Loss of the first forecast minus loss of the second, by origin, oldest first.
        overlap: Origins that share targets: horizon / step size, rounded up. 1 for origins apart from each other. The
            variance takes the autocovariances of so many lags less one.

    Returns:
        The test; NaN where there are fewer than three origins, no more than overlap, or no variation.
    """
    n = len(difference)
    if n < MIN_ORIGINS or n <= overlap:
        return DieboldMariano(math.nan, math.nan, n, overlap)
    centred = difference - difference.mean()
    covariance = [float(centred[lag:] @ centred[: n - lag]) / n for lag in range(overlap)]
    variance = covariance[0] + 2.0 * sum(covariance[1:])
    if variance <= 0.0:
        # The sum of raw autocovariances may be negative; Bartlett's weights never are (Newey & West 1987).
        variance = covariance[0] + 2.0 * sum(c * (1.0 - k / overlap) for k, c in enumerate(covariance[1:], 1))
    if not variance > np.finfo(np.float64).eps * float(np.mean(difference**2)):
        return DieboldMariano(math.nan, math.nan, n, overlap)
    correction = (n + 1 - 2 * overlap + overlap * (overlap - 1) / n) / n
    statistic = float(difference.mean()) / math.sqrt(variance / n) * math.sqrt(correction)
    return DieboldMariano(statistic, float(2.0 * stdtr(n - 1, -abs(statistic))), n, overlap)


def origin_losses(
    terms: Float[np.ndarray, "W H"], mask: Bool[np.ndarray, "W H"], num_later: Integer[np.ndarray, " W"]
) -> Float[np.ndarray, " n"]:
    """Mean over series and steps at each rolling origin that has a target, oldest first.

    Args:
        terms: Losses; 0 where the target is missing.
        mask: True where the target is real.
        num_later: Origins after this one in its series.
    """
    total, count = np.bincount(num_later, terms.sum(axis=1)), np.bincount(num_later, mask.sum(axis=1))
    present = count > 0
    return np.asarray((total[present] / count[present])[::-1])


def describe_test(test: DieboldMariano, model: str, rival: str) -> str:
    """What the test says, in a sentence."""
    origins = f"{test.num_origins} rolling origin{'' if test.num_origins == 1 else 's'}"
    if not math.isfinite(test.p_value):
        few = test.num_origins < MIN_ORIGINS or test.num_origins <= test.overlap
        reason = f"{origins} are too few; ask for more windows" if few else "the difference does not vary"
        return f"{model} against {rival}: whether the difference is chance cannot be told, {reason}"
    chance = _chance(test.p_value)
    if test.p_value >= SIGNIFICANCE:
        return f"{model} against {rival}: no difference can be told from chance over {origins} ({chance})"
    word = "better" if test.statistic < 0 else "worse"
    return f"{model} forecasts {word} than {rival}, and chance hardly explains it over {origins} ({chance})"


def _chance(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"
