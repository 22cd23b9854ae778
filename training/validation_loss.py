"""Which weights a fit keeps: a difference in validation loss that chance explains decides nothing.

A validation part of a few windows ranks checkpoints by luck: on the hourly traffic data, with one validation window,
keeping the lowest loss scored a MASE of 0.691 where the end of the same fit scored 0.668. The end of a fit whose
learning rate falls to nothing is the better guess, so later weights stay unless they are clearly worse. Stopping early
is decided alike: with three validation windows, a rise of one standard error ended fits on NYC's departures at two thirds of
their budget, with a MASE of 0.84 where the whole budget gave 0.68.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float64
from scipy.special import stdtr
from torch import Tensor

# Name of the lowest validation loss in a checkpoint.
LOWEST = "validation.lowest"
# One check is clearly worse than another if chance would show a smaller difference this often (Student's t, one-sided).
CLEARLY = 0.975


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
        """Whether the same windows' losses are higher than chance explains: a paired t-test (Student 1908, Biometrika 6).

        Few windows can hardly tell: three must differ by 4.3 standard errors, many by 2, and a single one has none. A loss
        that has doubled is clear without a test: where a fit breaks, windows differ so wildly that none would see it.

        Args:
            other: Losses of the same windows.
            num_separate: As many of them as have no target in common: windows that overlap say the same thing twice.
        """
        difference = (self.total - other.total)[self.targets > 0]
        count = min(len(difference), num_separate)
        if count == 0:
            return False
        mean = float(difference.mean())
        if mean > float(other.total[self.targets > 0].abs().mean()):
            return True
        if count == 1:
            return False
        error = float(difference.std()) / count**0.5
        if error == 0.0:
            return mean > 0.0
        return bool(stdtr(count - 1, mean / error) > CLEARLY)
