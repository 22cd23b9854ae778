"""The linear way from the window to the decoder."""

from __future__ import annotations

import torch

from models.skip import LinearSkip, last_observed

NEXT_TO_LAST = torch.tensor([[4.0, 1.0, 7.0, 100.0]])
SEEN = torch.tensor([[True, True, True, False]])


def test_it_starts_as_the_mean_of_the_window() -> None:
    """Of what is observed; a missing value counts as the last one."""
    skip = LinearSkip(context_length=4, horizon=2)
    torch.testing.assert_close(skip(NEXT_TO_LAST, SEEN), torch.full((1, 2), (4.0 + 1.0 + 7.0 + 7.0) / 4))


def test_a_missing_value_is_not_read() -> None:
    """Whatever number stands in its place."""
    skip = LinearSkip(context_length=4, horizon=2)
    torch.nn.init.normal_(skip.projection.weight)
    other = NEXT_TO_LAST.clone()
    other[0, 3] = -5.0
    torch.testing.assert_close(skip(other, SEEN), skip(NEXT_TO_LAST, SEEN), rtol=0, atol=0)


def test_without_weights_it_repeats_the_last_observed_value() -> None:
    """The naive forecast is what the map departs from."""
    skip = LinearSkip(context_length=4, horizon=3)
    torch.nn.init.zeros_(skip.projection.weight)
    torch.testing.assert_close(skip(NEXT_TO_LAST, SEEN), torch.full((1, 3), 7.0))


def test_the_last_observed_value_of_a_window_without_any_is_its_oldest() -> None:
    """A finite number, which the mask then keeps from mattering."""
    assert last_observed(NEXT_TO_LAST, torch.zeros_like(SEEN)).item() == 4.0
