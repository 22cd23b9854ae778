"""What covariates known for past and future explain by themselves, so that only the rest is left to remember."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Random ReLU features (Rahimi & Recht 2008): a hump per hour and weekday is not linear in their sines and cosines.
NUM_FEATURES = 160
RIDGE = 1e-3
MAX_ROWS = 40_000
WINDOWS_PER_BATCH = 256


@dataclass(frozen=True)
class StaticMap:
    """A map from covariates of one step to scaled y of the same step, without any memory.

    Attributes:
        loc: Mean of each covariate.
        scale: Its standard deviation.
        projection: Of the random features.
        shift: Of the random features.
        weights: From features to y.
    """

    loc: Float[Tensor, " F"]
    scale: Float[Tensor, " F"]
    projection: Float[Tensor, "F M"]
    shift: Float[Tensor, " M"]
    weights: Float[Tensor, " K"]

    def __call__(self, covariates: Float[Tensor, "W S F"]) -> Float[Tensor, "W S"]:
        """Scaled y as far as the covariates of each step explain it."""
        parts = [self.features(part) @ self.weights for part in covariates.split(WINDOWS_PER_BATCH)]
        return torch.cat(parts)

    def features(self, covariates: Float[Tensor, "*rows F"]) -> Float[Tensor, "*rows K"]:
        """One, the covariates, and random ReLU features of them."""
        standard = (covariates - self.loc) / self.scale
        bent = torch.relu(standard @ self.projection + self.shift)
        return torch.cat((torch.ones_like(bent[..., :1]), standard, bent), dim=-1)


def fit_static_map(
    covariates: Float[Tensor, "W S F"], values: Float[Tensor, "W S"], observed: Bool[Tensor, "W S"], seed: int = 0
) -> StaticMap:
    """Ridge regression on random features of the covariates of the same step.

    Args:
        covariates: Known for past and future; F at least 1.
        values: Scaled y of the same steps.
        observed: True where it is real.
        seed: Of the random features and of the rows used.

    Returns:
        The fitted map.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = observed.flatten().nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=generator)[:MAX_ROWS].to(rows.device)]
    known, target = covariates.flatten(0, 1)[rows], values.flatten()[rows]
    num_covariates = covariates.shape[-1]
    projection = torch.randn(num_covariates, NUM_FEATURES, generator=generator) / math.sqrt(num_covariates)
    shift = torch.empty(NUM_FEATURES).uniform_(-1.0, 1.0, generator=generator)
    loc, scale = known.mean(dim=0), known.std(dim=0)
    # A covariate that never changes says nothing and must not be blown up.
    scale = torch.where(scale > 1e-5 * loc.abs().clamp(min=1e-5), scale, torch.inf)
    empty = StaticMap(loc, scale, projection.to(known), shift.to(known), projection.new_zeros(0))
    features = empty.features(known).double()
    gram = features.T @ features / len(rows)
    gram.diagonal().add_(RIDGE)
    weights = torch.linalg.solve(gram, features.T @ target.double() / len(rows))
    return StaticMap(loc, scale, empty.projection, empty.shift, weights.to(known.dtype))
