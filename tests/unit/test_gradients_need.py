"""Need on processes whose memory is known."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from training.gradients.known_future import distinct_rows, fit_static_map
from training.gradients.need import NeedWindows, _combine, estimate_need
from training.gradients.need_ridge import NestedRidge
from training.gradients.season import autocorrelation, find_seasons

LENGTH, HORIZON = 96, 6


def cut_windows(y, past=None, num_known: int = 0, length: int = LENGTH, horizon: int = HORIZON) -> NeedWindows:
    """Every window of one series, in the order of time; the first `num_known` channels are known for the future."""
    views = y.unfold(0, length + horizon, 1)
    rows = torch.zeros(len(y), 0) if past is None else past
    covariates = rows.unfold(0, length + horizon, 1).transpose(1, 2) if rows.shape[1] else y.new_zeros(*views.shape, 0)
    everywhere = torch.ones(views.shape, dtype=torch.bool)
    return NeedWindows(
        views[:, :length], everywhere[:, :length], views[:, length:], everywhere[:, length:],
        covariates[:, :length], covariates[:, length:, :num_known],
    )  # fmt: skip


def noise(count: int, seed: int = 0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def recursive(lag: int, strength: float, count: int = 3000):
    """y_t = strength * y_{t - lag} + noise."""
    y = noise(count)
    for step in range(lag, count):
        y[step] += strength * y[step - lag]
    return y


def hourly(count: int = 3000):
    """A sharp daily profile that differs on two days of seven, with a little noise."""
    hour, day = torch.arange(count) % 8, torch.arange(count) // 8 % 7
    profile = torch.randn(2, 8, generator=torch.Generator().manual_seed(5))
    return profile[(day >= 5).long(), hour] + 0.1 * noise(count), hour, day


@pytest.mark.parametrize("lag", [12, 40, 77])
def test_need_is_the_lag_of_the_process(lag):
    """A process that depends on exactly one lag, further back than the horizon, needs that lag, to a tenth."""
    need = estimate_need(cut_windows(recursive(lag, 0.95)))
    assert lag - HORIZON <= need.steps <= 1.1 * lag + 1
    assert need.is_shown
    assert need.evidence["gain"] > 0.2


def test_season_is_needed_as_a_whole():
    """With horizon 6 the last step of a season of 40 lies only 35 steps back for some targets; all 40 are needed."""
    t = torch.arange(3000)
    shape = torch.randn(40, generator=torch.Generator().manual_seed(1))
    need = estimate_need(cut_windows(shape[t % 40] + 0.3 * noise(3000)), season_length=40)
    assert need.steps == 40
    assert need.source in ("season", "ridge")
    assert need.evidence["season_steps"] == 40


@pytest.mark.parametrize(
    ("sufficient", "error_of_season", "expected"),
    [
        (36, 0.5, 40),  # holds the season of the last forecast steps only
        (33, 0.5, 33),  # with horizon 6, 33 steps back is no part of a season of 40
        (90, 0.12, 40),  # one season brings 0.88 of 0.90: the rest is averaging
        (90, 0.2, 90),  # one season brings too little
    ],
)
def test_a_need_is_rounded_to_the_season_it_stands_for(sufficient, error_of_season, expected):
    """Just short of a season means that season, and so does far beyond it where one season brings 95 % of the gain."""
    errors = {0: 1.0, 40: error_of_season, 96: 0.1}
    ridge = SimpleNamespace(block_errors=lambda steps: torch.tensor([errors[steps]]), errors=lambda: errors)
    assert _combine(ridge, sufficient, [40], horizon=6) == expected


def test_white_noise_needs_nothing():
    """Where nothing can be forecast no need is shown, and a short reach can be no fault."""
    need = estimate_need(cut_windows(noise(3000)))
    assert need.steps == 1
    assert not need.is_shown


def test_short_memory_needs_little():
    """An AR(1) of 0.7 is forgotten within a few steps."""
    assert estimate_need(cut_windows(recursive(1, 0.7))).steps <= 4


def test_a_level_that_the_scaler_hands_over_needs_no_memory():
    """Series at levels a thousand apart with white noise around them show no need: the scaler knows the level."""
    levels = 1000.0 * torch.arange(30.0)
    parts = [cut_windows(level + noise(200, seed)) for seed, level in enumerate(levels)]
    windows = NeedWindows(*(torch.cat(part)[torch.randperm(30 * 99)] for part in zip(*parts, strict=True)))
    assert not estimate_need(windows).is_shown


def test_a_calendar_removes_the_need():
    """A weekly profile needs a week of 56 steps; with hour and weekday as sines and cosines known ahead, nearly none."""
    y, hour, day = hourly()
    angles = 2 * torch.pi * torch.stack((hour / 8, day / 7), dim=1)
    calendar = torch.cat((angles.sin(), angles.cos()), dim=1)
    without, with_calendar = estimate_need(cut_windows(y)), estimate_need(cut_windows(y, calendar, num_known=4))
    assert 40 < without.steps <= 62
    assert without.is_shown
    assert with_calendar.steps < 10
    assert not with_calendar.is_shown


def test_what_the_calendar_leaves_over_is_all_that_counts():
    """An AR(1) on top of a weekly profile needs a few steps once the calendar explains the profile, in the past too."""
    profile, hour, day = hourly()
    angles = 2 * torch.pi * torch.stack((hour / 8, day / 7), dim=1)
    calendar = torch.cat((angles.sin(), angles.cos()), dim=1)
    need = estimate_need(cut_windows(2 * profile + recursive(1, 0.95), calendar, num_known=4, horizon=1))
    assert need.steps <= 4
    assert need.is_shown
    assert need.evidence["error_full"] < 0.5 * need.evidence["error_without"]


def test_need_through_a_past_covariate_is_seen():
    """y_t = x_{t-30} with white x: y alone shows no need, with x among the past covariates it is about 30."""
    x = noise(3000)
    y = x.roll(30) + 0.1 * noise(3000, 1)
    assert not estimate_need(cut_windows(y)).is_shown
    need = estimate_need(cut_windows(y, torch.stack((noise(3000, 2), x), dim=1)))
    assert 30 - HORIZON <= need.steps <= 36
    assert need.is_shown


def test_missing_values_leave_the_need_where_it_is():
    """With a third of the values missing, the season of 40 is found, whatever is written in the gaps; a second season
    back pays now, because it stands in where the first is missing.
    """
    t = torch.arange(3000)
    y = torch.randn(40, generator=torch.Generator().manual_seed(1))[t % 40] + 0.3 * noise(3000)
    windows = cut_windows(y)
    gone = torch.rand(3000, generator=torch.Generator().manual_seed(2)).unfold(0, LENGTH + HORIZON, 1) < 1 / 3
    windows = windows._replace(
        context=torch.where(gone[:, :LENGTH], 1e6, windows.context), observed_mask=~gone[:, :LENGTH],
        target=torch.where(gone[:, LENGTH:], -1e6, windows.target), target_mask=~gone[:, LENGTH:],
    )  # fmt: skip
    need = estimate_need(windows)
    assert need.evidence["season_steps"] == 40
    assert 36 <= need.steps <= 88
    zeros = windows._replace(context=torch.where(gone[:, :LENGTH], 0.0, windows.context))
    assert estimate_need(zeros) == need


def test_a_declared_need_is_taken_at_its_word():
    """With a declared need nothing is estimated, and it counts as shown."""
    need = estimate_need(cut_windows(noise(300)), declared=77)
    assert (need.steps, need.source, need.errors, need.is_shown) == (77, "declared", (), True)


def test_few_windows_fall_back_on_the_season():
    """With too few windows for a regression the season is taken, and not called shown."""
    t = torch.arange(LENGTH + HORIZON + 20)
    need = estimate_need(cut_windows(torch.sin(2 * torch.pi * t / 16) + 0.1 * noise(len(t))))
    assert (need.steps, need.source, need.is_shown) == (16, "season", False)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_constant_series_needs_nothing(value):
    """No spread, no error, no division by zero."""
    need = estimate_need(cut_windows(torch.full((400,), value)))
    assert need.steps == 1
    assert not need.is_shown


def test_the_same_windows_give_the_same_need():
    """Estimating twice gives identical numbers and leaves the global generator alone."""
    y, hour, day = hourly(800)
    windows = cut_windows(y, torch.stack((hour, day), dim=1).float(), num_known=2)
    before = torch.get_rng_state()
    assert estimate_need(windows) == estimate_need(windows)
    assert torch.equal(before, torch.get_rng_state())


def test_a_hundred_thousand_windows_take_seconds():
    """Need of 100,000 windows of 336 steps is a matter of seconds."""
    windows = cut_windows(noise(100_360), length=336, horizon=24)
    started = time.perf_counter()
    estimate_need(windows)
    assert time.perf_counter() - started < 20


def test_nested_ridge_is_a_plain_ridge_on_each_context():
    """The block of the big matrix of products gives the very regression that a fit on that context alone gives."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 6, 2, generator=generator, dtype=torch.float64)
    target = features[:, 0, :1] * 2 + features[:, 4, 1:] + 0.1 * torch.randn(500, 1, generator=generator)
    ridge = NestedRidge(features, target, torch.ones_like(target), 400)
    for steps in (1, 3, 6):
        x, tested = features[:400, :steps].flatten(1), features[400:, :steps].flatten(1)
        errors = []
        for penalty in (1e-3, 1e-2, 1e-1, 1.0):
            weights = torch.linalg.solve(x.T @ x + 400 * penalty * torch.eye(2 * steps), x.T @ target[:400])
            errors.append(float((target[400:] - tested @ weights).abs().mean()))
        assert float(ridge.block_errors(steps).mean()) == pytest.approx(min(errors), rel=1e-9)
    assert float(ridge.block_errors(0).mean()) == pytest.approx(float(target[400:].abs().mean()))


