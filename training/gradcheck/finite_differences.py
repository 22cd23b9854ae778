"""Central finite differences along chosen directions, and how far two gradients are apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Tried in turn. Curvature costs h^2 and rounding eps/h: the first is best, the others are for kinks that lie close by.
STEPS = (1e-5, 1e-6, 1e-7)
# Slopes over h and h/2 agree this well on a smooth stretch of a function of order one, at the first step.
AGREEMENT = 1e-9
# A bend this sharp over one step is a kink (relu, abs, pinball loss) so close that both slopes straddle it.
SHARP_BEND = 1e-3
# Directions per tensor.
NUM_MIXED, NUM_ENTRIES = 1, 2
# An element this much smaller than the largest one of its tensor is judged against the largest.
ELEMENT_FLOOR = 1e-3


def probe_directions(size: int, generator: torch.Generator) -> Float[Tensor, "K N"]:
    """Directions to differentiate along: a few that mix all entries, and a few single entries.

    A mixed direction sees a mistake in any entry; single entries tell small ones from the rounding of large ones.

    Args:
        size: Entries of the tensor (N).
        generator: Draws both.

    Returns:
        Unit vectors, one per row.
    """
    mixed = torch.randn(NUM_MIXED, size, generator=generator, dtype=torch.float64)
    entries = torch.randperm(size, generator=generator)[:NUM_ENTRIES]
    return torch.cat((mixed / mixed.norm(dim=1, keepdim=True), torch.eye(size, dtype=torch.float64)[entries]))


def directional_derivatives(
    function: Callable[[], Tensor], tensor: Tensor, directions: Float[Tensor, "K N"]
) -> Float[Tensor, " K"]:
    """Central differences of a scalar function of a tensor that it reads.

    Args:
        function: Evaluates the scalar from the tensor's present content.
        tensor: What is moved, in place, and restored.
        directions: Where to, one row each, in the flattened tensor.

    Returns:
        One derivative per direction.
    """
    with torch.no_grad():
        origin, middle = tensor.clone(), function().item()
        slopes = [_slope(function, tensor, origin, direction.view_as(tensor), middle) for direction in directions]
        tensor.copy_(origin)
    return torch.tensor(slopes, dtype=torch.float64)


def _slope(function: Callable[[], Tensor], tensor: Tensor, origin: Tensor, direction: Tensor, middle: float) -> float:
    slope = 0.0
    for step in STEPS:
        slope, bend = _difference(function, tensor, origin, step * direction, middle, step)
        half_slope, _ = _difference(function, tensor, origin, step / 2.0 * direction, middle, step / 2.0)
        # Across a kink the difference is a true difference but no derivative: come closer.
        if abs(slope - half_slope) <= AGREEMENT and bend <= SHARP_BEND:
            break
    return slope


def _difference(
    function: Callable[[], Tensor], tensor: Tensor, origin: Tensor, offset: Tensor, middle: float, step: float
) -> tuple[float, float]:
    """Central slope, and the difference of the one-sided slopes."""
    tensor.copy_(origin + offset)
    above = function().item()
    tensor.copy_(origin - offset)
    below = function().item()
    return (above - below) / (2.0 * step), abs(above - 2.0 * middle + below) / step


def relative_error(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over the larger norm: 0 for equal, 2 at most.

    Norm-wise, because an entry that is zero but for rounding has no relative precision of its own. Two zero tensors
    agree; anything not finite does not.
    """
    larger = torch.maximum(one.norm(), other.norm()).item()
    difference = (one - other).norm().item()
    if larger == 0.0:
        return 0.0
    return difference / larger if difference / larger < torch.inf else torch.inf


def elementwise_error(one: Tensor, other: Tensor) -> float:
    """Largest relative error of a single entry, entries below a thousandth of the largest judged against that."""
    magnitude = torch.maximum(one.abs(), other.abs())
    if magnitude.numel() == 0 or magnitude.max() == 0.0:
        return 0.0
    error = ((one - other).abs() / magnitude.clamp(min=ELEMENT_FLOOR * magnitude.max())).max().item()
    return error if error < torch.inf else torch.inf
