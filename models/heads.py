"""How features of a horizon step become a point or quantiles that never cross."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.config import NetworkConfig


@final
class PointHead(nn.Module):
    """One value per step."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(num_features, 1)

    def forward(self, features: Float[Tensor, "B H M"]) -> Float[Tensor, "B H 1"]:
        """Forecast of every step, without unit."""
        point: Tensor = self.projection(features)
        return point


@final
class QuantileHead(nn.Module):
    """One value per level and step, non-decreasing along the levels by construction.

    Args:
        num_features: Channels from the decoder.
        levels: Increasing quantile levels.
    """

    def __init__(self, num_features: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.projection = nn.Linear(num_features, len(levels))
        self.center = center_index(levels)

    def forward(self, features: Float[Tensor, "B H M"]) -> Float[Tensor, "B H Q"]:
        """Quantiles of every step, without unit."""
        return non_crossing(self.projection(features), self.center)


def center_index(levels: tuple[float, ...]) -> int:
    """Position of the level closest to the median."""
    return min(range(len(levels)), key=lambda index: abs(levels[index] - 0.5))


def non_crossing(raw: Float[Tensor, "B H Q"], center: int) -> Float[Tensor, "B H Q"]:
    """The center as it is; its neighbours at growing distances, each a softplus away from the last.

    Args:
        raw: Unconstrained outputs.
        center: Position that stays untouched.

    Returns:
        Values non-decreasing along Q.
    """
    middle = raw[..., center : center + 1]
    below = functional.softplus(raw[..., :center])
    above = functional.softplus(raw[..., center + 1 :])
    down = middle - below.flip(-1).cumsum(-1).flip(-1)
    up = middle + above.cumsum(-1)
    return torch.cat((down, middle, up), dim=-1)


def build_head(config: NetworkConfig, num_features: int) -> PointHead | QuantileHead:
    """The head that the configuration names."""
    if config.head == "quantile":
        return QuantileHead(num_features, config.quantile_levels)
    return PointHead(num_features)
