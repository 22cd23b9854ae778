"""Which weights a fit keeps: a difference in validation loss that chance explains decides nothing.

A validation part of a few windows ranks checkpoints by luck: on the hourly traffic data, with one validation window,
keeping the lowest loss scored a MASE of 0.691 where the end of the same fit scored 0.668. The end of a fit whose
learning rate falls to nothing is the better guess, so later weights stay unless they are clearly worse.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

# Name of the lowest validation loss in a checkpoint.
LOWEST = "validation.lowest"
# Standard errors of the paired difference beyond which one check is clearly worse than another.
CLEARLY = 1.0


class ValidationLoss(NamedTuple):
    """Losses of the fixed validation windows at one check.

    Attributes:
        total: Summed loss of every window.
        targets: Observed targets of every window.
    """

    total: Float64[Tensor, " W"]
    targets: Float64[Tensor, " W"]

    @property
    def mean(self) -> float:
        """Mean loss over all observed targets; 0 where nothing was observed."""
        return float(self.total.sum() / self.targets.sum().clamp(min=1.0))

    def is_clearly_above(self, other: ValidationLoss, num_separate: int) -> bool:
        """Whether the same windows' losses are higher by more than the standard error of the paired difference.

        A single window has no such error: it can never tell.

        Args:
            other: Losses of the same windows.
            num_separate: As many of them as have no target in common: windows that overlap say the same thing twice.
        """
        difference = (self.total - other.total)[self.targets > 0]
        count = min(len(difference), num_separate)
        if count < 2:
            return False
        return float(difference.mean()) > CLEARLY * float(difference.std() / count**0.5)
