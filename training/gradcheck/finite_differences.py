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
# Single entries moved per tensor, beside one direction that moves them all.
NUM_ENTRIES = 2
# An element this much smaller than the largest one of its tensor is judged against the largest.
ELEMENT_FLOOR = 1e-3


def probe_directions(gradient: Float[Tensor, " N"], generator: torch.Generator) -> Float[Tensor, "K N"]:
    """Directions to differentiate along: one that mixes all entries, and a few single entries.

    The mixed direction sees a mistake in any entry. It leans towards the gradient under test, because along a purely
    random one the derivative may nearly cancel, and only rounding would be compared.

    Args:
        gradient: What is to be checked, flattened.
        generator: Draws the random part and the entries.

    Returns:
        Unit vectors, one per row.
    """
    size = gradient.numel()
    random = torch.randn(size, generator=generator, dtype=torch.float64)
    # Half the length, so that in one dimension the two cannot cancel.
    mixed = 0.5 * random / random.norm() + gradient / gradient.norm().clamp(min=torch.finfo(torch.float64).tiny)
    entries = torch.randperm(size, generator=generator)[:NUM_ENTRIES]
    return torch.cat(((mixed / mixed.norm())[None], torch.eye(size, dtype=torch.float64)[entries]))


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
    best, best_doubt = 0.0, torch.inf
    for step in STEPS:
        slope, bend = _difference(function, tensor, origin, step * direction, middle, step)
        half_slope, _ = _difference(function, tensor, origin, step / 2.0 * direction, middle, step / 2.0)
        # Across a kink the difference is a true difference but no derivative: come closer.
        doubt = abs(slope - half_slope) + (bend if bend > SHARP_BEND else 0.0)
        if not doubt >= best_doubt:
            best, best_doubt = slope, doubt
        if doubt <= AGREEMENT:
            break
    return best


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
