"""Which weights validation may choose between."""

from __future__ import annotations

import pytest
import torch

from training.data.windows import count_separate
from training.validation_loss import ValidationLoss


def losses(*per_window: float, targets: float = 2.0) -> ValidationLoss:
    """Windows with two targets each."""
    total = torch.tensor(per_window, dtype=torch.float64)
    return ValidationLoss(total, torch.full_like(total, targets))


def test_the_mean_is_over_targets() -> None:
    """Summed loss 1 + 2 + 6 over 2 + 2 + 2 targets."""
    assert losses(1.0, 2.0, 6.0).mean == pytest.approx(1.5)


def test_what_chance_hardly_explains_is_clear() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), so t = 3.46 with two degrees of freedom: 96.3 % < 97.5 %.
    Differences 2, 3, 4: t = 5.20, 98.2 %.
    """
    other = losses(11.0, 12.0, 13.0)
    assert not losses(12.0, 14.0, 16.0).is_clearly_above(other, 3)
    assert losses(13.0, 15.0, 17.0).is_clearly_above(other, 3)


def test_a_loss_that_has_doubled_is_clear_without_a_test() -> None:
    """Losses 1 and 2 become 1 and 1000, which one window in two hardly proves; 1 and 3.5 are a rise of 1.25 < 1.5."""
    assert losses(1.0, 1000.0).is_clearly_above(losses(1.0, 2.0), 2)
    assert losses(9.0).is_clearly_above(losses(1.0), 1)
    assert not losses(1.0, 3.5).is_clearly_above(losses(1.0, 2.0), 2)
    assert losses(-2.0, 40.0).is_clearly_above(losses(-4.0, 3.0), 2), "likelihoods: from -0.5 by 19.5, 3.5 being usual"


def test_many_windows_need_two_standard_errors() -> None:
    """A hundred differences 0 and 2: mean 1, deviation 1.005, t = 9.95; with two in a hundred of them, t = 1.42."""
    level = [5.0] * 100
    assert losses(*[5.0, 7.0] * 50).is_clearly_above(losses(*level), 100)
    assert not losses(*[5.0] * 98, 7.0, 7.0).is_clearly_above(losses(*level), 100)


def test_a_difference_within_the_standard_error_decides_nothing() -> None:
    """Differences -3, 0, 4: mean 1/3, standard error about 2."""
    assert not losses(1.0, 2.0, 8.0).is_clearly_above(losses(4.0, 2.0, 4.0), 3)


def test_the_same_rise_everywhere_is_clear() -> None:
    """Differences 1, 1: no standard error at all; differences 0, 0 are no rise."""
    assert losses(12.0, 13.0).is_clearly_above(losses(11.0, 12.0), 2)
    assert not losses(11.0, 12.0).is_clearly_above(losses(11.0, 12.0), 2)


def test_lower_is_never_clearly_above() -> None:
    """However sure the difference is."""
    assert not losses(1.0, 2.0, 3.0).is_clearly_above(losses(2.0, 4.0, 6.0), 3)


def test_one_window_can_never_tell() -> None:
    """Nor can many of which only one has targets."""
    assert not losses(9.0).is_clearly_above(losses(5.0), 1)
    empty = torch.tensor([2.0, 0.0], dtype=torch.float64)
    first, second = (ValidationLoss(torch.tensor([loss, 0.0], dtype=torch.float64), empty) for loss in (9.0, 5.0))
    assert not first.is_clearly_above(second, 2)


def test_windows_that_overlap_count_once() -> None:
    """Differences 2, 3, 4: t = 5.20 of three windows that say something of their own, 4.24 with one degree of freedom of
    two of them: 92.6 %.
    """
    three, other = losses(13.0, 15.0, 17.0), losses(11.0, 12.0, 13.0)
    assert three.is_clearly_above(other, 3)
    assert not three.is_clearly_above(other, 2)
    assert not three.is_clearly_above(other, 1)


def test_of_every_series_the_windows_a_horizon_apart_are_separate() -> None:
    """Series 0: cutoffs 10, 13, 14, 17 with a horizon of 4 make 10, 14 and no third; series 1 has its own."""
    series, cutoff = torch.tensor([0, 0, 1, 0, 0]), torch.tensor([13, 10, 12, 14, 17])
    assert count_separate(series, cutoff, 4) == 3
    assert count_separate(series, cutoff, 3) == 4
    assert count_separate(series, cutoff, 1) == 5


def test_nothing_observed_is_a_loss_of_zero() -> None:
    """Not a division by zero."""
    assert losses(0.0, 0.0, targets=0.0).mean == 0.0
