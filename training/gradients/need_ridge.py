"""Ridge regressions over growing context, all from one matrix of products: nested contexts are nested blocks of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
MAX_VALIDATION = 4000
ROWS_PER_BATCH = 8192
# Validation windows are judged in this many stretches of time, whose means are nearly independent.
NUM_BLOCKS = 20


class NestedRidge:
    """Ridge regressions on the first windows, for any context, measured on the rest.

    The penalty is chosen per context by the same validation error, an optimism that all contexts share.

    Args:
        features: K channels per step, NEWEST step first, of mean zero.
        target: What to forecast, of mean zero, 0 where unknown.
        target_weight: 1 where the target is real, 0 elsewhere.
        num_training: Leading windows to fit on.
    """

    def __init__(
        self,
        features: Float[Tensor, "W L K"],
        target: Float[Tensor, "W H"],
        target_weight: Float[Tensor, "W H"],
        num_training: int,
    ) -> None:
        self.channels = features.shape[2]
        flat = features.flatten(1)
        gram, products = _normal_equations(flat[:num_training], target[:num_training])
        # The factor of a leading block is the leading block of the factor, so one per penalty serves every context;
        # and the first half of a solution, forward substitution, is nested in the same way.
        self._factors = [torch.linalg.cholesky(_penalised(gram, ridge)) for ridge in RIDGES]
        self._forward = [torch.linalg.solve_triangular(factor, products, upper=False) for factor in self._factors]
        rows = torch.linspace(num_training, len(flat) - 1, min(len(flat) - num_training, MAX_VALIDATION)).round().long()
        self._tested, self._truth, self._weight = flat[rows], target[rows], target_weight[rows]
        self._known: dict[int, Tensor] = {}

    def block_errors(self, steps: int) -> Float[Tensor, " blocks"]:
        """Mean absolute error in each stretch of validation windows, in units of the windows' own spread.

        Args:
            steps: Steps of context; 0 forecasts the mean.
        """
        if steps not in self._known:
            self._known[steps] = self._fit(steps) if steps else _block_errors(self._truth, self._weight)
        return self._known[steps]

    def errors(self) -> dict[int, float]:
        """Mean absolute error of every context asked for so far, increasing."""
        return {steps: float(self._known[steps].mean()) for steps in sorted(self._known)}

    def _fit(self, steps: int) -> Float[Tensor, " blocks"]:
        size = steps * self.channels
        tries = []
        for factor, forward in zip(self._factors, self._forward, strict=True):
            weights = torch.linalg.solve_triangular(factor[:size, :size].T, forward[:size], upper=True)
            forecast = self._tested[:, :size] @ weights.to(self._tested.dtype)
            tries.append(_block_errors(self._truth - forecast, self._weight))
        return min(tries, key=lambda errors: float(errors.mean()))


def _penalised(gram: Float[Tensor, "K K"], ridge: float) -> Float[Tensor, "K K"]:
    penalised = gram.clone()
    penalised.diagonal().add_(ridge)
    return penalised


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
