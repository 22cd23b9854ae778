"""Where a rolling-origin backtest forecasts from."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest

from training.data.panel import Panel
from training.data.splits import Splits
from training.errors import DataError
from training.origins import build_origins, target_rows


def panel_of(*observed):
    """The part of a panel that origins read: offsets and what was observed."""
    lengths = [len(rows) for rows in observed]
    return Mock(
        spec=Panel,
        ids=tuple(f"s{k}" for k in range(len(observed))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        observed=np.concatenate(observed).astype(bool),
    )


def splits_of(train_end, val_end, excluded=()):
    """Splits of which the lengths and the horizon do not matter here."""
    ends = np.array(train_end), np.array(val_end)
    return Splits(*ends, lengths=np.zeros(0, dtype=np.int64), horizon=1, excluded=dict.fromkeys(excluded, "short"))


def test_default_step_scores_every_test_row_once():
    """With a step of one horizon, the targets of all windows are the test rows, each exactly once."""
    panel = panel_of(np.ones(30))
    origins = build_origins(panel, splits_of([12], [18]), "test", horizon=4)
    rows, inside = target_rows(panel, origins.series, origins.cutoff, 4)
    assert sorted(rows.reshape(-1)) == list(range(18, 30))
    assert inside.all()


def test_windows_are_aligned_to_the_end_of_the_part():
    """A part of 11 rows holds two windows of 4, and it is its first three rows that no window scores."""
    origins = build_origins(panel_of(np.ones(31)), splits_of([12], [20]), "test", horizon=4)
    assert origins.cutoff.tolist() == [23, 27]


def test_val_targets_stay_inside_the_validation_rows():
    """Validation windows end where the test rows begin and start after the training rows."""
    origins = build_origins(panel_of(np.ones(40)), splits_of([20], [30]), "val", horizon=4, step_size=3)
    assert origins.cutoff.tolist() == [20, 23, 26]
    assert origins.part == "val"


def test_n_windows_keeps_the_newest():
    """Two windows of each series are its two latest, whatever its length."""
    panel = panel_of(np.ones(30), np.ones(20))
    origins = build_origins(panel, splits_of([10, 5], [15, 8]), "test", horizon=3, step_size=2, n_windows=2)
    assert origins.series.tolist() == [0, 0, 1, 1]
    assert origins.cutoff.tolist() == [25, 27, 15, 17]


def test_max_windows_thins_evenly_over_series():
    """A cap of three over nine windows of three series leaves the first, the middle and the last."""
    panel = panel_of(*[np.ones(20)] * 3)
    origins = build_origins(panel, splits_of([8] * 3, [14] * 3), "test", horizon=2, max_windows=3)
    assert list(zip(origins.series, origins.cutoff, strict=True)) == [(0, 14), (1, 16), (2, 18)]


def test_origin_without_history_is_left_out():
    """Where nothing was observed before the cutoff, there is nothing to forecast from; later origins stay."""
    late = np.r_[np.zeros(14), np.ones(6)]
    origins = build_origins(panel_of(np.ones(20), late), splits_of([8, 8], [12, 12]), "test", horizon=4)
    assert list(zip(origins.series, origins.cutoff, strict=True)) == [(0, 12), (0, 16), (1, 16)]


def test_the_first_observed_row_may_not_be_the_first_target():
    """A cutoff at the first observed row knows nothing yet; one row later it does."""
    first_seen_at_12 = np.r_[np.zeros(12), np.ones(8)]
    origins = build_origins(panel_of(first_seen_at_12), splits_of([8], [12]), "test", horizon=4, step_size=1)
    assert origins.cutoff.tolist() == [13, 14, 15, 16]


def test_series_too_short_for_the_part_has_no_window():
    """A series whose test rows are fewer than a horizon is skipped, the others are not."""
    origins = build_origins(panel_of(np.ones(20), np.ones(9)), splits_of([8, 5], [12, 7]), "test", horizon=4)
    assert set(origins.series.tolist()) == {0}


def test_series_excluded_from_training_are_not_scored():
    """What the splits excluded has no windows, however many rows it has."""
    splits = splits_of([8, 8], [12, 12], excluded=["s0"])
    assert set(build_origins(panel_of(np.ones(20), np.ones(20)), splits, "test", horizon=4).series.tolist()) == {1}


def test_part_that_holds_no_window_says_how_long_it_must_be():
    """The error names the key to set and the steps it needs."""
    with pytest.raises(DataError, match=r"data\.test_size: must leave at least 4 steps .* has 0 instead") as caught:
        build_origins(panel_of(np.ones(20)), splits_of([12], [20]), "test", horizon=4)
    assert caught.value.problems[0].remedy.startswith("Set data.test_size: 4")


def test_more_windows_than_fit_is_refused():
    """Asking for five windows where three fit is an error with the size that would do, not three windows in silence."""
    with pytest.raises(DataError, match=r"at least 20 steps for 5 window\(s\)"):
        build_origins(panel_of(np.ones(30)), splits_of([10], [18]), "test", horizon=4, n_windows=5)


def test_all_bad_arguments_are_named_together():
    """A step of zero and a cap of zero are both reported."""
    with pytest.raises(DataError) as caught:
        build_origins(panel_of(np.ones(9)), splits_of([2], [4]), "test", horizon=2, step_size=0, max_windows=0)
    assert [problem.where for problem in caught.value.problems] == ["step_size", "max_windows"]


def test_target_rows_never_read_the_next_series():
    """Targets past the end of a series are marked missing instead of borrowing from its neighbour in the store."""
    panel = panel_of(np.ones(5), np.ones(5))
    rows, inside = target_rows(panel, np.array([0]), np.array([4]), 3)
    assert inside.tolist() == [[True, False, False]]
    assert rows.max() == 4
