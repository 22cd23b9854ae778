"""Training, validation and test rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from training.config import DataConfig
from training.data.panel import Panel, build_panel
from training.data.splits import build_splits
from training.errors import DataError


def panel_of(*lengths: int) -> Panel:
    frames = [
        pd.DataFrame({"unique_id": f"s{i}", "ds": np.arange(n), "y": np.arange(n) * 1.0}) for i, n in enumerate(lengths)
    ]
    return build_panel(pd.concat(frames), DataConfig(freq="1"))


def test_sizes_count_from_the_end_of_every_series() -> None:
    """Test rows are the last, validation rows those before them, whatever the length."""
    splits = build_splits(panel_of(100, 60), horizon=5, val_size=20, test_size=10)
    assert splits.train_end.tolist() == [70, 30]
    assert splits.val_end.tolist() == [90, 50]
    assert splits.lengths.tolist() == [100, 60]
    assert splits.excluded == {}


def test_default_validation_is_a_tenth_and_at_least_a_horizon() -> None:
    """Null gives a tenth of a long series and one horizon of a short one."""
    splits = build_splits(panel_of(1000, 60), horizon=24)
    assert (splits.val_end - splits.train_end).tolist() == [100, 24]


def test_short_series_train_with_all_they_have() -> None:
    """A series that cannot spare validation rows gives them to training, and one without a window is named."""
    splits = build_splits(panel_of(100, 30, 12), horizon=12, val_size=20)
    assert splits.train_end.tolist() == [80, 30, 12]
    assert splits.val_end.tolist() == [100, 30, 12]
    assert list(splits.excluded) == ["s2"]
    assert "a window needs 13" in splits.excluded["s2"]
    assert any("'s1'" in note for note in splits.notes)
    assert any("'s2'" in note for note in splits.notes)


def test_test_rows_are_never_given_away() -> None:
    """However short a series is, its last test_size rows train and select nothing."""
    splits = build_splits(panel_of(200, 21, 7), horizon=4, test_size=10)
    assert splits.val_end.tolist() == [190, 11, 0]
    assert (splits.train_end <= splits.val_end).all()


def test_nothing_to_train_on_is_refused() -> None:
    """Only if no series has a window is the panel refused, with what to lower."""
    with pytest.raises(DataError, match=r"model.horizon") as caught:
        build_splits(panel_of(10, 8), horizon=10)
    assert caught.value.problems[0].code == "series_too_short"


def test_nothing_to_select_on_is_refused() -> None:
    """Without any validation window there is no early stopping; a val_size below the horizon says what it must be."""
    with pytest.raises(DataError, match="validation window"):
        build_splits(panel_of(12), horizon=8)
    with pytest.raises(DataError, match=r"Set data.val_size: 8"):
        build_splits(panel_of(100), horizon=8, val_size=3)
