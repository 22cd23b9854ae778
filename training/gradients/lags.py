"""A quantity over lag, and how far back it reaches.

Lag k is the state k steps before the end of the context: what passes it carries everything the network knows about
values more than k steps before the first forecast. Curves are ratios to the median over lags 1 to 5, never to lag 0,
which is the gradient of the head.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NORMALISATION_LAGS = (1, 2, 3, 4, 5)
NUM_CUTS = 7
# A lag counts as reached while a thousandth of the gradient at lags 1-5 arrives there: where the rule "vanishing
# through time" starts to warn (its fault, 1e-7, is the resolution of float32: added to the rest, nothing changes).
REACH_THRESHOLD = 1e-3
# Types whose smallest number is close enough to ordinary gradients for a zero to mean "too small to write down".
HALF_TYPES = (torch.float16, torch.bfloat16)

CurveKind = Literal["loss", "jacobian", "envelope"]
Component = Literal["h", "c", "state", "input"]


@dataclass(frozen=True)
class LagCurve:
    """One quantity of one layer over lag.

    Attributes:
        layer: Name of the layer, or `stack`.
        component: What it was measured on: hidden state, cell state, both joined, or the layer's input.
        kind: Gradient of the loss, of a random projection of the final state, or of the loss at the input.
        lags: Steps before the end of the context, increasing.
        norms: L2 norm of the gradient at each lag (root mean square for the envelope).
        ratio: `norms` over their median at lags 1-5; NaN if that is zero.
        censored: True where an exact zero in half precision says only that the value was too small to write.
        cut_steps: Truncation of backpropagation in steps; beyond it the gradient is cut by decision, not vanished.
    """

    layer: str
    component: Component
    kind: CurveKind
    lags: tuple[int, ...]
    norms: tuple[float, ...]
    ratio: tuple[float, ...]
    censored: tuple[bool, ...]
    cut_steps: int | None = None

    def status_at(self, lag: int) -> Literal["measured", "censored", "cut", "outside"]:
        """Whether the curve can answer for a lag, and if not why."""
        if self.cut_steps is not None and lag > self.cut_steps:
            return "cut"
        if not self.lags or lag > self.lags[-1] or lag < 1:
            return "outside"
        position = bisect_left(self.lags, lag)
        return "censored" if any(self.censored[max(position - 1, 0) : position + 1]) else "measured"

    def ratio_at(self, lag: int) -> float:
        """Ratio at a lag, between measured lags by exponential decay; NaN where it is cut or was not measured."""
        if self.status_at(lag) in ("cut", "outside"):
            return math.nan
        position = bisect_left(self.lags, lag)
        if position == 0 or self.lags[position] == lag:
            return self.ratio[position]
        (near, far), (above, below) = self.lags[position - 1 : position + 1], self.ratio[position - 1 : position + 1]
        share = (lag - near) / (far - near)
        if not (0 < above < math.inf and 0 < below < math.inf):
            return below if share > 0.5 else above
        return math.exp((1 - share) * math.log(above) + share * math.log(below))


def log_spaced_lags(context_length: int, marks: Iterable[int] = (), num_cuts: int = NUM_CUTS) -> tuple[int, ...]:
    """Lags to cut a context at: 1 to 5 for the normalisation, then log-spaced out to its whole length.

    Args:
        context_length: Steps in the context; its last lag is the initial state.
        marks: Further lags to measure exactly, such as the need; those outside of the context are left out.
        num_cuts: Log-spaced lags beyond 5.

    Returns:
        Increasing lags between 1 and `context_length`.
    """
    first = NORMALISATION_LAGS[-1]
    growth = max(context_length / first, 1.0)
    spaced = (round(first * growth ** (index / num_cuts)) for index in range(1, num_cuts + 1))
    wanted = {*NORMALISATION_LAGS, *spaced, *marks}
    return tuple(sorted(lag for lag in wanted if 1 <= lag <= context_length))


def update_cuts(lags: Iterable[int], steps_per_update: int, num_updates: int) -> tuple[int, ...]:
    """Updates of the recurrent state after which lags lie: several lags within one segment are one cut.

    Args:
        lags: In steps before the end of the context.
        steps_per_update: Steps that one update reads.
        num_updates: Updates over the context.

    Returns:
        Increasing numbers of updates before the end.
    """
    cuts = {-(-lag // steps_per_update) for lag in lags}
    return tuple(sorted(cut for cut in cuts if 1 <= cut <= num_updates))


def cut_lags(cuts: Iterable[int], steps_per_update: int, context_length: int) -> tuple[int, ...]:
    """The lags in steps at which cuts between updates lie; the first segment may begin before the context."""
    return tuple(min(cut * steps_per_update, context_length) for cut in cuts)


def build_curve(
    layer: str,
    component: Component,
    kind: CurveKind,
    lags: Sequence[int],
    norms: Sequence[float],
    dtype: torch.dtype,
    cut_steps: int | None = None,
) -> LagCurve:
    """Normalise norms by their median over lags 1-5.

    Args:
        layer: Name of the layer.
        component: What was measured on.
        kind: What was measured.
        lags: Increasing lags.
        norms: One per lag.
        dtype: Of the gradient, which decides what a zero means.
        cut_steps: Truncation in steps, if there is one.

    Returns:
        The curve.
    """
    # Where one update reads a whole segment, the first cut stands for all lags within it.
    last = max(NORMALISATION_LAGS[-1], lags[0]) if lags else 0
    near = [norm for lag, norm in zip(lags, norms, strict=True) if lag <= last]
    unit = statistics.median(near) if near else math.nan
    ratio = tuple(norm / unit if unit > 0 else math.nan for norm in norms)
    censored = tuple(norm == 0 and dtype in HALF_TYPES for norm in norms)
    return LagCurve(layer, component, kind, tuple(lags), tuple(norms), ratio, censored, cut_steps)


def host_norms(tensors: Sequence[Tensor | None]) -> list[float]:
    """L2 norms of many tensors in one copy to the host; 0 for None.

    Summed in float64: the square of 1e-25 is zero in float32, and that of 1e25 infinite.
    """
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        return [0.0] * len(tensors)
    measured = iter(torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in present]).tolist())
    return [0.0 if tensor is None else next(measured) for tensor in tensors]


def reach_steps(curve: LagCurve, threshold: float = REACH_THRESHOLD) -> int:
    """Largest lag at which the ratio is still at least the threshold.

    Between the last lag above and the next below, the ratio is taken to decay exponentially, as a product of
    Jacobians does.

    Args:
        curve: A measured curve.
        threshold: Share of the gradient at lags 1-5.

    Returns:
        Steps; 0 if no gradient arrives anywhere.
    """
    above = [index for index, value in enumerate(curve.ratio) if value >= threshold]
    if not above:
        return 0
    last = above[-1]
    if last + 1 == len(curve.lags):
        return curve.lags[last]
    (near, far), (high, low) = curve.lags[last : last + 2], curve.ratio[last : last + 2]
    if not (low > 0 and high < math.inf):
        return near
    return near + int((far - near) * math.log(high / threshold) / math.log(high / low))


def half_life_steps(curve: LagCurve) -> float:
    """Steps over which the ratio halves: least squares of its logarithm over lag, where it is a positive number.

    Returns:
        Steps; infinity if it does not decay, NaN if there is nothing to fit.
    """
    pairs = zip(curve.lags, curve.ratio, strict=True)
    points = [(lag, math.log2(value)) for lag, value in pairs if 0 < value < math.inf]
    if len(points) < 2:
        return math.nan
    slope, _ = statistics.linear_regression(*zip(*points, strict=True))
    return -1.0 / slope if slope < 0 else math.inf
