"""Ridge regression from many features to a whole horizon, with weights and gaps: what both linear forecasts rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

# Newest steps of a context that a regression reads.
MAX_CONTEXT_COLUMNS = 2_000
# Weight of a row at most: a window that varies ten times as much as its series says no more than that.
MAX_ROW_WEIGHT = 10.0
MULTIPLY_ADDS = 30_000_000_000  # of the normal equations: about a second on one core
ROWS_PER_PRODUCT = 4_096
FILL_ROUNDS = 5


class Rows(NamedTuple):
    """One row per window, without unit.

    Attributes:
        features: What is known, a one last.
        target: What is to be forecast, 0 where not known.
        target_mask: True where it is known.
        weight: Turns an error into spreads of the series.
    """

    features: Float[Tensor, "W K"]
    target: Float[Tensor, "W H"]
    target_mask: Bool[Tensor, "W H"]
    weight: Float[Tensor, "W 1"]

    def select(self, chosen: Bool[Tensor, " W"]) -> Rows:
        """Some of the rows."""
        return Rows(*(part[chosen] for part in self))

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """One after another."""
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))


def affordable_rows(num_features: int, wanted: int) -> int:
    """Rows for which the normal equations stay quick, but at least twice as many as features."""
    return min(wanted, max(2 * num_features, MULTIPLY_ADDS // num_features**2))


def row_weight(scale: Float[Tensor, "W 1"], spread: Float[Tensor, "W 1"]) -> Float[Tensor, "W 1"]:
    """The spreads of its series that one unit of a window's scale is; 1 where a series does not vary."""
    return torch.where(spread > 0.0, scale / spread, 1.0).clamp(max=MAX_ROW_WEIGHT)


@dataclass(frozen=True)
class NormalEquations:
    """Weighted least squares with a ridge; products in float32 by chunks, sums and solutions in float64.

    Attributes:
        gram: Weighted products of the features.
        cross: Of the features with the targets, an unknown one as 0.
        unit: Sum of the squared weights.
        num_rows: Windows.
        gaps: Those with a target that is not known.
    """

    gram: Float64[Tensor, "K K"]
    cross: Float64[Tensor, "K H"]
    unit: float
    num_rows: int
    gaps: Rows

    @classmethod
    def of(cls, rows: Rows) -> NormalEquations:
        """The equations of some rows."""
        weighted = rows.features * rows.weight
        return cls(
            gram=_product(weighted, weighted),
            cross=_product(weighted, rows.target * rows.weight),
            unit=float((rows.weight.double() ** 2).sum()),
            num_rows=len(rows.target),
            gaps=rows.select(~rows.target_mask.all(dim=1)),
        )

    def with_rows_of(self, other: NormalEquations) -> NormalEquations:
        """The equations of the rows of both."""
        return NormalEquations(
            gram=self.gram + other.gram,
            cross=self.cross + other.cross,
            unit=self.unit + other.unit,
            num_rows=self.num_rows + other.num_rows,
            gaps=Rows.joined([self.gaps, other.gaps]),
        )

    def solve(self, ridge: float) -> Float64[Tensor, "K H"]:
        """From features to targets.

        Targets that are not known are filled with the regression's own forecast a few times over (expectation maximisation).

        Args:
            ridge: The penalty per unit of row weight; the last feature, a one, has none.
        """
        penalty = torch.full((len(self.gram),), ridge * self.unit, dtype=torch.float64)
        penalty[-1] = 1e-8 * self.unit  # the intercept is free; this keeps the matrix positive
        factor = torch.linalg.cholesky(self.gram + torch.diag(penalty))
        weights = torch.cholesky_solve(self.cross, factor)
        for _ in range(FILL_ROUNDS if len(self.gaps.target) else 0):
            guess = torch.where(self.gaps.target_mask, 0.0, self.gaps.features @ weights.float())
            filled = _product(self.gaps.features, guess * self.gaps.weight**2)
            weights = torch.cholesky_solve(self.cross + filled, factor)
        return weights


def _product(left: Float[Tensor, "W K"], right: Float[Tensor, "W J"]) -> Float64[Tensor, "K J"]:
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64)
    for a, b in zip(left.split(ROWS_PER_PRODUCT), right.split(ROWS_PER_PRODUCT), strict=True):
        total += (a.T @ b).double()
    return total
