"""What covariates known for past and future explain by themselves, so that only the rest is left to remember."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# Random Fourier features (Rahimi & Recht 2007): a rush hour on weekdays is not linear in the sines of hour and weekday.
# Each looks at about four covariates, so that hour and weekday meet undisturbed by the others. Number, frequency and
# ridge were set on hourly road traffic, where the calendar alone explains all but 0.13 of a window's spread (boosted
# trees: 0.12): with 512 waves of half the frequency it was 0.16, and what they left over looked like a need of a week.
NUM_FEATURES = 768
COVARIATES_PER_FEATURE = 4
FREQUENCY = 2.0
RIDGE = 1e-4
# And so many steps per wave at least, or the waves would learn the noise.
STEPS_PER_FEATURE = 8
MAX_OCCURRENCES = 1_000_000
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

    Overlapping windows repeat a step; each step enters once, with the mean of its values and their number as weight.

    Args:
        covariates: Known for past and future; F at least 1.
        values: Scaled y of the same steps.
        observed: True where it is real.
        seed: Of the random features and of the rows used.

    Returns:
        The fitted map.
    """
    generator = torch.Generator().manual_seed(seed)
    known, target, weight = _distinct_steps(covariates, values, observed, generator)
    # A calendar without years repeats itself; then windows, at as many times, say how many steps there are.
    num_features = max(min(NUM_FEATURES, max(len(known), len(values)) // STEPS_PER_FEATURE), 1)
    shape = (covariates.shape[-1], num_features)
    is_seen = torch.rand(shape, generator=generator) < COVARIATES_PER_FEATURE / shape[0]
    projection = FREQUENCY * torch.randn(shape, generator=generator) * is_seen
    shift = torch.empty(num_features).uniform_(0.0, 2 * math.pi, generator=generator)
    loc = (known * weight[:, None]).sum(dim=0)
    scale = ((known - loc).square() * weight[:, None]).sum(dim=0).sqrt()
    # A covariate that never changes says nothing and must not be blown up.
    scale = torch.where(scale > 1e-5 * loc.abs().clamp(min=1e-5), scale, torch.inf)
    empty = StaticMap(loc, scale, projection.to(known), shift.to(known), projection.new_zeros(0))
    features = empty.features(known)
    weighted = (features * weight[:, None]).T
    gram = (weighted @ features).double()
    gram.diagonal().add_(RIDGE)
    weights = torch.linalg.solve(gram, (weighted @ target).double())
    return StaticMap(loc, scale, empty.projection, empty.shift, weights.to(known.dtype))


def _distinct_steps(
    covariates: Float[Tensor, "W S F"],
    values: Float[Tensor, "W S"],
    observed: Bool[Tensor, "W S"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "rows F"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Covariates of each distinct step, the mean of its values, and its share of all occurrences."""
    occurrences = _some(observed.flatten().nonzero().flatten(), MAX_OCCURRENCES, generator)
    rows, position = distinct_rows(covariates.flatten(0, 1)[occurrences])
    empty = values.new_zeros(len(rows))
    counts = empty.index_add(0, position, values.new_ones(len(position)))
    sums = empty.index_add(0, position, values.flatten()[occurrences])
    chosen = _some(torch.arange(len(rows), device=rows.device), MAX_ROWS, generator)
    counts = counts[chosen]
    return rows[chosen], sums[chosen] / counts.clamp(min=1.0), counts / counts.sum().clamp(min=1.0)


def _some(rows: Int64[Tensor, " n"], limit: int, generator: torch.Generator) -> Int64[Tensor, " m"]:
    """All rows, or so many of them at random."""
    if len(rows) <= limit:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:limit].to(rows.device)]


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
