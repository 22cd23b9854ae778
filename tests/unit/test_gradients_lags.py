"""Curves over lag: normalisation, reach, interpolation, and what a zero means."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.gradients.lags import build_curve, half_life_steps, host_norms, log_spaced_lags, reach_steps

LAGS = (1, 2, 3, 4, 5, 10, 20, 40, 80)


def curve(norms, dtype=torch.float32, cut_steps=None, lags=LAGS):
    return build_curve("lstm.0", "c", "loss", lags, norms, dtype, cut_steps)


def test_ratio_is_to_the_median_of_lags_one_to_five():
    """The unit is the median over lags 1-5, so one odd lag among them does not move the curve."""
    assert curve([2, 4, 1000, 4, 2, 1, 1, 1, 0.4]).ratio == pytest.approx((0.5, 1, 250, 1, 0.5, 0.25, 0.25, 0.25, 0.1))


@given(st.floats(min_value=1.5, max_value=200.0))
@settings(max_examples=50, deadline=None)
def test_reach_of_an_exponential_decay_is_exact(time_constant):
    """exp(-lag / T) falls to a thousandth of its value at lag 3 after 3 + T ln 1000 steps, cuts or not."""
    expected = 3 + time_constant * math.log(1000)
    reach = reach_steps(curve([math.exp(-lag / time_constant) for lag in LAGS]))
    assert reach == (80 if expected >= 80 else int(expected))
    assert half_life_steps(curve([math.exp(-lag / time_constant) for lag in LAGS])) == pytest.approx(
        time_constant * math.log(2)
    )


def test_reach_counts_the_last_lag_above_the_threshold():
    """A curve that dips and recovers reaches as far as its last lag above the threshold."""
    assert reach_steps(curve([1, 1, 1, 1, 1, 1e-5, 1e-2, 1e-3, 1e-9])) == 40
    assert reach_steps(curve([1] * 9)) == 80
    assert reach_steps(curve([1] * 8 + [math.inf])) == 80


def test_no_gradient_reaches_nowhere():
    """Zeros at lags 1-5 leave no unit: the ratio is NaN and the reach 0, and nothing is divided by zero."""
    dead = curve([0.0] * 9)
    assert all(math.isnan(value) for value in dead.ratio)
    assert reach_steps(dead) == 0
    assert math.isnan(half_life_steps(dead))


@pytest.mark.parametrize(
    ("dtype", "status"),
    [(torch.float16, "censored"), (torch.bfloat16, "censored"), (torch.float32, "measured")],
)
def test_a_zero_in_half_precision_is_censored(dtype, status):
    """An exact zero in float16 or bfloat16 only says 'too small to write'; in float32 it is small."""
    measured = curve([1, 1, 1, 1, 1, 1, 0.5, 0.0, 0.0], dtype)
    assert measured.status_at(40) == status
    assert measured.status_at(30) == status
    assert measured.status_at(10) == "measured"
    assert reach_steps(measured) == 20


def test_ratio_between_cuts_decays_exponentially():
    """At lag 30, halfway between 20 and 40, the ratio is the geometric mean; beyond the last lag there is none."""
    measured = curve([1, 1, 1, 1, 1, 1, 1e-2, 1e-4, 1e-6])
    assert measured.ratio_at(30) == pytest.approx(1e-3)
    assert measured.ratio_at(40) == pytest.approx(1e-4)
    assert measured.status_at(81) == "outside"
    assert math.isnan(measured.ratio_at(81))


@given(st.integers(min_value=1, max_value=3000), st.lists(st.integers(min_value=-5, max_value=4000), max_size=3))
@settings(max_examples=100, deadline=None)
def test_lags_increase_inside_of_the_context(context_length, marks):
    """Cuts are increasing, hold lags 1-5, the marks and the whole context where these fit, and stay few."""
    lags = log_spaced_lags(context_length, marks)
    assert list(lags) == sorted(set(lags))
    assert {lag for lag in (1, 2, 3, 4, 5, context_length, *marks) if 1 <= lag <= context_length} <= set(lags)
    assert lags[-1] == context_length
    assert len(lags) <= 12 + len(marks)


def test_norms_survive_extreme_numbers():
    """Squares of 1e-25 and 1e25 under- and overflow float32; the norms do not. A missing gradient counts as zero."""
    found = host_norms([torch.full((4,), 1e-25), None, torch.full((4,), 1e25), torch.zeros(2)])
    assert found == pytest.approx([2e-25, 0.0, 2e25, 0.0], rel=1e-6)
    assert host_norms([None, None]) == [0.0, 0.0]
