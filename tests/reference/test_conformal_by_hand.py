"""Conformal calibration against ranks worked by hand and against the coverage it promises."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.config import LinearConfig, LSTMConfig
from models.conformal import SplitConformal
from models.forecaster import ForecastInputs
from models.registry import build_forecaster
from training.adaptive_conformal import adapt_intervals
from training.backtest import BacktestResult
from training.conformal import Errors, conformal_rank, conformal_shift, lending_neighbours, min_errors
from training.metrics import coverage
from training.origins import Origins

LEVELS = (0.1, 0.5, 0.9)


@pytest.mark.parametrize(
    ("count", "level", "rank"), [(9, 0.9, 9), (9, 0.1, 1), (19, 0.9, 18), (19, 0.1, 2), (99, 0.75, 75), (10, 0.9, 10)]
)
def test_rank_by_hand(count, level, rank):
    """Of 19 errors the 18th is the upper shift at 0.9: (19 + 1) * 0.9; the lower one at 0.1 is its mirror, the 2nd."""
    assert conformal_rank(count, level) == rank


def test_shift_by_hand_is_the_ranked_error_of_its_step_and_nothing_at_the_median():
    """With errors 1 to 19 at step 1 and ten times that at step 2: 2 and 18, 20 and 180, and the median stays."""
    values = np.arange(1.0, 20.0)[:, None, None] * np.array([1.0, 10.0])[None, :, None] * np.ones(3)
    errors = Errors(values, np.ones((19, 2), dtype=bool))
    np.testing.assert_allclose(conformal_shift(errors, LEVELS, 0), [[2, 0, 18], [20, 0, 180]])


def test_steps_with_few_errors_borrow_from_their_neighbours():
    """Forty windows of five steps: a step needs one neighbour on either side for a hundred, at the edge two."""
    mask = np.ones((40, 5), dtype=bool)
    errors = Errors(np.zeros((40, 5, 3)), mask)
    assert lending_neighbours(errors, LEVELS) == 2
    assert lending_neighbours(Errors(np.zeros((100, 5, 3)), np.ones((100, 5), dtype=bool)), LEVELS) == 0
    assert lending_neighbours(Errors(np.zeros((4, 2, 3)), np.ones((4, 2), dtype=bool)), LEVELS) is None
    assert (min_errors(LEVELS), min_errors((0.025, 0.975))) == (9, 39)


def test_a_calibrated_interval_covers_what_it_says_on_new_windows():
    """Quantiles that are far too narrow hold 80 % of fresh exchangeable windows once shifted, in every step."""
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 2.0, 4.0])
    covered = []
    for _ in range(200):
        calibration = rng.normal(0.5, 1.0, (60, 3)) * scales
        quantiles = np.array([-0.1, 0.0, 0.1])
        errors = Errors(calibration[..., None] - quantiles, np.ones((60, 3), dtype=bool))
        shift = conformal_shift(errors, LEVELS, 0)
        fresh = rng.normal(0.5, 1.0, (50, 3)) * scales
        covered.append(coverage(fresh, *(np.broadcast_to(quantiles[k] + shift[:, k], fresh.shape) for k in (0, 2))))
    assert np.mean(covered) == pytest.approx(0.8, abs=0.02)


def test_the_shift_is_in_units_of_the_windows_scale_and_keeps_the_order():
    """A window of scale 3 is shifted by thrice the shift; a lower level pushed over the median stops at it."""
    calibration = SplitConformal(2, LEVELS)
    calibration.set_shift(torch.tensor([[-1.0, 0.0, 2.0], [5.0, 0.0, -5.0]]))
    quantiles = torch.tensor([[[9.0, 10.0, 11.0], [9.0, 10.0, 11.0]]])
    expected = [[[6.0, 10.0, 17.0], [10.0, 10.0, 10.0]]]
    assert calibration(quantiles, torch.tensor([[3.0]])).tolist() == expected


@pytest.mark.parametrize("head", ["point", "quantile"])
@pytest.mark.parametrize("kind", [LinearConfig, LSTMConfig])
def test_uncalibrated_shifts_change_nothing_and_a_point_gets_quantiles(kind, head):
    """With zero shifts the quantile head forecasts as without calibration; a point head repeats its point at every level."""
    forecasts = []
    for conformal in ("none", "split"):
        torch.manual_seed(0)
        config = kind(context_length=6, horizon=3, head=head, quantile_levels=LEVELS, conformal=conformal)
        network = build_forecaster(config).eval()
        window = torch.arange(12.0).view(2, 6)
        inputs = (window, torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 6, 0), torch.zeros(2, 3, 0), torch.zeros(2, 0))
        forecasts.append(network(ForecastInputs(*inputs)))
        assert forecasts[-1].shape[-1] == len(config.output_levels)
    assert torch.equal(forecasts[1], forecasts[0].expand(-1, -1, 3))


def drifting(rate, jump_at=400, rounds=1200):
    """Errors whose spread doubles on the way: a round is one window of one step, calibrated on the calm part."""
    rng = np.random.default_rng(3)
    spread = np.where(np.arange(rounds) < jump_at, 1.0, 2.0)
    y = (rng.normal(0, 1, rounds) * spread)[:, None].astype(np.float32)
    origins = Origins(np.zeros(rounds, np.int64), np.arange(rounds), 1, 1, "test", np.arange(rounds)[::-1].copy())
    result = BacktestResult(
        panel=SimpleNamespace(), origins=origins, quantile_levels=LEVELS, y=y, observed=np.ones((rounds, 1), bool),
        quantiles=np.zeros((rounds, 1, 3), np.float32), baseline_forecasts={}, scale=None, demand=None,
    )  # fmt: skip
    errors = Errors(rng.normal(0, 1, (2000, 1, 1)).repeat(3, axis=2), np.ones((2000, 1), bool))
    return result, adapt_intervals(result, np.ones(rounds), errors, rate)


def test_adaptive_intervals_follow_a_drift_that_split_ones_do_not():
    """Both hold 80 % while errors are as calibrated; once their spread doubles, split intervals hold 48 %, adaptive ones 80 %."""
    covered = {}
    for rate in (0.0, 0.05):
        result, adapted = drifting(rate)
        covered[rate] = [
            coverage(result.y[part], adapted.quantiles[part, :, 0], adapted.quantiles[part, :, 2])
            for part in (slice(0, 400), slice(500, None))
        ]
    assert covered[0.0] == [pytest.approx(0.8, abs=0.05), pytest.approx(0.48, abs=0.05)]
    assert covered[0.05] == [pytest.approx(0.8, abs=0.05), pytest.approx(0.8, abs=0.05)]


def test_an_adaptive_interval_learns_from_what_was_known_alone():
    """Targets of the last rounds are replaced: no quantile before the first of them has become known moves."""
    result, adapted = drifting(0.1)
    spoilt = result.y.copy()
    spoilt[200:] = 1e6
    errors = Errors(np.random.default_rng(1).normal(0, 1, (500, 1, 1)).repeat(3, axis=2), np.ones((500, 1), bool))
    ones = np.ones(1200)
    plain = adapt_intervals(result, ones, errors, 0.1).quantiles
    other = adapt_intervals(replace(result, y=spoilt), ones, errors, 0.1).quantiles
    np.testing.assert_array_equal(plain[:201], other[:201])
    assert (plain[201:] != other[201:]).any()
    assert (adapted.quantiles[..., 1] == 0).all()
