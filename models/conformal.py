"""Conformal calibration inside the network: quantiles shifted by what held-out errors ask for.

Split conformal prediction with quantiles as the base forecast: conformalised quantile regression (Romano, Patterson & Candes
2019), with each tail calibrated on its own (their theorem 2), errors in units of the window's scale, and one shift per
step ahead. A point forecast becomes quantiles the same way: the quantiles of its residuals. The median stays where the network
puts it. Part of the weights, so that whatever loads a bundle forecasts what was calibrated.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import NetworkConfig
from models.errors import ShapeError
from models.heads import center_index


class Calibration(nn.Module, ABC):
    """From the network's quantiles to those that are forecast."""

    @abstractmethod
    def forward(self, quantiles: Float[Tensor, "B H K"], scale: Float[Tensor, "B 1"]) -> Float[Tensor, "B H Q"]:
        """Calibrated quantiles, in the unit of `y`.

        Args:
            quantiles: The network's own, in the unit of `y`.
            scale: Spread of the window, in the unit of `y`.
        """


@final
class NoCalibration(Calibration):
    """The network's own quantiles."""

    def forward(self, quantiles: Float[Tensor, "B H Q"], scale: Float[Tensor, "B 1"]) -> Float[Tensor, "B H Q"]:
        """As they are."""
        return quantiles


@final
class SplitConformal(Calibration):
    """A shift per step ahead and level, in units of the window's scale; zero until it is calibrated.

    Args:
        horizon: Steps forecast.
        levels: Increasing quantile levels.
    """

    shift: Tensor

    def __init__(self, horizon: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(horizon, len(levels)))
        self.center = center_index(levels)

    def set_shift(self, shift: Float[Tensor, "H Q"]) -> None:
        """Fix the shifts; part of the weights from here on."""
        if shift.shape != self.shift.shape:
            raise ShapeError("shift", f"of shape {tuple(self.shift.shape)}", f"of shape {tuple(shift.shape)}")
        self.shift.copy_(shift)

    def forward(self, quantiles: Float[Tensor, "B H K"], scale: Float[Tensor, "B 1"]) -> Float[Tensor, "B H Q"]:
        """Shifted, then put in order from the center outwards, so that they never cross (Chernozhukov et al. 2010)."""
        shifted = quantiles + self.shift * scale[..., None]
        # Level by level, as there are few of them: ONNX has no running maximum.
        rows = shifted.unbind(-1)
        above = itertools.accumulate(rows[self.center :], torch.maximum)
        below = itertools.accumulate(rows[self.center :: -1], torch.minimum)
        return torch.stack((*list(below)[:0:-1], *above), dim=-1)


def build_calibration(config: NetworkConfig) -> Calibration:
    """What the configuration names."""
    if config.conformal == "none":
        return NoCalibration()
    return SplitConformal(config.horizon, config.output_levels)
