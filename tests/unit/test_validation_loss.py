"""Which weights validation may choose between."""

from __future__ import annotations

import pytest
import torch

from training.validation_loss import ValidationLoss


def losses(*per_window: float, targets: float = 2.0) -> ValidationLoss:
    """Windows with two targets each."""
    total = torch.tensor(per_window, dtype=torch.float64)
    return ValidationLoss(total, torch.full_like(total, targets))


def test_the_mean_is_over_targets() -> None:
    """Summed loss 1 + 2 + 6 over 2 + 2 + 2 targets."""
    assert losses(1.0, 2.0, 6.0).mean == pytest.approx(1.5)


def test_a_window_more_than_the_standard_error_worse_is_clear() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3)."""
    assert losses(2.0, 4.0, 6.0).is_clearly_above(losses(1.0, 2.0, 3.0))


def test_a_difference_within_the_standard_error_decides_nothing() -> None:
    """Differences -3, 0, 4: mean 1/3, standard error about 2."""
    assert not losses(1.0, 2.0, 8.0).is_clearly_above(losses(4.0, 2.0, 4.0))


def test_lower_is_never_clearly_above() -> None:
    """However sure the difference is."""
    assert not losses(1.0, 2.0, 3.0).is_clearly_above(losses(2.0, 4.0, 6.0))


def test_one_window_can_never_tell() -> None:
    """Nor can many of which only one has targets."""
    assert not losses(9.0).is_clearly_above(losses(1.0))
    empty = torch.tensor([2.0, 0.0], dtype=torch.float64)
    first, second = (ValidationLoss(torch.tensor([loss, 0.0], dtype=torch.float64), empty) for loss in (9.0, 1.0))
    assert not first.is_clearly_above(second)


def test_nothing_observed_is_a_loss_of_zero() -> None:
    """Not a division by zero."""
    assert losses(0.0, 0.0, targets=0.0).mean == 0.0
