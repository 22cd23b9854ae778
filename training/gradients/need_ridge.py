"""Ridge regressions over growing context, all from one matrix of products: nested contexts are nested blocks of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

RIDGES = (1e-3, 1e-2, 1e-1)
MAX_VALIDATION = 4000
ROWS_PER_BATCH = 8192
# Training windows are judged in this many stretches of time, whose means are nearly independent.
NUM_BLOCKS = 20


class NestedErrors(NamedTuple):
    """Validation errors by context.

    Attributes:
        contexts: Steps of context, increasing; 0 is no context at all.
        blocks: Mean absolute error in each stretch of validation windows, in units of the windows' own spread.
    """

    contexts: tuple[int, ...]
    blocks: Float[Tensor, "contexts blocks"]

    @property
    def errors(self) -> list[float]:
        """Mean absolute error by context."""
        means: list[float] = self.blocks.mean(dim=1).tolist()
        return means


def nested_ridge_errors(
    features: Float[Tensor, "W L K"],
    target: Float[Tensor, "W H"],
    target_weight: Float[Tensor, "W H"],
    num_training: int,
    contexts: Sequence[int],
) -> NestedErrors:
    """Fit a ridge regression on the first windows for each context and measure it on the rest.

    The penalty is chosen per context by the same validation error, an optimism that all contexts share.

    Args:
        features: K channels per step, NEWEST step first, of mean zero.
        target: What to forecast, of mean zero, 0 where unknown.
        target_weight: 1 where the target is real, 0 elsewhere.
        num_training: Leading windows to fit on.
        contexts: Steps of context to try, increasing, starting with 0.

    Returns:
        Errors by context.
    """
    channels = features.shape[2]
    flat = features.flatten(1)
    gram, products = _normal_equations(flat[:num_training], target[:num_training])
    rows = torch.linspace(num_training, len(flat) - 1, min(len(flat) - num_training, MAX_VALIDATION)).round().long()
    tested, truth, weight = flat[rows], target[rows], target_weight[rows]
    blocks = [_block_errors(truth, weight)]
    for steps in contexts[1:]:
        size = steps * channels
        tries = []
        for ridge in RIDGES:
            penalised = gram[:size, :size].clone()
            penalised.diagonal().add_(ridge)
            weights = torch.cholesky_solve(products[:size], torch.linalg.cholesky(penalised)).to(flat.dtype)
            tries.append(_block_errors(truth - tested[:, :size] @ weights, weight))
        blocks.append(min(tries, key=lambda errors: float(errors.mean())))
    return NestedErrors(tuple(contexts), torch.stack(blocks))


def _normal_equations(
    features: Float[Tensor, "W K"], target: Float[Tensor, "W H"]
) -> tuple[Float[Tensor, "K K"], Float[Tensor, "K H"]]:
    """Mean products; batches are summed in float64, so that many windows cost no digits."""
    size = features.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=features.device)
    products = torch.zeros(size, target.shape[1], dtype=torch.float64, device=features.device)
    for part, wanted in zip(features.split(ROWS_PER_BATCH), target.split(ROWS_PER_BATCH), strict=True):
        gram += part.T @ part
        products += part.T @ wanted
    return gram / len(features), products / len(features)


def _block_errors(error: Float[Tensor, "V H"], weight: Float[Tensor, "V H"]) -> Float[Tensor, " blocks"]:
    count = min(NUM_BLOCKS, len(error))
    parts = zip((error.abs() * weight).tensor_split(count), weight.tensor_split(count), strict=True)
    return torch.stack([part.double().sum() / mask.double().sum().clamp(min=1.0) for part, mask in parts])
