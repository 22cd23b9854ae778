"""What covariates known for past and future explain by themselves, so that only the rest is left to remember."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# Random Fourier features (Rahimi & Recht 2007): a rush hour on weekdays is not linear in the sines of hour and weekday.
# Each looks at about four covariates, so that hour and weekday meet undisturbed by the others; on hourly road traffic 512
# of them explain from the calendar alone what takes a linear model two weeks of context, 160 do not.
NUM_FEATURES = 512
COVARIATES_PER_FEATURE = 4
RIDGE = 1e-3
MAX_ROWS = 40_000
ROWS_PER_BATCH = 1 << 15


@dataclass(frozen=True)
class StaticMap:
    """A map from covariates of one step to scaled y of the same step, without any memory.

    Attributes:
        loc: Mean of each covariate.
        scale: Its standard deviation.
        projection: Frequencies of the random features.
        shift: Their phases.
        weights: From features to y.
    """

    loc: Float[Tensor, " F"]
    scale: Float[Tensor, " F"]
    projection: Float[Tensor, "F M"]
    shift: Float[Tensor, " M"]
    weights: Float[Tensor, " K"]

    def __call__(self, covariates: Float[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        """Scaled y as far as the covariates of each step explain it."""
        return torch.cat([self.features(part) @ self.weights for part in covariates.split(ROWS_PER_BATCH)])

    def features(self, covariates: Float[Tensor, "rows F"]) -> Float[Tensor, "rows K"]:
        """One, the covariates, and random waves of them."""
        standard = (covariates - self.loc) / self.scale
        waves = torch.addmm(self.shift, standard, self.projection).cos_()
        return torch.cat((torch.ones_like(waves[:, :1]), standard, waves), dim=1)


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
    shape = (num_covariates, NUM_FEATURES)
    is_seen = torch.rand(shape, generator=generator) < COVARIATES_PER_FEATURE / num_covariates
    projection = torch.randn(shape, generator=generator) * is_seen
    shift = torch.empty(NUM_FEATURES).uniform_(0.0, 2 * math.pi, generator=generator)
    loc, scale = known.mean(dim=0), known.std(dim=0)
    # A covariate that never changes says nothing and must not be blown up.
    scale = torch.where(scale > 1e-5 * loc.abs().clamp(min=1e-5), scale, torch.inf)
    empty = StaticMap(loc, scale, projection.to(known), shift.to(known), projection.new_zeros(0))
    features = empty.features(known).double()
    gram = features.T @ features / len(rows)
    gram.diagonal().add_(RIDGE)
    weights = torch.linalg.solve(gram, features.T @ target.double() / len(rows))
    return StaticMap(loc, scale, empty.projection, empty.shift, weights.to(known.dtype))


def distinct_rows(covariates: Float[Tensor, "rows F"]) -> tuple[Float[Tensor, "distinct F"], Int64[Tensor, " rows"]]:
    """Each combination of covariates once, and where every row finds its own: overlapping windows repeat them.

    Rows are told apart by a random projection in float64, a sort of numbers instead of a sort of rows.

    Returns:
        The distinct rows, and the position among them of every row.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(covariates.shape[1], generator=generator, dtype=torch.float64).to(covariates.device)
    keys = torch.cat([part.double() @ direction for part in covariates.split(ROWS_PER_BATCH)])
    distinct, position = keys.unique(return_inverse=True)
    example = torch.empty_like(distinct, dtype=torch.int64)
    example[position] = torch.arange(len(keys), device=keys.device)
    return covariates[example], position
