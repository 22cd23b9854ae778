"""Per-window scaling."""

from __future__ import annotations

import pytest
import torch

from models.scaling import RELATIVE_FLOOR, build_scaler, inverse

AFFINE = ("standard", "robust", "last", "revin")
ALL = (*AFFINE, "offset", "mean_abs", "none")


@pytest.fixture
def window() -> tuple[torch.Tensor, torch.Tensor]:
    """Values with one gap: observed 1, 2, 3, 6; the gap holds 999."""
    return torch.tensor([[1.0, 2.0, 999.0, 3.0, 6.0]]), torch.tensor([[True, True, False, True, True]])


@pytest.mark.parametrize(
    ("name", "loc", "scale"),
    [
        ("standard", 3.0, 3.5**0.5),  # mean of 1 2 3 6; variance (4 + 1 + 0 + 9) / 4
        ("mean_abs", 0.0, 3.0),
        ("robust", 2.5, (3.75 - 1.75) / 1.349),  # quartiles 1.75 and 3.75
        ("last", 6.0, (5 + 4 + 3 + 0) / 4),
        ("offset", 6.0, 1.0),
        ("revin", 3.0, 3.5**0.5),
        ("none", 0.0, 1.0),
    ],
)
def test_level_and_scale_are_those_worked_by_hand(
    window: tuple[torch.Tensor, torch.Tensor], name: str, loc: float, scale: float
) -> None:
    """Statistics use the observed values only."""
    result = build_scaler(name)(*window)
    assert result.loc.item() == pytest.approx(loc)
    assert result.scale.item() == pytest.approx(scale)


@pytest.mark.parametrize("name", ALL)
def test_what_was_not_observed_is_zero_and_has_no_influence(
    window: tuple[torch.Tensor, torch.Tensor], name: str
) -> None:
    """The value in a gap, even NaN, changes nothing."""
    context, observed = window
    scaler = build_scaler(name)
    other = torch.where(observed, context, torch.nan)
    first, second = scaler(context, observed), scaler(other, observed)
    assert first.scaled[0, 2] == 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("level", [0.0, 1e-3, 45.0, 1e9])
def test_a_constant_window_does_not_explode(name: str, level: float) -> None:
    """The scale is floored relative to the level, and the scaled window stays small."""
    context = torch.full((1, 8), level)
    result = build_scaler(name)(context, torch.ones(1, 8, dtype=torch.bool))
    assert torch.isfinite(result.scaled).all()
    if name != "none":
        assert result.scale.item() >= RELATIVE_FLOOR * level * 0.999  # float32
        assert result.scaled.abs().max() <= 1.0


@pytest.mark.parametrize("name", ALL)
def test_a_window_without_values_has_scale_one(name: str) -> None:
    """Nothing observed: level 0, scale 1, all zeros."""
    result = build_scaler(name)(torch.full((2, 4), torch.nan), torch.zeros(2, 4, dtype=torch.bool))
    assert torch.equal(result.scaled, torch.zeros(2, 4))
    assert torch.equal(result.loc, torch.zeros(2, 1))
    assert torch.equal(result.scale, torch.ones(2, 1))


@pytest.mark.parametrize("name", AFFINE)
def test_scaled_windows_do_not_depend_on_the_unit(name: str) -> None:
    """Celsius or Fahrenheit: the network sees the same."""
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(16, 30, generator=generator, dtype=torch.float64) * 4 + 20
    observed = torch.rand(16, 30, generator=generator) > 0.2
    scaler = build_scaler(name).double()
    plain, converted = scaler(context, observed), scaler(context * 1.8 + 32, observed)
    torch.testing.assert_close(converted.scaled, plain.scaled)
    torch.testing.assert_close(converted.scale, plain.scale * 1.8)
    torch.testing.assert_close(converted.loc, plain.loc * 1.8 + 32)


@pytest.mark.parametrize("name", ALL)
def test_scaling_and_undoing_it_returns_the_values(name: str) -> None:
    """Forward, then the learned part undone, then inverse, is the identity where observed, whatever was learned."""
    scaler = build_scaler(name).double()
    for parameter in scaler.parameters():
        torch.nn.init.constant_(parameter, 0.3)
    context = torch.randn(4, 12, dtype=torch.float64) * 5 + 7
    window = scaler(context, torch.ones(4, 12, dtype=torch.bool))
    restored = inverse(scaler.undo_learned(window.scaled[..., None]), window.loc, window.scale)[..., 0]
    torch.testing.assert_close(restored, context)


def test_robust_scale_does_not_vanish_between_spikes() -> None:
    """Mostly constant with one spike: the interquartile range is 0, the scale is not."""
    context = torch.zeros(1, 20)
    context[0, 7] = 100.0
    result = build_scaler("robust")(context, torch.ones(1, 20, dtype=torch.bool))
    assert result.scaled.abs().max() < 50