def test_autocorrelation_equals_sums_over_pairs():
    """The spectral autocorrelation is the mean over observed pairs, divided by the variance."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 17, generator=generator, dtype=torch.float64)
    observed = torch.rand(5, 17, generator=generator) > 0.3
    values = torch.where(observed, values, 0.0)
    found = autocorrelation(values, observed)
    for lag in (0, 1, 7):
        pairs = observed[:, : 17 - lag] & observed[:, lag:]
        expected = (values[:, : 17 - lag] * values[:, lag:])[pairs].mean() / values[observed].square().mean()
        assert float(found[lag]) == pytest.approx(float(expected), rel=1e-9)


def test_a_season_is_not_mistaken_for_its_multiple():
    """A period of 12 is found as 12 although 24 and 36 correlate as well; noise has no season."""
    t = torch.arange(96)
    wave = torch.sin(2 * torch.pi * (t + torch.arange(50)[:, None]) / 12)
    everywhere = torch.ones(50, 96, dtype=torch.bool)
    assert find_seasons(wave, everywhere)[0].steps == 12
    assert find_seasons(noise(50 * 96).view(50, 96), everywhere) == ()


def test_distinct_rows_restore_every_row():
    """Repeated covariates are evaluated once and every row finds its own."""
    rows = torch.randint(0, 3, (200, 4), generator=torch.Generator().manual_seed(0)).float()
    distinct, position = distinct_rows(rows)
    assert len(distinct) == len(rows.unique(dim=0))
    assert torch.equal(distinct[position], rows)


def test_static_map_learns_a_product_and_ignores_a_constant():
    """A product of two covariates, linear in neither, is learned; a covariate that never changes does no harm."""
    generator = torch.Generator().manual_seed(0)
    covariates = torch.randn(400, 10, 3, generator=generator)
    covariates[..., 2] = 7.0
    values = covariates[..., 0] * covariates[..., 1]
    static_map = fit_static_map(covariates, values, torch.ones_like(values, dtype=torch.bool))
    explained = static_map(covariates.flatten(0, 1)).view(400, 10)
    assert float((values - explained).square().mean() / values.square().mean()) < 0.1
